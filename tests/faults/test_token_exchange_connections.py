"""Connections that break, certificates that cannot be trusted, proxies: each has its own error."""

from __future__ import annotations

import base64
import select
import socket
import ssl
import struct
from typing import TYPE_CHECKING, Any

import pytest

import keystay
from keystay.errors import ConfigurationError, NetworkError
from keystay.http.settings import HttpSettings
from keystay.testing import SmartTestServer
from tests.support.certificates import Authority
from tests.support.fixtures import watch_exchanges
from tests.support.raw_server import RawServer, answer, read_request, unserved_port
from tests.support.secrets_watch import WATCH
from tests.support.token_clients import CLIENT_ID, SCOPE, client_settings, grant

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keystay.signer import Signer

pytestmark = pytest.mark.usefixtures("no_environment", "nothing_left", "http_library")


def settings(origin: str, signer: Signer, **more: Any) -> dict[str, Any]:
    """A client that posts to an origin."""
    return client_settings(
        signer, fhir_base_url=origin, token_endpoint=f"{origin}/token", timeout=5, **more
    )


def fails(origin: str, signer: Signer, **more: Any) -> NetworkError:
    """The error of a token request there; checked to hold remedy and no secret."""
    with (
        keystay.TokenClient(**settings(origin, signer, **more)) as client,
        pytest.raises(NetworkError) as caught,
    ):
        client.token()
    return checked(caught.value)


async def fails_async(origin: str, signer: Signer, **more: Any) -> NetworkError:
    """The same, asynchronous."""
    async with keystay.AsyncTokenClient(**settings(origin, signer, **more)) as client:
        with pytest.raises(NetworkError) as caught:
            await client.token()
    return checked(caught.value)


def checked(error: NetworkError) -> NetworkError:
    """Exit code 4, with a cause and a remedy, without a secret."""
    assert 4 == error.exit_code
    assert error.hint
    WATCH.check(f"{error}{error!r}{error.to_dict()}", "the error")
    return error


def reset(server: RawServer, connection: socket.socket) -> None:
    """Reset the connection in the middle of the answer."""
    read_request(server, connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def sends(data: bytes) -> Callable[[RawServer, socket.socket], None]:
    """Answer with these bytes, whatever they are, and close."""

    def talk(server: RawServer, connection: socket.socket) -> None:
        read_request(server, connection)
        connection.sendall(data)

    return talk


def hang_up(server: RawServer, connection: socket.socket) -> None:
    """Close without a word."""


BROKEN = {
    "reset-mid-answer": reset,
    "hangs-up-at-once": hang_up,
    "closes-after-request": sends(b""),
    "closes-in-headers": sends(b"HTTP/1.1 200 OK\r\nContent-"),
    "body-cut-short": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n" + grant().body),
    "chunks-cut-short": sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"),
    "bad-chunk": sends(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "not-http": sends(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "binary": sends(bytes(range(256)) * 10),
    "two-lengths": sends(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}"),
    "endless-header": sends(b"HTTP/1.1 200 OK\r\nX: " + b"a" * 1_000_000),
    "header-with-control": sends(b"HTTP/1.1 200 OK\r\nX: a\x00b\r\n\r\n{}"),
}


@pytest.mark.parametrize("talk", BROKEN.values(), ids=BROKEN)
def test_broken_answers(
    raw_server: Callable[..., RawServer],
    pem_signer: Signer,
    talk: Callable[[RawServer, socket.socket], None],
) -> None:
    """An answer that breaks off or is no HTTP is a network error, and asked for once only."""
    server = raw_server(talk)
    error = fails(server.origin, pem_signer)
    assert "network-failed" == error.code
    assert f"The token request to {server.origin} failed" in error.message
    assert 1 == server.connections


@pytest.mark.parametrize("talk", BROKEN.values(), ids=BROKEN)
async def test_broken_answers_async(
    raw_server: Callable[..., RawServer],
    pem_signer: Signer,
    talk: Callable[[RawServer, socket.socket], None],
) -> None:
    """The same, under asyncio and trio."""
    server = raw_server(talk)
    assert "network-failed" == (await fails_async(server.origin, pem_signer)).code
    assert 1 == server.connections


def test_refused(pem_signer: Signer) -> None:
    """A port where nothing listens."""
    with unserved_port() as port:
        error = fails(f"http://127.0.0.1:{port}", pem_signer)
    assert "network-refused" == error.code


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_refused_async(pem_signer: Signer, host: str) -> None:
    """The same, for a name with several addresses too."""
    with unserved_port() as port:
        error = await fails_async(f"http://{host}:{port}", pem_signer)
    assert "network-refused" == error.code


NAMES = {
    "unknown": "https://no-such-host.invalid",
    "label-too-long": f"https://{'a' * 70}.example.org",
    "empty-label": "https://ehr..example.org",
}


@pytest.mark.parametrize("origin", NAMES.values(), ids=NAMES)
def test_names(pem_signer: Signer, origin: str) -> None:
    """Names that do not resolve, or never could."""
    assert "network-dns" == fails(origin, pem_signer).code


@pytest.mark.parametrize("origin", NAMES.values(), ids=NAMES)
async def test_names_async(pem_signer: Signer, origin: str) -> None:
    """The same, asynchronous."""
    assert "network-dns" == (await fails_async(origin, pem_signer)).code


class TestTLS:
    """Certificates, ours and theirs."""

    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        """The hospital's own authority."""
        return Authority(tmp_path)

    @pytest.fixture
    def served(self, authority: Authority, pem_signer: Signer) -> Iterator[SmartTestServer]:
        """A strict server with a certificate of that authority."""
        with SmartTestServer(ssl_context=authority.server_context()) as server:
            watch_exchanges(server)
            server.register(CLIENT_ID, jwks=keystay.JWKSet.from_signers([pem_signer]))
            yield server

    def test_unknown_authority(self, served: SmartTestServer, pem_signer: Signer) -> None:
        """Not trusted by default; the remedy is ca_bundle, and nothing was sent."""
        error = fails(served.origin, pem_signer)
        assert "tls-untrusted" == error.code
        assert "ca_bundle" in str(error.hint)
        assert 0 == len(served.log)

    async def test_unknown_authority_async(
        self, served: SmartTestServer, pem_signer: Signer
    ) -> None:
        """The same, under asyncio and trio."""
        assert "tls-untrusted" == (await fails_async(served.origin, pem_signer)).code

    async def test_ca_bundle(
        self, served: SmartTestServer, authority: Authority, pem_signer: Signer
    ) -> None:
        """With the authority's certificate, discovery and token work, sync and async."""
        options = client_settings(pem_signer, served, allow_insecure_loopback=False)
        http = HttpSettings(ca_bundle=str(authority.bundle))
        with keystay.TokenClient(http=http, **options) as client:
            assert SCOPE == client.token().scope
        async with keystay.AsyncTokenClient(http=http, **options) as other:
            assert SCOPE == (await other.token()).scope

    @pytest.mark.parametrize(
        ("certificate", "code", "said"),
        [
            pytest.param({"expired": True}, "tls-expired", "expired", id="expired"),
            pytest.param(
                {"host": "other.example.org"},
                "tls-wrong-host",
                "IP address mismatch",
                id="wrong-host",
            ),
        ],
    )
    async def test_bad_certificates(
        self,
        authority: Authority,
        raw_server: Callable[..., RawServer],
        pem_signer: Signer,
        certificate: dict[str, Any],
        code: str,
        said: str,
    ) -> None:
        """Expired, or for another host: told apart, and nothing is sent."""
        server = raw_server(answer(grant().body), tls=authority.server_context(**certificate))
        http = HttpSettings(ca_bundle=str(authority.bundle))
        error = fails(server.origin, pem_signer, http=http)
        assert code == error.code
        assert said in error.message
        assert code == (await fails_async(server.origin, pem_signer, http=http)).code
        assert [] == server.requests

    def test_ca_bundle_is_the_only_trust(
        self, served: SmartTestServer, pem_signer: Signer, tmp_path: Path
    ) -> None:
        """Another authority's bundle does not help."""
        other = Authority(tmp_path, "another-ca")
        http = HttpSettings(ca_bundle=str(other.bundle))
        assert "tls-untrusted" == fails(served.origin, pem_signer, http=http).code

    def test_no_tls_there(self, raw_server: Callable[..., RawServer], pem_signer: Signer) -> None:
        """https: to a port that speaks plain HTTP."""

        def talk(server: RawServer, connection: socket.socket) -> None:
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        origin = raw_server(talk).origin.replace("http:", "https:")
        assert "tls-failed" == fails(origin, pem_signer).code

    def test_old_tls_is_refused(
        self, authority: Authority, raw_server: Callable[..., RawServer], pem_signer: Signer
    ) -> None:
        """TLS 1.1 is not spoken (SMART demands 1.2)."""
        context = authority.server_context()
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        context.set_ciphers("DEFAULT:@SECLEVEL=0")
        server = raw_server(answer(grant().body), tls=context)
        http = HttpSettings(ca_bundle=str(authority.bundle))
        assert fails(server.origin, pem_signer, http=http).code in ("tls-failed", "network-failed")
        assert [] == server.requests

    @pytest.fixture
    def mutual(self, authority: Authority, raw_server: Callable[..., RawServer]) -> RawServer:
        """A server that demands a client certificate."""
        context = authority.server_context()
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.bundle)
        return raw_server(answer(grant().body), tls=context)

    @pytest.mark.parametrize("encrypted", [False, True], ids=["plain-key", "encrypted-key"])
    async def test_client_certificate(
        self,
        authority: Authority,
        mutual: RawServer,
        pem_signer: Signer,
        monkeypatch: pytest.MonkeyPatch,
        encrypted: bool,
    ) -> None:
        """Mutual TLS works, its key encrypted and the passphrase by reference."""
        passphrase = WATCH.add("the TLS key's passphrase", "a-passphrase-for-mutual-tls")
        monkeypatch.setenv("TLS_PASSPHRASE", passphrase)
        certificate, key = authority.issue(
            "client", client=True, passphrase=passphrase if encrypted else None
        )
        http = HttpSettings(
            ca_bundle=str(authority.bundle),
            client_cert=str(certificate),
            client_key=str(key),
            client_key_passphrase="env:TLS_PASSPHRASE" if encrypted else None,
        )
        options = settings(mutual.origin, pem_signer)
        with keystay.TokenClient(http=http, **options) as client:
            assert SCOPE == client.token().scope
        async with keystay.AsyncTokenClient(http=http, **options) as other:
            assert SCOPE == (await other.token()).scope

    def test_client_certificate_missing(
        self, authority: Authority, mutual: RawServer, pem_signer: Signer
    ) -> None:
        """A server that demands one and gets none breaks the connection; nothing is granted."""
        http = HttpSettings(ca_bundle=str(authority.bundle))
        error = fails(mutual.origin, pem_signer, http=http)
        assert error.code in ("tls-failed", "network-failed")

    @pytest.mark.parametrize("fault", ["wrong-passphrase", "no-passphrase", "other-key", "no-file"])
    def test_client_certificate_unusable(
        self,
        authority: Authority,
        pem_signer: Signer,
        monkeypatch: pytest.MonkeyPatch,
        fault: str,
    ) -> None:
        """Each is a configuration error when it is first needed; OpenSSL never asks."""
        monkeypatch.setenv("TLS_PASSPHRASE", WATCH.add("a wrong passphrase", "not-that-passphrase"))
        certificate, key = authority.issue("client", client=True, passphrase="a-passphrase-1")
        if fault == "other-key":
            key = authority.issue("other", client=True)[1]
        http = HttpSettings(
            client_cert=str(certificate) + ("x" if fault == "no-file" else ""),
            client_key=str(key),
            client_key_passphrase="env:TLS_PASSPHRASE" if fault == "wrong-passphrase" else None,
        )
        options = settings("https://ehr.example.org", pem_signer)
        with pytest.raises(ConfigurationError, match="client certificate") as caught:
            keystay.TokenClient(http=http, **options).token()
        assert "client-cert-invalid" == caught.value.code
        WATCH.check(str(caught.value), "the error")


class ConnectProxy(RawServer):
    """A proxy that serves CONNECT, with credentials if asked to."""

    def __init__(self, credentials: str | None = None, tls: ssl.SSLContext | None = None) -> None:
        self.credentials = credentials
        super().__init__(_tunnel, tls=tls)


def _tunnel(server: RawServer, connection: socket.socket) -> None:
    assert isinstance(server, ConnectProxy)
    request = read_request(server, connection)
    method, target, _ = request.split(b" ", 2)
    if server.credentials is not None:
        expected = b"Basic " + base64.b64encode(server.credentials.encode())
        if expected not in request:
            connection.sendall(
                b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
            )
            return
    if method != b"CONNECT":
        connection.sendall(b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n")
        return
    host, _, port = target.decode().partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as upstream:
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        _relay(connection, upstream)


def _relay(client: socket.socket, upstream: socket.socket) -> None:
    """Pass bytes both ways until one side ends; one thread, because TLS allows no two."""
    other = {client: upstream, upstream: client}
    while True:
        pending = isinstance(client, ssl.SSLSocket) and client.pending()
        for source in [client] if pending else select.select([*other], [], [], 10)[0]:
            try:
                data = source.recv(65536)
                other[source].sendall(data)
            except OSError:
                return
            if not data:
                return


class TestProxy:
    """Through a CONNECT proxy to an HTTPS server."""

    @pytest.fixture
    def authority(self, tmp_path: Path) -> Authority:
        """Of the server."""
        return Authority(tmp_path)

    @pytest.fixture
    def target(self, authority: Authority, raw_server: Callable[..., RawServer]) -> RawServer:
        """A token endpoint behind the proxy."""
        return raw_server(answer(grant().body), tls=authority.server_context())

    async def test_configured(
        self, authority: Authority, target: RawServer, pem_signer: Signer
    ) -> None:
        """[http] proxy is used, sync and async, and sees a tunnel only."""
        with ConnectProxy() as proxy:
            http = HttpSettings(ca_bundle=str(authority.bundle), proxy=proxy.origin)
            options = settings(target.origin, pem_signer)
            with keystay.TokenClient(http=http, **options) as client:
                client.token()
            async with keystay.AsyncTokenClient(http=http, **options) as other:
                await other.token()
        assert [b"CONNECT", b"CONNECT"] == [request.split()[0] for request in proxy.requests]
        assert 2 == len(target.requests)

    def test_from_the_environment(
        self,
        authority: Authority,
        target: RawServer,
        pem_signer: Signer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """HTTPS_PROXY is used when nothing is configured, and NO_PROXY excepts from it."""
        options = settings(target.origin, pem_signer)
        http = HttpSettings(ca_bundle=str(authority.bundle))
        with ConnectProxy() as proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy.origin)
            with keystay.TokenClient(http=http, **options) as client:
                client.token()
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            with keystay.TokenClient(http=http, **options) as client:
                client.token()
        assert (1, 2) == (len(proxy.requests), len(target.requests))

    def test_credentials_by_reference(
        self,
        authority: Authority,
        target: RawServer,
        pem_signer: Signer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """user:password comes from a reference, and shows nowhere."""
        secret = WATCH.add("the proxy's password", "proxy-password-0815")
        monkeypatch.setenv("PROXY_LOGIN", f"etl:{secret}")
        with ConnectProxy(f"etl:{secret}") as proxy:
            http = HttpSettings(
                ca_bundle=str(authority.bundle),
                proxy=proxy.origin,
                proxy_credentials="env:PROXY_LOGIN",
            )
            with keystay.TokenClient(http=http, **settings(target.origin, pem_signer)) as client:
                client.token()
        assert b"Proxy-Authorization" not in target.requests[0]

    @pytest.mark.parametrize("login", [None, "etl:wrong-password-1"], ids=["none", "wrong"])
    async def test_refuses(
        self,
        target: RawServer,
        pem_signer: Signer,
        monkeypatch: pytest.MonkeyPatch,
        login: str | None,
    ) -> None:
        """A proxy that wants other credentials has its own error."""
        monkeypatch.setenv("PROXY_LOGIN", login or "unused")
        with ConnectProxy("etl:right-password-1") as proxy:
            reference = "env:PROXY_LOGIN" if login else None
            http = HttpSettings(proxy=proxy.origin, proxy_credentials=reference)
            error = fails(target.origin, pem_signer, http=http)
            assert "network-proxy" == error.code
            assert "proxy_credentials" in str(error.hint)
            error = await fails_async(target.origin, pem_signer, http=http)
            assert "network-proxy" == error.code
        assert [] == target.requests

    def test_proxy_is_down(self, target: RawServer, pem_signer: Signer) -> None:
        """A proxy that is not there is told as a refused connection."""
        with unserved_port() as port:
            http = HttpSettings(proxy=f"http://127.0.0.1:{port}")
            error = fails(target.origin, pem_signer, http=http)
        assert "network-refused" == error.code
        assert "proxy" in str(error.hint)

    def test_credentials_without_a_colon(
        self, pem_signer: Signer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A reference to something else is refused when it is first needed."""
        secret = WATCH.add("not user:password", "password-without-user")
        monkeypatch.setenv("PROXY_LOGIN", secret)
        http = HttpSettings(proxy="http://proxy:3128", proxy_credentials="env:PROXY_LOGIN")
        with pytest.raises(ConfigurationError, match="user:password") as caught:
            keystay.TokenClient(
                http=http, **settings("https://ehr.example.org", pem_signer)
            ).token()
        WATCH.check(str(caught.value), "the error")

    def test_proxy_over_tls(
        self, authority: Authority, target: RawServer, pem_signer: Signer
    ) -> None:
        """A proxy with a certificate of the hospital's authority is trusted by ca_bundle too."""
        with ConnectProxy(tls=authority.server_context("proxy")) as proxy:
            http = HttpSettings(ca_bundle=str(authority.bundle), proxy=proxy.origin)
            with keystay.TokenClient(http=http, **settings(target.origin, pem_signer)) as client:
                client.token()
        assert 1 == len(proxy.requests)


@pytest.mark.parametrize("agent", ["hospital-etl/2.1", None], ids=["configured", "default"])
def test_user_agent(
    raw_server: Callable[..., RawServer], pem_signer: Signer, agent: str | None
) -> None:
    """As configured, else keystay's own."""
    server = raw_server(answer(grant().body))
    http = HttpSettings(user_agent=agent)
    with keystay.TokenClient(http=http, **settings(server.origin, pem_signer)) as client:
        client.token()
    expected = (agent or "keystay/").encode()
    assert b"User-Agent: " + expected in server.requests[0]


def test_own_client_goes_on_working(
    raw_server: Callable[..., RawServer], pem_signer: Signer, http_library: Any
) -> None:
    """After a broken exchange the caller's own client is as usable as before."""
    broken, good = raw_server(reset), raw_server(answer(grant().body))
    with http_library.Client() as own:
        assert "network-failed" == fails(broken.origin, pem_signer, http=own).code
        with keystay.TokenClient(http=own, **settings(good.origin, pem_signer)) as client:
            assert SCOPE == client.token().scope
