"""Tells observers what becomes of the tokens of one client."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from keystay.assertion import decode_unverified
from keystay.concurrency.clock import now
from keystay.errors import KeystayError
from keystay.http.messages import HttpRequest, HttpResponse
from keystay.observers.events import (
    ClockSkewed,
    RequestRetried,
    TokenFailed,
    TokenInvalidated,
    TokenIssued,
    TokenRenewed,
)
from keystay.tokens.actions import BuildAssertion, Call, Flow
from keystay.tokens.refusal import correlation_id

if TYPE_CHECKING:
    from keystay.observers.dispatch import Observers
    from keystay.observers.events import Event
    from keystay.signer import Signer
    from keystay.token_stores.access_token import AccessToken

__all__ = ["TokenWitness"]


class TokenWitness:
    """Sees what happens to one client's tokens.

    Args:
        client_id: Whose.
        fhir_base_url: At which server.
        observers: Whom to tell.
    """

    def __init__(self, client_id: str, fhir_base_url: str, observers: Observers) -> None:
        self._observers = observers
        self._client = {"client_id": client_id, "fhir_base_url": fhir_base_url}

    def request(self, flow: Flow[AccessToken], signer: Signer) -> Flow[AccessToken]:
        """A flow that asks for one token with one assertion, watched.

        Args:
            flow: The flow.
            signer: Signs its assertion, and says who is told.

        Raises:
            ObserverError: A required observer failed: the token is not to be used.
        """
        observers = signer.observers
        if not (observers.wants(TokenIssued) or observers.wants(TokenFailed)):
            return (yield from flow)
        began = now()
        facts: dict[str, Any] = dict(
            self._client,
            backend=signer.backend,
            kid=signer.kid,
            algorithm=signer.algorithm,
            custody=signer.custody.location,
        )
        try:
            token = yield from _noting(flow, facts)
        except BaseException as error:
            facts |= {
                "outcome": _code(error),
                "error": getattr(error, "error", None) or None,
                "duration": round(now() - began, 6),
            }
            failed = TokenFailed(**facts)
            if isinstance(error, Exception):
                yield Call(partial(observers.emit, failed))
            else:  # cancelled or interrupted: nothing more can be asked of the shell
                observers.emit(failed)
            raise
        facts |= {
            "scope": token.scope,
            "expires_in": token.lifetime,
            "duration": round(now() - began, 6),
        }
        yield Call(partial(observers.emit, TokenIssued(**facts)))
        return token

    def renewal(
        self,
        flow: Flow[AccessToken],
        held: AccessToken | None,
        is_taken: Callable[[AccessToken], bool],
    ) -> Flow[AccessToken]:
        """A flow that gets the token to keep, watched.

        Args:
            flow: The flow.
            held: The token kept so far.
            is_taken: Whether another process had got a token.
        """
        if not self._observers.wants(TokenRenewed):
            return (yield from flow)
        began, left = now(), 0.0 if held is None else held.expires_in
        try:
            token = yield from flow
        except BaseException as error:
            self._emit(
                TokenRenewed, held=left, outcome=_code(error), duration=round(now() - began, 6)
            )
            raise
        if token is not held:
            tell = partial(
                self._emit,
                TokenRenewed,
                held=left,
                expires_in=round(token.expires_in, 3),
                source="store" if is_taken(token) else "server",
                duration=round(now() - began, 6),
            )
            yield Call(tell)
        return token

    def retried(self, error: KeystayError, attempt: int, pause: float) -> None:
        """A request failed and will be made once more."""
        self._emit(RequestRetried, outcome=error.code, attempt=attempt, pause=round(pause, 3))

    def skewed(self, offset: float, corrected: bool) -> None:
        """The server's clock differs, or no longer does."""
        self._emit(ClockSkewed, offset=round(offset, 3), corrected=corrected)

    def invalidated(self, token: AccessToken) -> None:
        """A token was dropped before its time."""
        self._emit(TokenInvalidated, expires_in=round(token.expires_in, 3))

    def _emit(self, kind: type[Event], **facts: Any) -> None:
        if self._observers.wants(kind):
            told: dict[str, Any] = self._client | facts
            self._observers.emit(kind(**told))


def _noting(flow: Flow[AccessToken], facts: dict[str, Any]) -> Flow[AccessToken]:
    """A flow as it is, with what its actions tell of the request noted in `facts`."""
    try:
        action = next(flow)
        while True:
            try:
                answer = yield action
            except BaseException as error:  # noqa: BLE001 - the flow's to raise again
                action = flow.throw(error)
                continue
            if isinstance(action, BuildAssertion):
                facts["aud"] = action.audience
                jwt, facts["request_id"] = answer
                facts["jti"] = decode_unverified(jwt)[1]["jti"]
            elif isinstance(action, HttpRequest) and isinstance(answer, HttpResponse):
                facts["status"] = answer.status
                facts["correlation_id"] = correlation_id(answer)
            action = flow.send(answer)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]
    finally:
        flow.close()


def _code(error: BaseException) -> str:
    return error.code if isinstance(error, KeystayError) else type(error).__name__
