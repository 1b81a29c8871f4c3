"""The strict registration endpoint: what it takes, and each rule broken once."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from keystay.testing import AuthorizationServer, RegistrationServer, Reply, Request
from tests.support.assertions import ClientKey

ENDPOINT = "https://ehr.example.org/oauth2/register"
INITIAL = "initial-access-token-0123456789"
KEY = ClientKey.generate("ES384")
GOOD: dict[str, Any] = {
    "grant_types": ["client_credentials"],
    "token_endpoint_auth_method": "private_key_jwt",
    "response_types": [],
    "scope": "system/*.rs vendor/scope",
    "jwks": KEY.jwks,
}


@pytest.fixture
def authorization() -> AuthorizationServer:
    """Knows no client, and one scope of a vendor's."""
    return AuthorizationServer(
        "https://ehr.example.org/oauth2/token", extra_scopes=["vendor/scope"]
    )


@pytest.fixture
def server(authorization: AuthorizationServer) -> RegistrationServer:
    """Demands an initial access token."""
    return RegistrationServer(ENDPOINT, authorization, initial_access_token=INITIAL)


def ask(
    server: RegistrationServer,
    document: Any = GOOD,
    *,
    method: str = "POST",
    client_id: str = "",
    token: str | None = INITIAL,
    media_type: str = "application/json",
) -> tuple[Reply, dict[str, Any]]:
    """Send one request; the reply, and its document."""
    headers = {"content-type": media_type}
    if token is not None:
        headers["authorization"] = f"Bearer {token}"
    path = f"/oauth2/register/{client_id}" if client_id else "/oauth2/register"
    body = document if isinstance(document, bytes) else msgspec.json.encode(document)
    reply = server.handle(Request(method, path, headers, body))
    return reply, msgspec.json.decode(reply.body) if reply.body else {}


def test_whole_life(server: RegistrationServer, authorization: AuthorizationServer) -> None:
    """Made, read, changed under a new token, deleted; known to the token endpoint in between."""
    reply, made = ask(server)
    assert (201, "no-store") == (reply.status, reply.headers["Cache-Control"])
    assert GOOD.items() <= made.items()
    client_id = made["client_id"]
    assert f"{ENDPOINT}/{client_id}" == made["registration_client_uri"]
    token = made["registration_access_token"]
    assert made == ask(server, b"", method="GET", client_id=client_id, token=token)[1]
    reply, changed = ask(
        server, {**GOOD, "client_id": client_id}, method="PUT", client_id=client_id, token=token
    )
    assert 200 == reply.status
    assert token != changed["registration_access_token"]
    assert 401 == ask(server, b"", method="GET", client_id=client_id, token=token)[0].status
    assert "1 clients" in repr(authorization)
    token = changed["registration_access_token"]
    assert 204 == ask(server, b"", method="DELETE", client_id=client_id, token=token)[0].status
    assert "0 clients" in repr(authorization)
    assert 401 == ask(server, b"", method="GET", client_id=client_id, token=token)[0].status


REFUSALS: dict[str, tuple[dict[str, Any], str, int]] = {
    "no-token": ({"token": None}, "token-missing", 401),
    "wrong-token": ({"token": "x" * 30}, "token-invalid", 401),
    "method": ({"method": "PUT"}, "method", 405),
    "not-json": ({"document": b"a=b"}, "json-malformed", 400),
    "list": ({"document": []}, "json-malformed", 400),
    "media-type": ({"media_type": "text/plain"}, "content-type", 400),
    "own": ({"document": {**GOOD, "registration_client_uri": "x"}}, "servers-own", 400),
    "client-id": ({"document": {**GOOD, "client_id": "x"}}, "client-id-chosen", 400),
    "grant": ({"document": {**GOOD, "grant_types": ["implicit"]}}, "grant-types", 400),
    "response": ({"document": {**GOOD, "response_types": ["code"]}}, "response-types", 400),
    "redirect": ({"document": {**GOOD, "redirect_uris": ["https://x"]}}, "redirect-uris", 400),
    "scope": ({"document": {**GOOD, "scope": "system/Patient.sr"}}, "scope-syntax", 400),
    "no-scope": ({"document": {**GOOD, "scope": None}}, "scope-missing", 400),
    "no-keys": ({"document": {**GOOD, "jwks": None}}, "keys-invalid", 400),
    "two-keys": ({"document": {**GOOD, "jwks_uri": "https://x.example"}}, "keys-invalid", 400),
    "method-auth": (
        {"document": {**GOOD, "token_endpoint_auth_method": "none"}},
        "token-endpoint-auth-method", 400,
    ),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "reason", "status"), REFUSALS.values(), ids=REFUSALS)
def test_refuses(
    server: RegistrationServer,
    authorization: AuthorizationServer,
    changes: dict[str, Any],
    reason: str,
    status: int,
) -> None:
    """The precise reason in the log, an OAuth error in the reply, no client made."""
    reply, document = ask(server, **changes)
    refusal = authorization.log.last_refusal
    assert refusal is not None
    assert (status, reason, "registration") == (reply.status, refusal.reason, refusal.kind)
    assert document["error_description"] == refusal.sentence
    assert ("WWW-Authenticate" in reply.headers) == (status == 401)
    assert "0 clients" in repr(server)


def test_update_names_its_client(server: RegistrationServer) -> None:
    """RFC 7592 §2.2: client_id is sent, and is this client's."""
    made = ask(server)[1]
    about = {"client_id": made["client_id"], "token": made["registration_access_token"]}
    for document in (GOOD, {**GOOD, "client_id": "other"}):
        assert 400 == ask(server, document, method="PUT", **about)[0].status
