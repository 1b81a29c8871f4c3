"""Reports to observers what becomes of the tokens of one client."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from keystay.assertion import decode_unverified
from keystay.concurrency.clock import SYSTEM_CLOCK
from keystay.errors import KeystayError
from keystay.http.server_text import correlation_id
from keystay.observers.events import (
    ClockSkewed,
    RequestRetried,
    TokenFailed,
    TokenInvalidated,
    TokenIssued,
    TokenRenewed,
)

if TYPE_CHECKING:
    from keystay.concurrency.clock import Clock
    from keystay.http.io import IO
    from keystay.http.messages import HttpResponse
    from keystay.observers.dispatch import Observers
    from keystay.observers.events import Event
    from keystay.signer import Signer
    from keystay.token_stores.access_token import AccessToken

__all__ = ["RequestFacts", "TokenEvents"]


class RequestFacts(msgspec.Struct):
    """What is known of one token request, as far as it has come.

    Attributes:
        signer: Signs its assertion; its observers are told.
        began: When, by the client's clock.
        audience: The token endpoint.
        assertion: The signed assertion: a credential. Only its `jti` is reported.
        request_id: The backend's id of the request that signed it.
        response: The server's answer.
    """

    signer: Signer
    began: float
    audience: str | None = None
    assertion: str | None = None
    request_id: str | None = None
    response: HttpResponse | None = None

    def __repr__(self) -> str:
        return f"<RequestFacts {self.audience}>"


class TokenEvents:
    """Emits the events of one client's tokens; each costs nothing that nobody wants.

    Args:
        client_id: Whose.
        fhir_base_url: At which server.
        observers: Who are told; those of a request's signer, where one signs.
        clock: Measures how long things take.
    """

    def __init__(
        self,
        client_id: str,
        fhir_base_url: str,
        observers: Observers,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.observers, self._now = observers, clock.now
        self._client = {"client_id": client_id, "fhir_base_url": fhir_base_url}

    async def issued(self, io: IO, facts: RequestFacts, token: AccessToken) -> None:
        """A request brought a token.

        Raises:
            ObserverError: A required observer failed: the token is not to be used.
        """
        if facts.signer.observers.wants(TokenIssued):
            known = self._known(facts, scope=token.scope, expires_in=token.lifetime)
            event = TokenIssued(**known)  # type: ignore[arg-type]
            await io.run(partial(facts.signer.observers.emit, event))

    async def failed(self, io: IO, facts: RequestFacts, error: BaseException) -> None:
        """A request brought none."""
        observers = facts.signer.observers
        if not observers.wants(TokenFailed):
            return
        refused = getattr(error, "error", None) or None
        known = self._known(facts, outcome=_outcome(error), error=refused)
        emit = partial(observers.emit, TokenFailed(**known))  # type: ignore[arg-type]
        if isinstance(error, Exception):
            await io.run(emit)
        else:  # cancelled or interrupted: this task can wait for nothing any more
            emit()

    async def renewed(
        self,
        io: IO,
        token: AccessToken,
        *,
        held: float,
        from_store: bool,
        seconds: float,
    ) -> None:
        """There is a new token to keep.

        Args:
            io: Runs the observers.
            token: The token.
            held: Seconds that the token kept before would still live.
            from_store: Whether another process had got it.
            seconds: How long it took.

        Raises:
            ObserverError: A required observer failed: the token is not to be used.
        """
        emit = partial(
            self._emit,
            TokenRenewed,
            held=held,
            expires_in=round(token.expires_in, 3),
            source="store" if from_store else "server",
            duration=round(seconds, 6),
        )
        await io.run(emit)

    def renewal_failed(self, error: BaseException, *, held: float, seconds: float) -> None:
        """A renewal brought no token."""
        duration = round(seconds, 6)
        self._emit(TokenRenewed, held=held, outcome=_outcome(error), duration=duration)

    def retried(self, error: KeystayError, attempt: int, pause: float) -> None:
        """A request failed and will be made once more."""
        self._emit(RequestRetried, outcome=error.code, attempt=attempt, pause=round(pause, 3))

    def clock_skewed(self, offset: float, corrected: bool) -> None:
        """The server's clock differs, or no longer does."""
        self._emit(ClockSkewed, offset=round(offset, 3), corrected=corrected)

    def invalidated(self, token: AccessToken) -> None:
        """A token was dropped before its time."""
        self._emit(TokenInvalidated, expires_in=round(token.expires_in, 3))

    def _emit(self, kind: type[Event], **facts: object) -> None:
        if self.observers.wants(kind):
            self.observers.emit(kind(**self._client, **facts))  # type: ignore[arg-type]

    def _known(self, facts: RequestFacts, **more: object) -> dict[str, object]:
        signer, assertion, response = facts.signer, facts.assertion, facts.response
        return {
            **self._client,
            "backend": signer.backend,
            "kid": signer.kid,
            "algorithm": signer.algorithm,
            "custody": signer.custody.location,
            "aud": facts.audience,
            "jti": None if assertion is None else decode_unverified(assertion)[1]["jti"],
            "request_id": facts.request_id,
            "status": None if response is None else response.status,
            "correlation_id": None if response is None else correlation_id(response),
            "duration": round(self._now() - facts.began, 6),
            **more,
        }


def _outcome(error: BaseException) -> str:
    return error.code if isinstance(error, KeystayError) else type(error).__name__
