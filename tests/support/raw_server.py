"""A TCP server on loopback that misbehaves as a test wants: what HTTP libraries would not send."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

__all__ = ["RawServer", "answer", "read_request", "unserved_port"]

_IDLE = 30.0


class RawServer:
    """Hands each connection to a function, in a thread of its own.

    Args:
        talk: Given the connected socket; the connection is closed when it returns.
        tls: Serve TLS with it.
        accepts: False for a server that listens and never accepts, its queue full.

    Attributes:
        requests: What `read_request` of each connection returned.
        connections: How many there were.
    """

    def __init__(
        self,
        talk: Callable[[RawServer, socket.socket], None],
        *,
        tls: ssl.SSLContext | None = None,
        accepts: bool = True,
    ) -> None:
        self._talk, self._tls = talk, tls
        self.requests: list[bytes] = []
        self.connections = 0
        self.closing = threading.Event()
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket()
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64 if accepts else 0)
        self.port = self._listener.getsockname()[1]
        self.origin = f"{'http' if tls is None else 'https'}://127.0.0.1:{self.port}"
        if accepts:
            self._start(self._accept)
        else:
            self._fill_queue()

    def wait(self, seconds: float) -> bool:
        """Pause; True when the test is over."""
        return self.closing.wait(seconds)

    def __enter__(self) -> Self:
        """Return the running server."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close everything and wait for the threads."""
        self.closing.set()
        for found in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                found.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for found in (self._listener, *self._open):
            found.close()

    def _start(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _fill_queue(self) -> None:
        for _ in range(4):
            waiting = socket.socket()
            waiting.setblocking(False)
            waiting.connect_ex(("127.0.0.1", self.port))
            self._open.append(waiting)

    def _accept(self) -> None:
        while not self.closing.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            connection.settimeout(_IDLE)
            self._open.append(connection)
            self._start(lambda connection=connection: self._serve(connection))  # type: ignore[misc]

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            if self._tls is not None:
                connection = self._tls.wrap_socket(connection, server_side=True)
            stack.callback(connection.close)
            self._talk(self, connection)


def read_request(server: RawServer, connection: socket.socket) -> bytes:
    """Read one HTTP request with its body, and note it."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = connection.recv(65536)
        if not chunk:
            raise ConnectionError
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        (
            int(line.partition(b":")[2])
            for line in head.split(b"\r\n")
            if line.lower().startswith(b"content-length:")
        ),
        0,
    )
    while len(body) < length:
        body += connection.recv(65536)
    request = head + b"\r\n\r\n" + body
    server.requests.append(request)
    return request


def answer(
    raw: bytes = b"", *, status: str = "200 OK", headers: dict[str, str] | None = None
) -> Callable[[RawServer, socket.socket], None]:
    """A talk that reads the request and sends a well-formed answer."""

    def talk(server: RawServer, connection: socket.socket) -> None:
        read_request(server, connection)
        fields = {"Content-Length": str(len(raw)), "Connection": "close", **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        connection.sendall(f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + raw)

    return talk


@contextlib.contextmanager
def unserved_port() -> Iterator[int]:
    """A port where nothing listens, and nothing will while the block runs."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]
