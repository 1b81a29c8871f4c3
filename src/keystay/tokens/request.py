"""One token request: an assertion is signed and posted, and the answer is read.

Everything here happens once for each try; `keystay.tokens.retry` decides whether there is another.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from keystay.concurrency.clock import SYSTEM_CLOCK
from keystay.errors import NetworkError, TokenResponseError
from keystay.http.messages import HttpRequest, HttpResponse
from keystay.http.server_text import correlation_id
from keystay.observers.dispatch import EVENTS_LOG
from keystay.observers.events import TokenIssued
from keystay.signer import Signer
from keystay.smart.scopes import normalise
from keystay.token_stores.access_token import AccessToken
from keystay.tokens.events import RequestFacts
from keystay.tokens.refusal import refusal

if TYPE_CHECKING:
    from keystay.assertion import ClientAssertion
    from keystay.concurrency.clock import Clock
    from keystay.http.io import IO
    from keystay.smart.scopes import ScopeStyle
    from keystay.tokens.endpoint import DiscoveredEndpoint
    from keystay.tokens.events import TokenEvents
    from keystay.tokens.key_state.signers import SignerSource
    from keystay.tokens.server_clock import ServerClock

__all__ = ["TokenRequest"]

logger = logging.getLogger("keystay.tokens")

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# What may stand in a header (RFC 6750 §2.1 allows less, servers send more).
_HEADER_SAFE = re.compile(r"[\x21-\x7e]+\Z")
_MAX_LIFETIME = 10 * 365 * 86400
# Seconds for which a granted token says that client, key and endpoint fit together.
_TODAY = 86400.0


class TokenRequest:
    """Asks for tokens of one client, each time with a fresh assertion.

    Args:
        assertion_for: Makes the assertion's builder for a signer.
        signer: Signs, or gives the signer to use now.
        scope: Normalised scopes.
        scope_style: How `system/` scopes are sent.
        token_endpoint: Skips discovery when given.
        discovered: Where to ask otherwise.
        server_clock: The server's, by which assertions are stamped; learns from the answers.
        events: Told what comes of it.
        clock: Measures the tokens' lives.
    """

    def __init__(
        self,
        assertion_for: Callable[[Signer], ClientAssertion],
        signer: Signer | SignerSource,
        *,
        scope: str,
        scope_style: ScopeStyle,
        token_endpoint: str | None,
        discovered: DiscoveredEndpoint,
        server_clock: ServerClock,
        events: TokenEvents,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._assertion_for = assertion_for
        self._rotating = None if isinstance(signer, Signer) else signer
        self._assertion = assertion_for(signer if isinstance(signer, Signer) else signer.signer)
        self._scope, self._style = scope, scope_style
        self._configured, self._discovered = token_endpoint, discovered
        self._server_clock, self._events, self._clock = server_clock, events, clock
        self._worked: dict[tuple[str, str], float] = {}

    async def request(
        self,
        io: IO,
        sending: Callable[[], object],
        *,
        scope: str | None = None,
        signer: Signer | None = None,
    ) -> AccessToken:
        """Ask once.

        Args:
            io: Signs and sends.
            sending: Called when the token request is about to be sent.
            scope: Instead of the client's.
            signer: Instead of the client's.

        Raises:
            TokenRefusedError: The server refused.
            TokenResponseError: It granted in a form that cannot be used.
            ObserverError: A required observer failed: the token is not to be used.
            KeystayError: Before it came to that.
        """
        asked = self._scope if scope is None else normalise(scope)
        rotating = self._rotating
        if rotating is None:
            assertion = self._assertion if signer is None else self._assertion_for(signer)
            return await self._reported(io, sending, assertion, asked)
        if signer is not None:
            await rotating.check(signer, io)
            return await self._reported(io, sending, self._assertion_for(signer), asked)
        await io.run(partial(rotating.refresh, io.deadline), io.deadline.remaining)
        with rotating.lease() as current:
            await rotating.check(current, io)
            assertion = self._assertion
            if assertion.signer is not current:
                self._assertion = assertion = self._assertion_for(current)
            return await self._reported(io, sending, assertion, asked)

    async def _reported(
        self,
        io: IO,
        sending: Callable[[], object],
        assertion: ClientAssertion,
        scope: str,
    ) -> AccessToken:
        """What `_ask` returns or raises, reported to the signer's observers."""
        facts = RequestFacts(assertion.signer, self._clock.now())
        try:
            token = await self._ask(io, sending, assertion, scope, facts)
        except BaseException as error:
            await self._events.failed(io, facts, error)
            raise
        watched = assertion.signer.observers.watched
        if TokenIssued in watched or EVENTS_LOG.isEnabledFor(logging.INFO):
            await self._events.issued(io, facts, token)
        return token

    async def _ask(
        self,
        io: IO,
        sending: Callable[[], object],
        assertion: ClientAssertion,
        scope: str,
        facts: RequestFacts,
    ) -> AccessToken:
        url = self._configured
        if url is None:
            url = await self._discovered.url(assertion.signer, io)
        if self._style != "as-written":
            scope = await self._discovered.scope(scope, self._style, io)
        facts.audience = url
        corrected = self._server_clock.correction
        facts.assertion, facts.request_id = await io.sign(assertion, url)
        sending()
        requested_at = self._clock.now()
        response = await io.send(_message(url, scope, facts.assertion))
        facts.response = response
        self._server_clock.learn(response, is_first_hand=True)
        document = self._granted(response, url, assertion, corrected)
        token = self._token(document, response, url, scope, requested_at)
        self._worked[assertion.signer.kid, url] = self._clock.now()
        return token

    def _granted(
        self, response: HttpResponse, url: str, assertion: ClientAssertion, corrected: float
    ) -> dict[str, object]:
        """The document of an answer that grants."""
        if 300 <= response.status < 400:
            raise NetworkError(
                f"The token endpoint {url} redirects (HTTP {response.status}).",
                status=response.status,
                cause="token_endpoint is not the server's own URL, or a proxy wants a login.",
                hint="Use the URL the vendor documents. An assertion is never sent on to another "
                "URL.",
                code="token-redirect",
            )
        document = response.json_object()
        if response.status not in (200, 201) or (document is not None and document.get("error")):
            if response.status in (404, 410):
                self._discovered.forget()
            offset = self._server_clock.offset
            worked = self._worked.get((assertion.signer.kid, url))
            skew = None if offset is None else offset - corrected
            raise refusal(
                response,
                assertion,
                url,
                skew if self._server_clock.matters(skew) else None,
                corrected,
                worked_today=worked is not None and self._clock.now() < worked + _TODAY,
            )
        if document is None:
            is_html = response.body.lstrip()[:1] == b"<"
            what = "it is a web page" if is_html else "it is not a JSON object"
            raise _unusable(response, url, what)
        return document

    def _token(
        self,
        document: dict[str, object],
        response: HttpResponse,
        url: str,
        requested: str,
        requested_at: float,
    ) -> AccessToken:
        value = document.get("access_token")
        if not isinstance(value, str) or not _HEADER_SAFE.match(value):
            raise _unusable(response, url, "access_token is missing or not one printable word")
        kind = document.get("token_type")
        if not isinstance(kind, str) or kind.lower() != "bearer":
            raise _unusable(response, url, "token_type is not bearer")
        lifetime = _seconds(document.get("expires_in"))
        if lifetime is None:
            raise _unusable(
                response, url, "expires_in is missing or not a positive number of seconds"
            )
        scope = document.get("scope")
        if not isinstance(scope, str):
            logger.warning(
                "%s sent no scope; taking it as granted as requested",
                url,
                extra={"event": "scope-missing"},
            )
            scope = requested
        token = AccessToken(
            value,
            expires_in=lifetime,
            scope=" ".join(scope.split()),
            requested_scope=requested,
            requested_at=requested_at,
            clock=self._clock,
        )
        if token.expired:
            raise _unusable(
                response, url, f"its token lives {lifetime:g} s, and took longer to come"
            )
        if token.scope != requested and token.missing_scopes:
            logger.warning(
                "%s granted scope %r where %r was requested",
                url,
                token.scope,
                token.requested_scope,
                extra={"event": "scope-narrowed"},
            )
        return token


def _message(url: str, scope: str, assertion: str) -> HttpRequest:
    body = urlencode(
        {
            "grant_type": "client_credentials",
            "scope": scope,
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": assertion,
        }
    ).encode("ascii")
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    return HttpRequest("POST", url, "the token request", headers, body)


def _seconds(value: object) -> float | None:
    """`expires_in`; some servers send it as a string."""
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,12}(?:\.[0-9]+)?", value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 < value <= _MAX_LIFETIME else None


def _unusable(response: HttpResponse, url: str, why: str) -> TokenResponseError:
    return TokenResponseError(
        f"The token response of {url} cannot be used: {why}.",
        status=response.status,
        correlation_id=correlation_id(response),
        cause="The server departs from SMART App Launch 2.2 (access_token, token_type, "
        "expires_in and scope are required), or something else answered.",
        hint="Check token_endpoint; report it to the server's vendor.",
    )
