"""The token endpoint of a strict SMART authorization server: a request in, a reply out, no sockets.

SMART App Launch 2.2.0 "Backend Services", RFC 6749 sections 4.4 and 5, RFC 7521 and RFC 7523. It
accepts what they demand and nothing that a strict vendor refuses, so that a client which passes
here has no surprise there.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import secrets
import threading
import time
import urllib.parse
import uuid
from typing import TYPE_CHECKING, Any

from keystay.testing.assertion_rules import ALGORITHM_NAMES, Assertion, AssertionRules
from keystay.testing.event_log import EventLog
from keystay.testing.messages import NO_HEADERS, Reply, Request
from keystay.testing.refusals import AssertionRefusedError, RequestRefusedError, ScopeRefusedError
from keystay.testing.registered_client import JWKS_MAX_AGE, RegisteredClient
from keystay.testing.scope_rules import grant_scope

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping

    from keystay.jwk import JWKSet

LONGEST_BODY = 64 * 1024
"""Bytes of a request body."""

JWT_BEARER = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
"""The only `client_assertion_type` accepted (RFC 7523 section 2.2)."""

_FORM = "application/x-www-form-urlencoded"
_MOST_PARAMETERS = 20
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class ErrorStyle(enum.Enum):
    """How much an error tells the client; the log always tells all of it."""

    DESCRIBED = "described"
    """`error_description` says what was wrong."""
    BARE = "bare"
    """`"error_description": null` and nothing else, as Epic does."""
    LINKED = "linked"
    """An `error_uri` names the reason, and a header the correlation id, as Oracle Health does."""


@dataclasses.dataclass(frozen=True, slots=True)
class GrantedToken:
    """What the server knows of an access token that it issued; never the token itself.

    Attributes:
        client_id: The client it was issued to.
        scope: The scopes granted, space separated.
        expires_at: When it ends, in seconds since the epoch.
    """

    client_id: str
    scope: str
    expires_at: float


class AuthorizationServer:
    """Grants access tokens for assertions that pass every check.

    All attributes named here may be changed between requests.

    Args:
        token_endpoint: The URL of the token endpoint, the only `aud` accepted.
        log: Where each request is recorded.
        clock: The time now, in seconds since the epoch.
        algorithm_names: The `alg` values accepted and advertised.
        token_lifetime: Seconds that an access token lives; at most 300 is recommended.
        extra_scopes: Scopes known besides `system/`, such as a vendor's own.
        error_style: How much an error tells.
        correlation_header: A response header that carries an id for each request, or None.
    """

    def __init__(
        self,
        token_endpoint: str,
        *,
        log: EventLog | None = None,
        clock: Callable[[], float] = time.time,
        algorithm_names: Iterable[str] = ALGORITHM_NAMES,
        token_lifetime: int = 300,
        extra_scopes: Iterable[str] = (),
        error_style: ErrorStyle = ErrorStyle.DESCRIBED,
        correlation_header: str | None = None,
    ) -> None:
        """Start with no client and no token."""
        self.token_endpoint = token_endpoint
        self.log = EventLog() if log is None else log
        self.token_lifetime = token_lifetime
        self.extra_scopes = tuple(extra_scopes)
        self.error_style = error_style
        self.correlation_header = correlation_header
        self._clock = clock
        self._clients: dict[str, RegisteredClient] = {}
        self._tokens: dict[bytes, GrantedToken] = {}
        self._lock = threading.Lock()
        self._rules = AssertionRules(
            audience=token_endpoint,
            find_client=self._clients.get,
            clock=clock,
            algorithm_names=algorithm_names,
        )

    def __repr__(self) -> str:
        """Show the endpoint and how many clients there are."""
        return f"<AuthorizationServer {self.token_endpoint}, {len(self._clients)} clients>"

    @property
    def algorithm_names(self) -> tuple[str, ...]:
        """The `alg` values accepted and advertised."""
        return self._rules.algorithm_names

    @algorithm_names.setter
    def algorithm_names(self, names: Iterable[str]) -> None:
        self._rules.algorithm_names = tuple(names)

    def register(
        self,
        client_id: str,
        *,
        jwks: JWKSet | Mapping[str, Any] | None = None,
        jwks_uri: str | None = None,
        scope: str | None = None,
        jwks_max_age: float = JWKS_MAX_AGE,
        ssl_context: ssl.SSLContext | None = None,
    ) -> RegisteredClient:
        """Register a client, or replace its registration; see `RegisteredClient`."""
        client = RegisteredClient(
            client_id,
            jwks=jwks,
            jwks_uri=jwks_uri,
            scope=scope,
            jwks_max_age=jwks_max_age,
            ssl_context=ssl_context,
        )
        self._clients[client_id] = client
        return client

    def unregister(self, client_id: str) -> None:
        """Forget a client."""
        self._clients.pop(client_id, None)

    def introspect(self, token: str) -> GrantedToken | None:
        """Return what an access token allows, or None when it is unknown, revoked or expired."""
        granted = self._tokens.get(_fingerprint(token))
        return granted if granted is not None and granted.expires_at > self._clock() else None

    def revoke_tokens(self) -> None:
        """Make every access token issued so far worthless."""
        with self._lock:
            self._tokens.clear()

    def handle(self, request: Request) -> Reply:
        """Answer one request to the token endpoint, and record it."""
        correlation_id = str(uuid.uuid4())
        return self.log.answer(
            "token",
            request,
            lambda details: self._answer(request, details, correlation_id),
            lambda refusal: self._refuse(refusal, correlation_id),
        )

    def _answer(self, request: Request, details: dict[str, Any], correlation_id: str) -> Reply:
        assertion = Assertion()
        details["correlation_id"] = correlation_id if self._correlation_header else None
        _check_request(request)
        pairs = _form(request.body)
        details["parameters"] = tuple(name for name, _ in pairs)
        form = _single(pairs)
        _check_grant_type(form)
        try:
            client = self._authenticate(form, assertion)
        finally:
            details |= {"header": assertion.header, "claims": assertion.claims}
            if assertion.client is not None:
                details["client_id"] = assertion.client.client_id
        details["scope"] = scope = self._grant_scope(form, client)
        return self._grant(client, scope, correlation_id)

    @property
    def _correlation_header(self) -> str | None:
        linked = self.error_style is ErrorStyle.LINKED
        return self.correlation_header or ("X-Correlation-Id" if linked else None)

    def _authenticate(self, form: Mapping[str, str], assertion: Assertion) -> RegisteredClient:
        """Authenticate the client by its assertion (RFC 7521 section 4.2)."""
        if "client_secret" in form:
            raise RequestRefusedError(
                "several-authentications", "client_secret has no place beside a client assertion"
            )
        if "client_assertion" not in form:
            raise AssertionRefusedError("assertion-missing", "client_assertion is missing")
        if form.get("client_assertion_type") != JWT_BEARER:
            raise AssertionRefusedError(
                "assertion-type", f"client_assertion_type must be {JWT_BEARER}"
            )
        client = self._rules.check(form["client_assertion"], assertion)
        if form.get("client_id", client.client_id) != client.client_id:
            raise AssertionRefusedError(
                "client-id-differs", "client_id and the assertion name different clients"
            )
        return client

    def _grant_scope(self, form: Mapping[str, str], client: RegisteredClient) -> str:
        if "scope" not in form:
            raise ScopeRefusedError("scope-missing", "scope is missing; SMART requires it")
        return grant_scope(form["scope"], allowed=client.scope, extra=self.extra_scopes)

    def _grant(self, client: RegisteredClient, scope: str, correlation_id: str) -> Reply:
        """Issue a token (RFC 6749 section 5.1)."""
        token = secrets.token_urlsafe(32)
        granted = GrantedToken(client.client_id, scope, self._clock() + self.token_lifetime)
        with self._lock:
            self._tokens[_fingerprint(token)] = granted
        document = {
            "access_token": token,
            "token_type": "bearer",
            "expires_in": self.token_lifetime,
            "scope": scope,
        }
        return Reply.json(document, headers={**_NO_STORE, **self._correlation(correlation_id)})

    def _refuse(self, refusal: RequestRefusedError, correlation_id: str) -> Reply:
        """Answer with an error (RFC 6749 section 5.2)."""
        document: dict[str, str | None] = {"error": refusal.error}
        if self.error_style is ErrorStyle.DESCRIBED:
            document["error_description"] = refusal.sentence
        elif self.error_style is ErrorStyle.BARE:
            document["error_description"] = None
        else:
            document["error_uri"] = f"urn:keystay:testing:error:{refusal.reason}"
        return Reply.json(
            document,
            status=refusal.status,
            headers={**_NO_STORE, **refusal.headers, **self._correlation(correlation_id)},
        )

    def _correlation(self, correlation_id: str) -> Mapping[str, str]:
        name = self._correlation_header
        return {name: correlation_id} if name else dict(NO_HEADERS)


def _check_request(request: Request) -> None:
    """Check what comes before the form: method, query, credentials, content type, size."""
    if request.method != "POST":
        raise RequestRefusedError(
            "method",
            f"the token endpoint takes POST, not {request.method}",
            status=405,
            headers={"Allow": "POST"},
        )
    if request.target != request.path:
        raise RequestRefusedError("query", "parameters belong in the body, not in the URL")
    if "authorization" in request.headers:
        # RFC 6749 section 5.2: challenge with the scheme that the client tried.
        scheme = request.headers["authorization"].partition(" ")[0]
        challenge = scheme if scheme.isalnum() else "Basic"
        raise RequestRefusedError(
            "authorization-header",
            "the client authenticates by its assertion, not by an Authorization header",
            error="invalid_client",
            status=401,
            headers={"WWW-Authenticate": f'{challenge} realm="keystay"'},
        )
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != _FORM:
        raise RequestRefusedError("content-type", f"the body must be {_FORM}")
    if len(request.body) > LONGEST_BODY:
        raise RequestRefusedError(
            "body-too-large", f"the body is over {LONGEST_BODY} bytes", status=413
        )


def _form(body: bytes) -> list[tuple[str, str]]:
    try:
        return urllib.parse.parse_qsl(
            body.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=_MOST_PARAMETERS,
        )
    except ValueError as error:
        raise RequestRefusedError("form-malformed", f"the body is not valid {_FORM}") from error


def _single(pairs: list[tuple[str, str]]) -> dict[str, str]:
    """Refuse repeated parameters; one without a value counts as omitted (RFC 6749 section 3.2)."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise RequestRefusedError("parameter-repeated", f"the parameter {name} occurs twice")
    return {name: value for name, value in pairs if value}


def _check_grant_type(form: Mapping[str, str]) -> None:
    if "grant_type" not in form:
        raise RequestRefusedError("grant-type-missing", "grant_type is missing")
    if form["grant_type"] != "client_credentials":
        raise RequestRefusedError(
            "grant-type",
            "grant_type must be client_credentials",
            error="unsupported_grant_type",
        )


def _fingerprint(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
