"""Discovery, against a real server on loopback that answers as servers do."""

from __future__ import annotations

import json
import logging
import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import keystay
from keystay.errors import AlgorithmError, ConfigurationError, DiscoveryError, NetworkError
from keystay.testing import Reply
from tests.support.secrets_watch import WATCH
from tests.support.token_clients import grant

if TYPE_CHECKING:
    from keystay.testing import SmartTestServer
    from tests.support.token_clients import MakeClient

pytestmark = pytest.mark.usefixtures("no_environment")


def path_of(server: SmartTestServer) -> str:
    """The path where the document is."""
    return server.smart_configuration_url.removeprefix(server.origin)


def document_of(server: SmartTestServer, **changes: Any) -> dict[str, Any]:
    """The server's own document, changed; None leaves a member out."""
    found = {**httpx.get(server.smart_configuration_url).json(), **changes}
    server.log.clear()
    return {name: value for name, value in found.items() if value is not None}


def discover(server: SmartTestServer, reply: Reply | None = None) -> keystay.SmartConfiguration:
    """Discover, with the next answer given."""
    if reply is not None:
        server.script(path_of(server), [reply])
    return keystay.discover(server.fhir_base_url, allow_insecure_loopback=True)


def test_appended_to_the_base_path(registered: SmartTestServer) -> None:
    """`/.well-known/…` comes after the base's path, not after the host (SMART 2.2)."""
    found = keystay.discover(registered.fhir_base_url + "/", allow_insecure_loopback=True)
    assert ["/fhir/.well-known/smart-configuration"] == [e.path for e in registered.log.events]
    assert registered.fhir_base_url == found.fhir_base_url
    assert registered.token_endpoint == found.token_endpoint
    assert "ES384" in found.signing_algorithms


RELATIVE = {
    "relative": ("auth/token", "/fhir/auth/token"),
    "rooted": ("/auth/token", "/auth/token"),
    "up": ("../token", "/token"),
}


@pytest.mark.parametrize(("written", "path"), RELATIVE.values(), ids=RELATIVE)
def test_relative_urls(registered: SmartTestServer, written: str, path: str) -> None:
    """Endpoints may be relative to the FHIR base, with or without its trailing slash."""
    document = document_of(registered, token_endpoint=written, registration_endpoint="register")
    found = discover(registered, Reply.json(document))
    assert registered.origin + path == found.token_endpoint
    assert f"{registered.fhir_base_url}/register" == found.registration_endpoint


@pytest.mark.parametrize("media_type", ["text/html", "text/plain", "application/fhir+json", "x"])
def test_content_type_is_ignored(registered: SmartTestServer, media_type: str) -> None:
    """JSON is JSON whatever the server calls it."""
    reply = Reply.json(document_of(registered), media_type=media_type)
    assert registered.token_endpoint == discover(registered, reply).token_endpoint


def test_byte_order_mark(registered: SmartTestServer) -> None:
    """A UTF-8 byte order mark does no harm."""
    body = b"\xef\xbb\xbf" + json.dumps(document_of(registered)).encode()
    assert registered.token_endpoint == discover(registered, Reply(200, {}, body)).token_endpoint


BAD = {
    "html": (Reply(200, {}, b"<html>Sign in</html>"), "not a JSON object", "discovery-failed"),
    "empty": (Reply(200), "not a JSON object", "discovery-failed"),
    "array": (Reply.json([1]), "not a JSON object", "discovery-failed"),
    "not-utf8": (Reply(200, {}, b'{"a":"\xff"}'), "not a JSON object", "discovery-failed"),
    "deep": (Reply(200, {}, b"[" * 100_000), "not a JSON object", "discovery-failed"),
    "huge-number": (
        Reply(200, {}, b'{"a":' + b"9" * 5000 + b"}"),
        "not a JSON object",
        "discovery-failed",
    ),
    "404": (Reply(404), "HTTP 404", "discovery-failed"),
    "401": (Reply(401), "HTTP 401", "discovery-failed"),
    "500": (Reply(500), "HTTP 500", "discovery-failed"),
    "204": (Reply(204), "HTTP 204", "discovery-failed"),
    "redirect": (Reply.redirect("https://elsewhere.example"), "redirected", "discovery-redirect"),
    "no-endpoint": (Reply.json({"capabilities": []}), "names no token_endpoint", None),
    "endpoint-null": (Reply.json({"token_endpoint": None}), "names no token_endpoint", None),
    "endpoint-number": (Reply.json({"token_endpoint": 7}), "names no token_endpoint", None),
    "endpoint-empty": (Reply.json({"token_endpoint": ""}), "names no token_endpoint", None),
}


@pytest.mark.parametrize(("reply", "said", "code"), BAD.values(), ids=BAD)
def test_no_usable_document(
    registered: SmartTestServer, reply: Reply, said: str, code: str | None
) -> None:
    """Each way to have no document has its message, and one request was made."""
    with pytest.raises(DiscoveryError, match=said) as caught:
        discover(registered, reply)
    assert code in (None, caught.value.code)
    assert caught.value.cause
    assert caught.value.hint
    assert 4 == caught.value.exit_code
    assert 1 == len(registered.log)


ENDPOINTS = {
    "http": ("http://as.example.org/token", "not HTTPS"),
    "userinfo": ("https://u:pass-pass-pass@as.example.org/token", "user information"),
    "fragment": ("https://as.example.org/token#x", "fragment"),
    "other-scheme": ("ftp://as.example.org/token", "not an absolute URL"),
    "broken-ipv6": ("https://[::1", "not an absolute URL"),
    "broken-relative": ("//[", "not an absolute URL"),
    "escape": ("https://as.example.org/\x1b[31m", "not an absolute URL"),
    "blank": ("https://as.example.org/ token", "not an absolute URL"),
}


@pytest.mark.parametrize(("endpoint", "said"), ENDPOINTS.values(), ids=ENDPOINTS)
def test_discovered_endpoint_is_checked(
    registered: SmartTestServer, make_client: MakeClient, endpoint: str, said: str
) -> None:
    """A discovered token endpoint is held to what a configured one is; nothing is sent to it."""
    reply = Reply.json(document_of(registered, token_endpoint=endpoint))
    registered.script(path_of(registered), [reply])
    with pytest.raises(DiscoveryError, match=said) as caught:
        make_client(registered).token()
    assert caught.value.message.startswith("The discovered token endpoint")
    assert "pass-pass-pass" not in str(caught.value)
    assert "\x1b" not in str(caught.value)
    assert () == registered.log.of("token")


def test_loopback_endpoint_needs_the_opt_in(registered: SmartTestServer) -> None:
    """A server cannot lead a client to plain HTTP on its own machine."""
    with pytest.raises(ConfigurationError, match="plain HTTP to this machine"):
        keystay.discover(registered.fhir_base_url)
    assert 0 == len(registered.log)


def test_unusable_registration_endpoint_only_warns(registered: SmartTestServer) -> None:
    """What tokens do not need is no reason to refuse them."""
    document = document_of(registered, registration_endpoint="http://as.example.org/register")
    found = discover(registered, Reply.json(document))
    assert None is found.registration_endpoint
    assert any("registration endpoint is not HTTPS" in warning for warning in found.warnings)


def test_too_large(registered: SmartTestServer) -> None:
    """A document over 256 KiB is not read to its end."""
    with pytest.raises(NetworkError, match="longer than") as caught:
        discover(registered, Reply(200, {}, b" " * 300_000))
    assert "network-too-large" == caught.value.code


def test_compressed(registered: SmartTestServer) -> None:
    """An answer compressed without being asked is refused: no decompression bombs."""
    reply = Reply(200, {"Content-Encoding": "gzip"}, b"x")
    with pytest.raises(NetworkError, match="compressed") as caught:
        discover(registered, reply)
    assert "network-encoding" == caught.value.code


def test_kept_for_its_lifetime(registered: SmartTestServer, make_client: MakeClient) -> None:
    """Discovered once, asked anew when the lifetime is over."""
    client = make_client(registered, discovery_lifetime=0.3)
    for _ in range(3):
        client.request_token()
    assert 1 == len(registered.log.of("discovery"))
    time.sleep(0.35)
    client.request_token()
    assert 2 == len(registered.log.of("discovery"))
    assert client.smart_configuration() is client.smart_configuration()


def test_endpoint_gone_is_discovered_anew(
    registered: SmartTestServer, make_client: MakeClient
) -> None:
    """A token endpoint answering 404 is looked up again next time."""
    client = make_client(registered)
    registered.script(registered.token_endpoint, [Reply(404)])
    with pytest.raises(keystay.KeystayError):
        client.token()
    client.token()
    assert 2 == len(registered.log.of("discovery"))


def test_configured_endpoint_skips_discovery(
    registered: SmartTestServer, make_client: MakeClient
) -> None:
    """With token_endpoint set, the one request is the token request."""
    make_client(registered, token_endpoint=registered.token_endpoint).token()
    assert ["token"] == [event.kind for event in registered.log.events]


def test_algorithm_not_advertised(registered: SmartTestServer, make_client: MakeClient) -> None:
    """The error says what is advertised and what the key could do; nothing is sent."""
    registered.authorization_server.algorithm_names = ("RS384",)
    with pytest.raises(AlgorithmError, match="advertises RS384") as caught:
        make_client(registered).token()
    assert "algorithm-not-advertised" == caught.value.code
    assert "it could do ES384" in str(caught.value.cause)
    assert "token_endpoint" in str(caught.value.hint)
    assert () == registered.log.of("token")


def test_advertised_algorithms_are_shown_safely(
    registered: SmartTestServer, make_client: MakeClient
) -> None:
    """A hostile list neither floods nor steers the terminal."""
    names = ["\x1b[2JRS384", *(f"X{n}" for n in range(5000))]
    document = document_of(registered, token_endpoint_auth_signing_alg_values_supported=names)
    registered.script(path_of(registered), [Reply.json(document)])
    with pytest.raises(AlgorithmError) as caught:
        make_client(registered).token()
    assert str(caught.value).replace("\n", "").isprintable()
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize(
    "changes",
    [
        {"token_endpoint_auth_signing_alg_values_supported": None},
        {"token_endpoint_auth_signing_alg_values_supported": []},
        {"token_endpoint_auth_signing_alg_values_supported": "ES384"},
        {"scopes_supported": ["openid"]},
    ],
    ids=["absent", "empty", "a-string", "other-scopes"],
)
def test_silence_does_not_refuse(
    registered: SmartTestServer, make_client: MakeClient, changes: dict[str, Any]
) -> None:
    """No list of algorithms, or a list of scopes without ours, is no reason to refuse."""
    registered.script(path_of(registered), [Reply.json(document_of(registered, **changes))])
    assert "system/Patient.rs" == make_client(registered).token().scope


def test_missing_capabilities_only_warn(
    registered: SmartTestServer, make_client: MakeClient, caplog: pytest.LogCaptureFixture
) -> None:
    """Servers rarely advertise correctly: what is missing is logged, and the token is had."""
    document = document_of(
        registered,
        capabilities=["launch-ehr"],
        token_endpoint_auth_methods_supported=["client_secret_basic"],
        grant_types_supported=["authorization_code"],
    )
    registered.script(path_of(registered), [Reply.json(document)])
    registered.script(registered.token_endpoint, [grant()])
    with caplog.at_level(logging.WARNING, "keystay"):
        make_client(registered).token()
    said = "\n".join(caplog.messages)
    for member in ("client-confidential-asymmetric", "private_key_jwt", "client_credentials"):
        assert member in said
    WATCH.check(said, "the log")


def test_document_is_kept_whole(registered: SmartTestServer) -> None:
    """What keystay does not know stays readable."""
    found = discover(registered, Reply.json(document_of(registered, vendor_extension={"a": 1})))
    assert {"a": 1} == found.document["vendor_extension"]


def test_timeout_is_an_argument(registered: SmartTestServer) -> None:
    """`discover` takes its own timeout."""
    registered.script(path_of(registered), [Reply(200, delay=5.0)])
    began = time.monotonic()
    with pytest.raises(NetworkError) as caught:
        keystay.discover(registered.fhir_base_url, allow_insecure_loopback=True, timeout=0.2)
    assert "network-timeout" == caught.value.code
    assert time.monotonic() - began < 1.2
