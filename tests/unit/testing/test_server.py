"""The server as a whole: scripted faults, published documents, TLS, and ending without a trace."""

from __future__ import annotations

import datetime as dt
import ipaddress
import socket
import ssl
import threading
import time
from typing import TYPE_CHECKING

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import keystay.testing
from keystay.testing import Reply, SmartTestServer
from tests.support.assertions import ClientKey, good_claims, token_form

if TYPE_CHECKING:
    from pathlib import Path

    from keystay.testing import EventLog

pytest_plugins = ["keystay.testing.pytest_plugin"]

KEY = ClientKey.generate("ES384")


class TestScript:
    """Scripted faults."""

    def test_in_order(self, http: httpx.Client, smart_server: SmartTestServer) -> None:
        """Replies are given in order, None lets through, and then all is as before."""
        url = f"{smart_server.fhir_base_url}/metadata"
        smart_server.script(
            "/fhir/metadata",
            [
                Reply(429, {"Retry-After": "1"}),
                None,
                Reply(503),
                Reply(200, body=b"not JSON"),
            ],
        )

        assert [429, 200, 503, 200, 200] == [http.get(url).status_code for _ in range(5)]
        kinds = [event.kind for event in smart_server.log]
        assert ["scripted", "fhir", "scripted", "scripted", "fhir"] == kinds

    def test_by_url(self, http: httpx.Client, smart_server: SmartTestServer) -> None:
        """A URL of the server is as good as a path; another server's is refused."""
        smart_server.script(smart_server.token_endpoint, [Reply.redirect("http://127.0.0.1/")])
        response = http.post(smart_server.token_endpoint, data={"client_assertion": "x"})

        assert (302, "http://127.0.0.1/") == (response.status_code, response.headers["location"])
        assert ("client_assertion",) == smart_server.log.events[0].parameters
        with pytest.raises(ValueError, match="no path of"):
            smart_server.script("https://elsewhere.example/token", [])

    def test_disconnect(self, http: httpx.Client, smart_server: SmartTestServer) -> None:
        """A scripted disconnection gives no answer at all."""
        smart_server.script("/fhir/metadata", [Reply(disconnect=True)])
        with pytest.raises(httpx.RemoteProtocolError):
            http.get(f"{smart_server.fhir_base_url}/metadata")
        assert 0 == smart_server.log.events[0].status

    @pytest.mark.parametrize(
        "reply",
        [
            pytest.param(Reply(delay=30), id="delay"),
            pytest.param(Reply(body=b"x" * 60, drip=0.5), id="drip"),
        ],
    )
    def test_slow(self, smart_server: SmartTestServer, reply: Reply) -> None:
        """A slow reply runs into the client's timeout; closing the server does not wait for it."""
        smart_server.script("/slow", [reply])
        started = time.monotonic()
        with pytest.raises(httpx.ReadTimeout):
            httpx.get(f"{smart_server.origin}/slow", timeout=0.2)
        smart_server.close()

        assert time.monotonic() - started < 5

    def test_cut_short(self, http: httpx.Client, smart_server: SmartTestServer) -> None:
        """A Content-Length that is not true ends in a protocol error."""
        smart_server.script("/cut", [Reply(200, {"Content-Length": "10"}, b"five.")])
        with pytest.raises(httpx.RemoteProtocolError):
            http.get(f"{smart_server.origin}/cut")


class TestServer:
    """Sockets and threads."""

    def test_published_document(self, http: httpx.Client, smart_server: SmartTestServer) -> None:
        """A document is served with its headers until it is replaced."""
        url = smart_server.publish("/jwks.json", KEY.jwks, headers={"Cache-Control": "max-age=9"})
        response = http.get(url)

        assert KEY.jwks == response.json()
        assert "max-age=9" == response.headers["cache-control"]
        smart_server.publish("/jwks.json", {"keys": []})
        assert {"keys": []} == http.get(url).json()
        assert 404 == http.get(f"{smart_server.origin}/other").status_code

    def test_leaves_nothing(self) -> None:
        """After closing no thread is left and no port is open, though a client stays connected."""
        before = set(threading.enumerate())
        with httpx.Client() as http:
            with SmartTestServer() as server:
                http.get(server.smart_configuration_url)
                port = int(server.origin.rpartition(":")[2])
            server.close()

        assert before == set(threading.enumerate())
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=1)

    def test_loopback_only(self) -> None:
        """Nothing but loopback is served."""
        with pytest.raises(ValueError, match="only 127"):
            SmartTestServer(hostname="0.0.0.0")

    def test_localhost(self, http: httpx.Client) -> None:
        """The URL can name this machine as a certificate does."""
        with SmartTestServer(hostname="localhost") as server:
            assert server.token_endpoint.startswith("http://localhost:")
            assert 200 == http.get(server.smart_configuration_url).status_code

    @pytest.mark.parametrize(
        ("head", "status"),
        [
            pytest.param(b"Content-Length: x", 400, id="length is no number"),
            pytest.param(b"Content-Length: -1", 400, id="negative length"),
            pytest.param(b"Content-Length: 1048577", 413, id="over 1 MiB"),
            pytest.param(b"Transfer-Encoding: chunked", 411, id="chunked"),
        ],
    )
    def test_body_that_is_not_read(
        self, smart_server: SmartTestServer, head: bytes, status: int
    ) -> None:
        """A body of unknown or excessive length is refused unread, and the connection ends."""
        port = int(smart_server.origin.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"POST /oauth2/token HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n")
            answer = b"".join(iter(lambda: connection.recv(4096), b""))

        assert str(status).encode() == answer.split(b" ")[1]

    def test_body_that_is_cut_short(self, smart_server: SmartTestServer) -> None:
        """A body that ends early is refused, not taken for the whole."""
        port = int(smart_server.origin.rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"POST /oauth2/token HTTP/1.1\r\nContent-Length: 9\r\n\r\nscope")
            connection.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: connection.recv(4096), b""))

        assert b"400" == answer.split(b" ")[1]

    def test_repeated_authorization(self, smart_server: SmartTestServer) -> None:
        """Repeated header fields arrive joined, so that none can hide."""
        headers = [("Authorization", "Bearer a"), ("Authorization", "Bearer b")]
        response = httpx.get(f"{smart_server.fhir_base_url}/Patient/123", headers=headers)

        assert 401 == response.status_code

    def test_head(self, http: httpx.Client, smart_server: SmartTestServer) -> None:
        """HEAD has no body, and the connection stays usable."""
        assert b"" == http.head(smart_server.smart_configuration_url).content
        assert 200 == http.get(smart_server.smart_configuration_url).status_code

    def test_tls(self, tmp_path: Path) -> None:
        """With a certificate all of it is served over TLS; without trust there is no answer."""
        server_context, client_context = _tls(tmp_path)
        with SmartTestServer(ssl_context=server_context) as server:
            server.register("client", jwks=KEY.jwks)
            assertion = KEY.sign(good_claims("client", server.token_endpoint))
            with httpx.Client(verify=client_context) as http:
                response = http.post(server.token_endpoint, data=token_form(assertion))

            assert server.token_endpoint.startswith("https://127.0.0.1:")
            assert 200 == response.status_code
            with pytest.raises(httpx.ConnectError):
                httpx.get(server.smart_configuration_url)

    def test_jwks_over_tls(self, tmp_path: Path, smart_server: SmartTestServer) -> None:
        """A JWKS URL over TLS is trusted as the registration says."""
        server_context, client_context = _tls(tmp_path)
        with SmartTestServer(ssl_context=server_context) as client_side:
            url = client_side.publish("/jwks.json", KEY.jwks)
            trusted = smart_server.register("client", jwks_uri=url, ssl_context=client_context)
            untrusted = smart_server.register("other", jwks_uri=url)

            assert (KEY.jwk,) == trusted.keys()
            with pytest.raises(keystay.testing.RequestRefusedError, match="jwks-unavailable"):
                untrusted.keys()


class TestLog:
    """The event log."""

    def test_of_and_clear(self, http: httpx.Client, smart_server: SmartTestServer) -> None:
        """Events are found by kind, counted and forgotten."""
        log: EventLog = smart_server.log
        http.get(smart_server.smart_configuration_url)
        http.post(smart_server.token_endpoint)

        assert [2, 1, 1] == [len(log), len(log.of("discovery")), len(log.refusals)]
        log.clear()
        assert (0, None) == (len(log), log.last_refusal)


def test_public_names() -> None:
    """The public names are sorted, and each exists."""
    names = keystay.testing.__all__

    assert sorted(names) == names
    assert all(hasattr(keystay.testing, name) for name in names)


def test_pytest_fixture(keystay_smart_server: SmartTestServer) -> None:
    """The fixture for users' tests gives a running server."""
    assert 200 == httpx.get(keystay_smart_server.smart_configuration_url).status_code


def _tls(directory: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Certify 127.0.0.1 for an hour; return the server's and the client's context."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "keystay test")])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = directory / "tls.pem", directory / "tls.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate_file, key_file)
    return server, ssl.create_default_context(cafile=str(certificate_file))
