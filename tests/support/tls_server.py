"""A SMART server over TLS that counts handshakes, and notices when a connection ends."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING, Self

from tests.support.raw_server import RawServer, read_request
from tests.support.token_clients import grant

if TYPE_CHECKING:
    import socket
    import ssl

__all__ = ["TLSServer"]

# Seconds until the end of a connection is missed; servers and clients keep idle ones for longer.
_PATIENCE = 3.0


class TLSServer(RawServer):
    """Answers discovery and token requests of any client, on connections it never closes itself.

    Args:
        tls: Its certificate.
        token_endpoint: What discovery names; default this server's own.

    Attributes:
        handshakes: How many there were.
        paths: Of the requests, in order.
    """

    def __init__(self, tls: ssl.SSLContext, token_endpoint: str | None = None) -> None:
        self.handshakes = 0
        self.paths: list[str] = []
        self._ended, self._noticed = threading.Semaphore(0), 0
        self.token_endpoint = ""
        super().__init__(_talk, tls=tls)
        self.token_endpoint = token_endpoint or f"{self.origin}/token"

    def __enter__(self) -> Self:
        """Return the running server."""
        return self

    def all_ended(self, count: int) -> bool:
        """Whether so many connections were made in all, and the client has ended each."""
        while self._noticed < count and self._ended.acquire(timeout=_PATIENCE):
            self._noticed += 1
        return count == self._noticed == self.handshakes

    def answer_all(self, connection: socket.socket) -> None:
        """Answer one request after the other until the client ends the connection."""
        self.handshakes += 1
        try:
            with contextlib.suppress(OSError):
                while True:
                    self._answer(connection)
        finally:
            self._ended.release()

    def _answer(self, connection: socket.socket) -> None:
        path = read_request(self, connection).split()[1].decode()
        self.paths.append(path)
        body = grant().body
        if "well-known" in path:
            found = {"token_endpoint": self.token_endpoint, "capabilities": []}
            body = json.dumps(found).encode()
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nSet-Cookie: a=%d\r\n"
            b"Content-Length: %d\r\n\r\n%s" % (len(self.paths), len(body), body)
        )


def _talk(server: RawServer, connection: socket.socket) -> None:
    assert isinstance(server, TLSServer)
    server.answer_all(connection)
