"""The token exchange without input or output: discovery, assertion, request, response.

One generator serves the synchronous and the asynchronous client. It yields what it needs (an
`HttpRequest` to send, a `BuildAssertion` to sign) and returns the token.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from keystay.concurrency.clock import now
from keystay.errors import AlgorithmError, NetworkError, TokenResponseError
from keystay.http.messages import HttpRequest, HttpResponse
from keystay.smart.discovery import SmartConfiguration, discovery_flow
from keystay.smart.scopes import ScopeStyle, advertised_style, convert
from keystay.token_stores.access_token import AccessToken
from keystay.tokens.actions import BuildAssertion
from keystay.tokens.refusal import correlation_id, refusal

if TYPE_CHECKING:
    from keystay.assertion import ClientAssertion
    from keystay.tokens.actions import Flow
    from keystay.tokens.server_clock import ServerClock

__all__ = ["Endpoint", "token_flow"]

logger = logging.getLogger("keystay.tokens")

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
# What may stand in a header (RFC 6750 §2.1 allows less, servers send more).
_HEADER_SAFE = re.compile(r"[\x21-\x7e]+\Z")
_MAX_LIFETIME = 10 * 365 * 86400
_MAX_SHOWN = 20


class Endpoint:
    """Where tokens are asked for: configured, or discovered and kept for a while.

    Args:
        fhir_base_url: The FHIR server's base URL.
        token_endpoint: Skips discovery when given.
        allow_insecure_loopback: Allow plain HTTP to this machine.
        lifetime: Seconds a discovered configuration is kept.
        clock: Learns from the answer's Date header.
        scope_style: How `system/` scopes are sent.
    """

    def __init__(
        self,
        fhir_base_url: str,
        token_endpoint: str | None,
        *,
        allow_insecure_loopback: bool,
        lifetime: float,
        clock: ServerClock,
        scope_style: ScopeStyle = "as-written",
    ) -> None:
        self._base, self._configured = fhir_base_url, token_endpoint
        self._insecure, self._lifetime = allow_insecure_loopback, lifetime
        self._clock, self._scope_style = clock, scope_style
        self._kept: tuple[float, SmartConfiguration] | None = None

    def url(self, assertion: ClientAssertion) -> Generator[HttpRequest, HttpResponse, str]:
        """The token endpoint, after checking that the server knows the assertion's algorithm."""
        if self._configured is not None:
            return self._configured
        configuration = yield from self.configuration()
        _check_algorithm(configuration, assertion)
        return configuration.token_endpoint

    def scope(self, scope: str) -> Generator[HttpRequest, HttpResponse, str]:
        """Scopes as they are to be sent."""
        style = self._scope_style
        if style == "auto":
            configuration = yield from self.configuration()
            style = advertised_style(configuration.capabilities)
        return convert(scope, style)

    def configuration(self) -> Generator[HttpRequest, HttpResponse, SmartConfiguration]:
        """The SMART configuration, asked for anew once its lifetime is over."""
        kept = self._kept
        if kept is not None and now() < kept[0]:
            return kept[1]
        found = yield from self._discover()
        for warning in found.warnings:
            logger.warning(
                "SMART configuration of %s: %s",
                self._base,
                warning,
                extra={"event": "smart-configuration-odd"},
            )
        self._kept = (now() + self._lifetime, found)
        return found

    def _discover(self) -> Generator[HttpRequest, HttpResponse, SmartConfiguration]:
        flow = discovery_flow(self._base, allow_insecure_loopback=self._insecure)
        response = yield next(flow)
        self._clock.learn(response, is_first_hand=False)
        try:
            flow.send(response)
        except StopIteration as finished:
            return finished.value  # type: ignore[no-any-return]
        raise AssertionError("discovery asks once")

    def forget(self) -> None:
        """Discover again next time."""
        self._kept = None


def token_flow(
    endpoint: Endpoint,
    assertion: ClientAssertion,
    scope: str,
    *,
    clock: ServerClock,
    admit: Callable[[], Flow[AbstractContextManager[None]]],
) -> Flow[AccessToken]:
    """Ask for one token.

    Args:
        endpoint: Where.
        assertion: Builds the client assertion; signed only after discovery has succeeded.
        scope: Normalised scopes.
        clock: The server's, by which the assertion is stamped; learns from the answer.
        admit: Passes when a token request may be sent; the assertion is made in its block.

    Raises:
        TokenRefusedError: The server refused.
        TokenResponseError: It granted in a form that cannot be used.
        DiscoveryError, AlgorithmError, NetworkError: Before it came to that.
    """
    url = yield from endpoint.url(assertion)
    scope = yield from endpoint.scope(scope)
    jwt: str
    with (yield from admit()):
        corrected = clock.correction
        jwt, _ = yield BuildAssertion(assertion, url)
    requested_at = now()
    body = urlencode(
        {
            "grant_type": "client_credentials",
            "scope": scope,
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": jwt,
        }
    ).encode("ascii")
    headers = {
        "Accept": "application/json",
        "Content-Type": "application/x-www-form-urlencoded",
    }
    response: HttpResponse = yield HttpRequest("POST", url, "the token request", headers, body)
    clock.learn(response, is_first_hand=True)
    if 300 <= response.status < 400:
        raise NetworkError(
            f"The token endpoint {url} redirects (HTTP {response.status}).",
            status=response.status,
            cause="token_endpoint is not the server's own URL, or a proxy wants a login.",
            hint="Use the URL the vendor documents. An assertion is never sent on to another URL.",
            code="token-redirect",
        )
    document = response.json_object()
    if response.status not in (200, 201) or (document is not None and document.get("error")):
        if response.status in (404, 410):
            endpoint.forget()
        skew = None if clock.offset is None else clock.offset - corrected
        skew = skew if clock.matters(skew) else None
        raise refusal(response, assertion, url, skew, corrected)
    if document is None:
        is_html = response.body.lstrip()[:1] == b"<"
        what = "it is a web page" if is_html else "it is not a JSON object"
        raise _unusable(response, url, what)
    return _granted(document, response, url, scope, requested_at)


def _granted(
    document: dict[str, Any], response: HttpResponse, url: str, requested: str, at: float
) -> AccessToken:
    value = document.get("access_token")
    if not isinstance(value, str) or not _HEADER_SAFE.match(value):
        raise _unusable(response, url, "access_token is missing or not one printable word")
    kind = document.get("token_type")
    if not isinstance(kind, str) or kind.lower() != "bearer":
        raise _unusable(response, url, "token_type is not bearer")
    lifetime = _seconds(document.get("expires_in"))
    if lifetime is None:
        raise _unusable(response, url, "expires_in is missing or not a positive number of seconds")
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
        requested_at=at,
    )
    if token.expired:
        raise _unusable(response, url, f"its token lives {lifetime:g} s, and took longer to come")
    if token.missing_scopes:
        logger.warning(
            "%s granted scope %r where %r was requested",
            url,
            token.scope,
            token.requested_scope,
            extra={"event": "scope-narrowed"},
        )
    return token


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


def _check_algorithm(configuration: SmartConfiguration, assertion: ClientAssertion) -> None:
    advertised = configuration.signing_algorithms
    signer = assertion.signer
    if not advertised or signer.algorithm in advertised:
        return
    common = [name for name in signer.algorithms if name in advertised]
    raise AlgorithmError(
        f"{configuration.fhir_base_url} advertises {_listed(advertised)} for client assertions, "
        f"not {signer.algorithm}.",
        cause=f"The key is {signer.key_type}; it could do {', '.join(signer.algorithms)}.",
        hint=f'Set algorithm = "{common[0]}".'
        if common
        else "Register a key of another type. If the server advertises wrongly, set "
        "token_endpoint: that skips discovery.",
        code="algorithm-not-advertised",
    )


def _listed(names: tuple[str, ...]) -> str:
    shown = ", ".join(name[:_MAX_SHOWN] for name in names[:_MAX_SHOWN])
    return shown if len(names) <= _MAX_SHOWN else f"{shown}, …"
