"""A strict endpoint for dynamic registration: a request in, a reply out, no sockets.

RFC 7591 and RFC 7592, for SMART Backend Services clients only. The management token changes with
every update, as RFC 7592 section 2.2 allows, so that a client which keeps the old one is found out.
"""

from __future__ import annotations

import hmac
import secrets
import threading
import urllib.parse
from typing import TYPE_CHECKING, Any

import msgspec

from keystay.errors import KeystayError
from keystay.testing.messages import Reply, Request
from keystay.testing.refusals import RequestRefusedError, ScopeRefusedError
from keystay.testing.scope_rules import parse_system_scope

if TYPE_CHECKING:
    from collections.abc import Mapping

    from keystay.testing.authorization_server import AuthorizationServer

_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}
# What only the server says (RFC 7591 section 3.2.1, RFC 7592 section 2.2).
_SERVERS_OWN = frozenset(
    ("client_id_issued_at", "client_secret_expires_at", "registration_access_token",
     "registration_client_uri")
)  # fmt: skip


class RegistrationServer:
    """Registers clients at an authorization server, and lets them change that.

    Args:
        endpoint: The URL of the registration endpoint.
        authorization_server: Where the clients become known; its log records each request.
        initial_access_token: Demanded for a registration when given.
    """

    def __init__(
        self,
        endpoint: str,
        authorization_server: AuthorizationServer,
        *,
        initial_access_token: str | None = None,
    ) -> None:
        """Start without a client."""
        self.endpoint = endpoint
        self.initial_access_token = initial_access_token
        self._authorization_server = authorization_server
        self._path = urllib.parse.urlsplit(endpoint).path
        self._tokens: dict[str, str] = {}
        self._metadata: dict[str, dict[str, Any]] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        """Show the endpoint and how many clients there are."""
        return f"<RegistrationServer {self.endpoint}, {len(self._tokens)} clients>"

    def answers(self, path: str) -> bool:
        """Tell whether a path is the endpoint's or one of its clients'."""
        return path == self._path or path.startswith(f"{self._path}/")

    def handle(self, request: Request) -> Reply:
        """Answer one request to the endpoint, or about a client, and record it."""
        client_id = request.path.removeprefix(self._path).removeprefix("/") or None

        def answer(details: dict[str, Any]) -> Reply:
            details["client_id"] = client_id
            with self._lock:
                return (
                    self._create(request) if client_id is None else self._manage(request, client_id)
                )

        def refuse(refusal: RequestRefusedError) -> Reply:
            document = {"error": refusal.error, "error_description": refusal.sentence}
            headers = {**_NO_STORE, **refusal.headers}
            return Reply.json(document, status=refusal.status, headers=headers)

        return self._authorization_server.log.answer("registration", request, answer, refuse)

    def _create(self, request: Request) -> Reply:
        _require_method(request, "POST")
        if self.initial_access_token is not None:
            _require_token(request, self.initial_access_token)
        metadata = self._checked(request)
        if "client_id" in metadata:
            raise _refused("client-id-chosen", "the server chooses the client_id")
        client_id = secrets.token_urlsafe(16)
        return self._register(client_id, metadata, status=201)

    def _manage(self, request: Request, client_id: str) -> Reply:
        _require_method(request, "GET", "PUT", "DELETE")
        # RFC 7592 section 2.1: what is unknown is not told from what is not yours.
        _require_token(request, self._tokens.get(client_id))
        if request.method == "GET":
            return self._information(client_id, status=200)
        if request.method == "DELETE":
            del self._tokens[client_id], self._metadata[client_id]
            self._authorization_server.unregister(client_id)
            return Reply(204, _NO_STORE)
        metadata = self._checked(request)
        if metadata.pop("client_id", None) != client_id:
            raise _refused("client-id-differs", "client_id is missing or another client's")
        return self._register(client_id, metadata, status=200)

    def _register(self, client_id: str, metadata: dict[str, Any], *, status: int) -> Reply:
        try:
            self._authorization_server.register(
                client_id,
                jwks=metadata.get("jwks"),
                jwks_uri=metadata.get("jwks_uri"),
                scope=metadata.get("scope"),
            )
        except (ValueError, KeystayError) as error:
            raise _refused("keys-invalid", str(error)) from error
        self._metadata[client_id] = metadata
        self._tokens[client_id] = secrets.token_urlsafe(32)
        return self._information(client_id, status=status)

    def _checked(self, request: Request) -> dict[str, Any]:
        metadata = _metadata(request)
        scope = metadata.get("scope")
        if not isinstance(scope, str):
            raise _refused("scope-missing", "scope is missing")
        for token in scope.split(" "):
            if token not in self._authorization_server.extra_scopes:
                try:
                    parse_system_scope(token)
                except ScopeRefusedError as refusal:
                    raise _refused(refusal.reason, refusal.sentence) from refusal
        return metadata

    def _information(self, client_id: str, *, status: int) -> Reply:
        document = {
            "client_id": client_id,
            "registration_client_uri": f"{self.endpoint}/{client_id}",
            "registration_access_token": self._tokens[client_id],
            **self._metadata[client_id],
        }
        return Reply.json(document, status=status, headers=_NO_STORE)


def _require_method(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise RequestRefusedError(
            "method",
            f"{request.method} is not taken here",
            status=405,
            headers={"Allow": ", ".join(methods)},
        )


def _require_token(request: Request, token: str | None) -> None:
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    if not sent:
        raise _unauthorized("token-missing", "no bearer token was sent", "")
    known = token is not None and hmac.compare_digest(sent.encode(), token.encode())
    if scheme.lower() != "bearer" or not known:
        challenge = ', error="invalid_token"'
        raise _unauthorized("token-invalid", "the bearer token is not a valid one", challenge)


def _unauthorized(reason: str, sentence: str, challenge: str) -> RequestRefusedError:
    headers = {"WWW-Authenticate": f'Bearer realm="registration"{challenge}'}
    return RequestRefusedError(reason, sentence, error="invalid_token", status=401, headers=headers)


def _metadata(request: Request) -> dict[str, Any]:
    """Decode and check metadata of a Backend Services client (RFC 7591 section 2)."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        found = msgspec.json.decode(request.body, type=dict[str, Any])
    except msgspec.MsgspecError as error:
        raise RequestRefusedError("json-malformed", "the body is no JSON object") from error
    if media_type != "application/json":
        raise RequestRefusedError("content-type", "the body must be application/json")
    if own := sorted(_SERVERS_OWN & found.keys()):
        raise RequestRefusedError("servers-own", f"{own[0]} must not be sent")
    _require(found, "grant_types", ["client_credentials"])
    _require(found, "token_endpoint_auth_method", "private_key_jwt")
    _require(found, "response_types", [])
    if found.get("redirect_uris"):
        raise _refused("redirect-uris", "there is no redirect", error="invalid_redirect_uri")
    return found


def _require(metadata: Mapping[str, Any], name: str, wanted: object) -> None:
    if metadata.get(name) != wanted:
        raise _refused(name.replace("_", "-"), f"{name} must be {wanted}")


def _refused(
    reason: str, sentence: str, *, error: str = "invalid_client_metadata"
) -> RequestRefusedError:
    return RequestRefusedError(reason, sentence, error=error)
