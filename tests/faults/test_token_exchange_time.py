"""Whatever a server does with its time, the exchange is over within the timeout and a second."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

import keystay
from keystay.errors import NetworkError, NetworkTimeoutError
from keystay.http.settings import HttpSettings
from tests.support.certificates import Authority
from tests.support.raw_server import RawServer, answer, read_request
from tests.support.secrets_watch import WATCH
from tests.support.token_clients import client_settings, grant

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from keystay.signer import Signer

pytestmark = pytest.mark.usefixtures("no_environment", "nothing_left", "http_library")

TIMEOUT = 0.4
GRACE = 1.0
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"


def silent(server: RawServer, connection: socket.socket) -> None:
    """Read the request and never answer."""
    read_request(server, connection)
    server.closing.wait()


def deaf(server: RawServer, connection: socket.socket) -> None:
    """Do not even read."""
    server.closing.wait()


def drip(data: bytes) -> Callable[[RawServer, socket.socket], None]:
    """Send byte after byte, each well within any timeout for a read."""

    def talk(server: RawServer, connection: socket.socket) -> None:
        read_request(server, connection)
        for byte in data:
            connection.sendall(bytes((byte,)))
            if server.wait(0.05):
                return

    return talk


def stop_midway(server: RawServer, connection: socket.socket) -> None:
    """Send half an answer, then nothing."""
    read_request(server, connection)
    connection.sendall(HEAD + b'Content-Length: 100\r\n\r\n{"access_')
    server.closing.wait()


def drip_body(server: RawServer, connection: socket.socket) -> None:
    """The headers at once, and then byte after byte."""
    read_request(server, connection)
    connection.sendall(HEAD + b"Content-Length: 5000\r\n\r\n")
    while not server.wait(0.05):
        connection.sendall(b" ")


def stop_midway_without_length(server: RawServer, connection: socket.socket) -> None:
    """The same, where only the end of the connection would end the body."""
    read_request(server, connection)
    connection.sendall(HEAD + b"Connection: close\r\n\r\n" + grant().body)
    server.closing.wait()


def continues(server: RawServer, connection: socket.socket) -> None:
    """Send interim answers for ever."""
    read_request(server, connection)
    while not server.wait(0.05):
        connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")


SLOW: dict[str, dict[str, Any]] = {
    "never-accepts": {"talk": silent, "accepts": False},
    "never-reads": {"talk": deaf},
    "never-answers": {"talk": silent},
    "drips-headers": {"talk": drip(HEAD * 100)},
    "drips-body": {"talk": drip(HEAD + b"Content-Length: 5000\r\n\r\n" + b" " * 5000)},
    "drips-body-without-length": {"talk": drip(HEAD + b"\r\n" + b" " * 5000)},
    "drips-chunks": {
        "talk": drip(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 1000)
    },
    "stops-midway": {"talk": stop_midway},
    "stops-midway-without-length": {"talk": stop_midway_without_length},
    "interim-answers": {"talk": continues},
}


def late(error: NetworkTimeoutError, began: float) -> None:
    """In time, told with the remedy, and without a secret."""
    took = time.monotonic() - began
    assert took < TIMEOUT + GRACE
    assert ("network-timeout", 4) == (error.code, error.exit_code)
    assert "within 0.4 s" in error.message
    assert error.hint
    WATCH.check(f"{error}{error!r}", "the error")


def settings(server: RawServer, signer: Signer, **more: Any) -> dict[str, Any]:
    """A client of this server."""
    url = f"{server.origin}/token"
    return client_settings(
        signer, fhir_base_url=server.origin, token_endpoint=url, timeout=TIMEOUT, **more
    )


@pytest.mark.parametrize("options", SLOW.values(), ids=SLOW)
def test_sync(
    raw_server: Callable[..., RawServer], pem_signer: Signer, options: dict[str, Any]
) -> None:
    """A thread is let go in time."""
    server = raw_server(**options)
    with keystay.TokenClient(**settings(server, pem_signer)) as client:
        began = time.monotonic()
        with pytest.raises(NetworkTimeoutError) as caught:
            client.token()
        late(caught.value, began)
        # The connection is cut at our end: the thread ends though the server goes on.
        wait_for_exchanges(0.5)


class TestWithoutThreads:
    """No thread is to be had: the limit is reached, or the interpreter ends."""

    @pytest.fixture(autouse=True)
    def no_threads(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """None for exchanges; the servers here need theirs."""
        start = threading.Thread.start

        def refuse(thread: threading.Thread) -> None:
            if thread.name == "keystay-http":
                raise RuntimeError("can't start new thread")
            start(thread)

        monkeypatch.setattr(threading.Thread, "start", refuse)

    def test_granted(self, raw_server: Callable[..., RawServer], pem_signer: Signer) -> None:
        """The exchange runs in the caller's thread."""
        server = raw_server(answer(grant().body))
        with keystay.TokenClient(**settings(server, pem_signer)) as client:
            assert not client.token().expired

    @pytest.mark.parametrize("talk", [silent, stop_midway, drip_body], ids=lambda f: f.__name__)
    def test_late(
        self, raw_server: Callable[..., RawServer], pem_signer: Signer, talk: Any
    ) -> None:
        """It is over in time there too, once the headers have come."""
        server = raw_server(talk)
        with keystay.TokenClient(**settings(server, pem_signer)) as client:
            began = time.monotonic()
            with pytest.raises(NetworkTimeoutError) as caught:
                client.token()
            late(caught.value, began)


@pytest.mark.parametrize("options", SLOW.values(), ids=SLOW)
async def test_async(
    raw_server: Callable[..., RawServer], pem_signer: Signer, options: dict[str, Any]
) -> None:
    """A task is let go in time, under asyncio and trio."""
    server = raw_server(**options)
    async with keystay.AsyncTokenClient(**settings(server, pem_signer)) as client:
        began = time.monotonic()
        with pytest.raises(NetworkTimeoutError) as caught:
            await client.token()
        late(caught.value, began)


@pytest.fixture
def stalling(raw_server: Callable[..., RawServer]) -> RawServer:
    """A server that takes a TLS ClientHello and says nothing."""

    def talk(server: RawServer, connection: socket.socket) -> None:
        connection.recv(65536)
        server.closing.wait()

    server = raw_server(talk)
    server.origin = server.origin.replace("http:", "https:")
    return server


def test_tls_handshake_stalls(stalling: RawServer, pem_signer: Signer) -> None:
    """A stalled handshake ends like any other silence."""
    with keystay.TokenClient(**settings(stalling, pem_signer)) as client:
        began = time.monotonic()
        with pytest.raises(NetworkTimeoutError) as caught:
            client.token()
        late(caught.value, began)


async def test_tls_handshake_stalls_async(stalling: RawServer, pem_signer: Signer) -> None:
    """The same, asynchronous."""
    async with keystay.AsyncTokenClient(**settings(stalling, pem_signer)) as client:
        began = time.monotonic()
        with pytest.raises(NetworkTimeoutError) as caught:
            await client.token()
        late(caught.value, began)


@pytest.fixture
def dripping_tls(raw_server: Callable[..., RawServer], tmp_path: Path) -> tuple[RawServer, Path]:
    """A server that drips over TLS, where closing politely would wait for it."""
    authority = Authority(tmp_path)
    body = b"Content-Length: 5000\r\n\r\n" + b" " * 5000
    return raw_server(drip(HEAD + body), tls=authority.server_context()), authority.bundle


def test_drips_over_tls(dripping_tls: tuple[RawServer, Path], pem_signer: Signer) -> None:
    """Inside TLS the deadline holds as well."""
    server, bundle = dripping_tls
    http = HttpSettings(ca_bundle=str(bundle))
    with keystay.TokenClient(http=http, **settings(server, pem_signer)) as client:
        began = time.monotonic()
        with pytest.raises(NetworkTimeoutError) as caught:
            client.token()
        late(caught.value, began)


async def test_drips_over_tls_async(
    dripping_tls: tuple[RawServer, Path], pem_signer: Signer
) -> None:
    """The same, asynchronous."""
    server, bundle = dripping_tls
    http = HttpSettings(ca_bundle=str(bundle))
    async with keystay.AsyncTokenClient(http=http, **settings(server, pem_signer)) as client:
        began = time.monotonic()
        with pytest.raises(NetworkTimeoutError) as caught:
            await client.token()
        late(caught.value, began)


def test_kept_connection_of_ones_own_client(
    raw_server: Callable[..., RawServer], pem_signer: Signer, http_library: Any
) -> None:
    """A server that drips over a connection the caller's client kept is late all the same."""

    def talk(server: RawServer, connection: socket.socket) -> None:
        read_request(server, connection)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
        drip(HEAD * 100)(server, connection)

    server = raw_server(talk)
    with http_library.Client() as own:
        own.get(server.origin)
        with keystay.TokenClient(http=own, **settings(server, pem_signer)) as client:
            began = time.monotonic()
            with pytest.raises(NetworkTimeoutError) as caught:
                client.token()
            late(caught.value, began)
        assert 1 == server.connections
        server.closing.set()


@pytest.mark.parametrize("addresses", [1, 5])
def test_name_with_many_silent_addresses(
    raw_server: Callable[..., RawServer],
    pem_signer: Signer,
    monkeypatch: pytest.MonkeyPatch,
    addresses: int,
) -> None:
    """Five addresses behind a firewall that drops packets take no longer than one."""
    server = raw_server(silent, accepts=False)
    found = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *a, **k: [found] * addresses)
    with keystay.TokenClient(**settings(server, pem_signer)) as client:
        began = time.monotonic()
        with pytest.raises(NetworkTimeoutError) as caught:
            client.token()
        late(caught.value, began)
    wait_for_exchanges(addresses * TIMEOUT + 1)


def test_resolver_hangs(pem_signer: Signer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name server that does not answer keeps nobody beyond the timeout."""
    over = threading.Event()

    def hang(*args: Any, **kwargs: Any) -> Any:
        over.wait(10)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    base: dict[str, Any] = {"fhir_base_url": "https://ehr.example.org", "timeout": TIMEOUT}
    with keystay.TokenClient(**client_settings(pem_signer, **base)) as client:
        began = time.monotonic()
        with pytest.raises(NetworkTimeoutError) as caught:
            client.token()
        late(caught.value, began)
        over.set()
        wait_for_exchanges(1)


def wait_for_exchanges(seconds: float) -> None:
    """Wait until the threads of abandoned exchanges have ended."""
    until = time.monotonic() + seconds
    while any(t.name == "keystay-http" for t in threading.enumerate()):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_whole_exchange_shares_one_deadline(
    raw_server: Callable[..., RawServer], pem_signer: Signer
) -> None:
    """Discovery that takes most of the time leaves the rest to the token request."""

    def talk(server: RawServer, connection: socket.socket) -> None:
        request = read_request(server, connection)
        if server.wait(0.3):
            return
        if request.startswith(b"GET"):
            body = b'{"token_endpoint":"/token"}'
            head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
            connection.sendall(head + body)
            read_request(server, connection)
        server.closing.wait()

    server = raw_server(talk)
    base: dict[str, Any] = {"fhir_base_url": server.origin, "timeout": TIMEOUT}
    with keystay.TokenClient(**client_settings(pem_signer, **base)) as client:
        began = time.monotonic()
        with pytest.raises(NetworkTimeoutError, match="token request") as caught:
            client.token()
        late(caught.value, began)
    assert [b"GET", b"POST"] == [request.split()[0] for request in server.requests]


def endless(server: RawServer, connection: socket.socket) -> None:
    """Send a gigabyte, as fast as it is taken."""
    read_request(server, connection)
    connection.sendall(HEAD + b"Content-Length: 1000000000\r\n\r\n")
    for _ in range(1000):
        connection.sendall(b" " * 1_000_000)
        server.requests.append(b"a megabyte")


def test_gigabyte(raw_server: Callable[..., RawServer], pem_signer: Signer) -> None:
    """A gigabyte is left unread after 256 KiB."""
    server = raw_server(endless)
    with (
        keystay.TokenClient(**settings(server, pem_signer)) as client,
        pytest.raises(NetworkError, match="longer than 262144 bytes") as caught,
    ):
        client.token()
    assert "network-too-large" == caught.value.code
    assert len(server.requests) < 30


async def test_gigabyte_async(raw_server: Callable[..., RawServer], pem_signer: Signer) -> None:
    """The same, asynchronous."""
    server = raw_server(endless)
    async with keystay.AsyncTokenClient(**settings(server, pem_signer)) as client:
        with pytest.raises(NetworkError, match="longer than 262144 bytes"):
            await client.token()
    assert len(server.requests) < 30


def test_nothing_is_sent_when_no_time_is_left(
    raw_server: Callable[..., RawServer], pem_signer: Signer
) -> None:
    """A deadline that has passed sends no assertion at all."""
    server = raw_server(answer(grant().body))
    options = settings(server, pem_signer) | {"timeout": 0.0}
    with keystay.TokenClient(**options) as client, pytest.raises(keystay.KeystayError):
        client.token()
    assert [] == server.requests
