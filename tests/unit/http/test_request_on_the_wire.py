"""The token request as it goes over the wire: what is in it, what is not, and where it goes."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import pytest

import keystay
from keystay.errors import NetworkError
from keystay.testing import Reply, SmartTestServer
from tests.support.raw_server import RawServer, answer
from tests.support.secrets_watch import WATCH
from tests.support.token_clients import CLIENT_ID, SCOPE, client_settings, grant

if TYPE_CHECKING:
    from collections.abc import Callable

    from keystay.signer import Signer
    from tests.support.token_clients import MakeClient

pytestmark = pytest.mark.usefixtures("no_environment", "http_library")
ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"


@pytest.fixture
def endpoint(raw_server: Callable[..., RawServer]) -> RawServer:
    """A token endpoint that grants whatever it is sent, and keeps the bytes."""
    return raw_server(answer(grant().body, headers={"Set-Cookie": "session=1"}))


def parts(request: bytes) -> tuple[str, dict[str, str], list[tuple[str, str]]]:
    """Request line, header fields by lower-case name, form."""
    head, _, body = request.partition(b"\r\n\r\n")
    line, *fields = head.decode().split("\r\n")
    pairs = [field.partition(": ") for field in fields]
    return line, {n.lower(): v for n, _, v in pairs}, parse_qsl(body.decode(), strict_parsing=True)


def claims(assertion: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims, decoded without any code of keystay's."""
    first, second, _ = assertion.split(".")
    header, payload = (
        json.loads(base64.urlsafe_b64decode(part + "==")) for part in (first, second)
    )
    return header, payload


def settings_for(endpoint: RawServer, **more: Any) -> dict[str, Any]:
    """A client that posts to the endpoint."""
    url = f"{endpoint.origin}/tenant/token"
    return {"fhir_base_url": endpoint.origin, "token_endpoint": url, **more}


def test_whole_request(endpoint: RawServer, make_client: MakeClient, pem_signer: Signer) -> None:
    """Exactly four form members, nothing of a credential in the headers, aud = this URL."""
    began = int(time.time())
    make_client(**settings_for(endpoint, jwks_url="https://x.example/jwks")).token()
    line, headers, form = parts(endpoint.requests[0])
    assert "POST /tenant/token HTTP/1.1" == line
    assert [
        ("grant_type", "client_credentials"),
        ("scope", SCOPE),
        ("client_assertion_type", ASSERTION_TYPE),
    ] == form[:3]
    assert ["client_assertion"] == [name for name, _ in form[3:]]
    assert "application/x-www-form-urlencoded" == headers["content-type"]
    assert "application/json" == headers["accept"]
    assert "identity" == headers["accept-encoding"]
    assert "close" == headers["connection"]
    assert headers["user-agent"].startswith("keystay/")
    assert not {"authorization", "cookie", "proxy-authorization", "referer"} & headers.keys()
    header, payload = claims(form[3][1])
    assert {
        "alg": "ES384",
        "typ": "JWT",
        "kid": pem_signer.kid,
        "jku": "https://x.example/jwks",
    } == header
    assert {"iss", "sub", "aud", "exp", "jti"} == payload.keys()
    assert (CLIENT_ID, CLIENT_ID) == (payload["iss"], payload["sub"])
    assert f"{endpoint.origin}/tenant/token" == payload["aud"]
    assert 239 <= payload["exp"] - began <= 250


def test_fresh_assertion_for_each_attempt(endpoint: RawServer, make_client: MakeClient) -> None:
    """Every attempt has its own jti."""
    client = make_client(**settings_for(endpoint))
    for _ in range(20):
        client.request_token()
    seen = {claims(parts(request)[2][3][1])[1]["jti"] for request in endpoint.requests}
    assert 20 == len(seen)
    assert all(22 <= len(jti) <= 151 for jti in seen)


def test_cookies_are_not_sent_back(endpoint: RawServer, make_client: MakeClient) -> None:
    """A cookie the endpoint sets stays with it."""
    client = make_client(**settings_for(endpoint))
    client.request_token()
    client.request_token()
    assert [False, False] == ["cookie" in parts(request)[1] for request in endpoint.requests]


OWN: dict[str, Any] = {
    "auth": ("user", "basic-auth-password"),
    "headers": {"Authorization": "Bearer somebody-elses", "X-Api-Key": "k", "User-Agent": "me/1"},
    "cookies": {"session": "tasty-cookie-value"},
    "params": {"extra": "1"},
    "follow_redirects": True,
    "base_url": "https://elsewhere.example",
}


def checked_own_request(endpoint: RawServer) -> None:
    """Of the caller's own client only the user agent shows in the request."""
    line, headers, form = parts(endpoint.requests[0])
    assert "POST /tenant/token HTTP/1.1" == line
    assert "me/1" == headers["user-agent"]
    assert not {"authorization", "cookie", "x-api-key"} & headers.keys()
    assert 4 == len(form)


def test_own_client_adds_nothing(
    endpoint: RawServer, make_client: MakeClient, http_library: Any
) -> None:
    """The caller's own client is used; its default auth, headers, cookies, params stay out."""
    with http_library.Client(**OWN) as own:
        client = make_client(**settings_for(endpoint, http=own))
        client.token()
        checked_own_request(endpoint)
        client.close()
        assert not own.is_closed


async def test_own_async_client_adds_nothing(
    endpoint: RawServer, pem_signer: Signer, http_library: Any
) -> None:
    """The same for an asynchronous one."""
    async with http_library.AsyncClient(**OWN) as own:
        settings = client_settings(pem_signer, **settings_for(endpoint))
        async with keystay.AsyncTokenClient(http=own, **settings) as client:
            await client.token()
        checked_own_request(endpoint)
        assert not own.is_closed


def test_netrc_is_not_read(
    endpoint: RawServer, make_client: MakeClient, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password for this host in ~/.netrc does not become a second authentication."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login user password netrc-password\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    make_client(**settings_for(endpoint)).token()
    assert "authorization" not in parts(endpoint.requests[0])[1]


def test_plain_loopback_does_not_go_through_a_proxy(
    endpoint: RawServer,
    raw_server: Callable[..., RawServer],
    make_client: MakeClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """HTTP_PROXY would carry the assertion off this machine in the clear: it is not used."""
    proxy = raw_server()
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, proxy.origin)
    make_client(**settings_for(endpoint)).token()
    assert (0, 1) == (proxy.connections, endpoint.connections)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("elsewhere", [False, True], ids=["same-origin", "other-origin"])
def test_redirects_are_not_followed(
    registered: SmartTestServer, make_client: MakeClient, status: int, elsewhere: bool
) -> None:
    """One POST, no second request anywhere, and an error that says why."""
    with SmartTestServer() as other:
        target = f"{(other if elsewhere else registered).origin}/target"
        registered.script(registered.token_endpoint, [Reply.redirect(target, status=status)])
        with pytest.raises(NetworkError, match=f"redirects .HTTP {status}") as caught:
            make_client(registered).token()
        assert ("token-redirect", status) == (caught.value.code, caught.value.status)
        assert 0 == len(other.log)
    assert ["discovery", "scripted"] == [event.kind for event in registered.log.events]
    WATCH.check(str(caught.value), "the error")


def test_redirects_are_not_followed_by_ones_own_client(
    registered: SmartTestServer, make_client: MakeClient, http_library: Any
) -> None:
    """Not even when the caller's client follows redirects by default."""
    registered.script(registered.token_endpoint, [Reply.redirect("/target", status=307)])
    with (
        http_library.Client(follow_redirects=True) as own,
        pytest.raises(NetworkError, match="redirects"),
    ):
        make_client(registered, http=own).token()
    assert not [event for event in registered.log.events if event.path == "/target"]


def test_posted_once_and_nothing_more(registered: SmartTestServer, make_client: MakeClient) -> None:
    """Discovery and one POST: no probing, no retry."""
    make_client(registered).token()
    assert [("discovery", "GET"), ("token", "POST")] == [
        (event.kind, event.method) for event in registered.log.events
    ]
