"""HTTP on a loopback port for a function from request to reply; closes without leaving a thread."""

from __future__ import annotations

import contextlib
import http.server
import logging
import socket
import socketserver
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Self

from keystay.testing.messages import Reply, Request

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

LONGEST_BODY = 1024 * 1024
"""Bytes of a request body that are read at all; a longer one is answered with 413."""

_logger = logging.getLogger(__name__)
_IDLE_TIMEOUT = 30.0
_POLL_INTERVAL = 0.02


class LoopbackServer:
    """Serves one function on 127.0.0.1, each connection in a thread of its own.

    Args:
        handle: Answers a request.
        ssl_context: Serve TLS with it; plain HTTP when None.
        hostname: `127.0.0.1` or `localhost`: how the URL names this machine.
        clock: The time that `Date` says, in seconds since the epoch.

    Raises:
        ValueError: The host name is not a loopback one.
    """

    def __init__(
        self,
        handle: Callable[[Request], Reply],
        *,
        ssl_context: ssl.SSLContext | None = None,
        hostname: str = "127.0.0.1",
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Bind a free port and start to serve."""
        if hostname not in ("127.0.0.1", "localhost"):
            raise ValueError(f"only 127.0.0.1 and localhost are served, not {hostname}")
        self._http = _Server(handle, clock)
        if ssl_context is not None:
            self._http.socket = ssl_context.wrap_socket(
                self._http.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "http" if ssl_context is None else "https"
        self.origin = f"{scheme}://{hostname}:{self._http.server_address[1]}"
        self._thread = threading.Thread(
            target=self._http.serve_forever,
            args=(_POLL_INTERVAL,),
            name=f"keystay-testing-{self.origin}",
            daemon=True,
        )
        self._thread.start()

    def close(self) -> None:
        """Stop serving, end every connection and wait for the threads; safe to repeat."""
        self._http.stop()
        self._thread.join()

    def __enter__(self) -> Self:
        """Return the running server."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()


class _Server(socketserver.ThreadingTCPServer):
    """Knows its open connections, so that stopping need not wait for idle clients."""

    allow_reuse_address = True
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(self, handle: Callable[[Request], Reply], clock: Callable[[], float]) -> None:
        self.handle, self.clock = handle, clock
        self.closing = threading.Event()
        self._connections: set[socket.socket] = set()
        self._guard = threading.Lock()
        super().__init__(("127.0.0.1", 0), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        with self._guard:
            self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        with self._guard:
            self._connections.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Stay quiet about clients that go away; say nothing that came from a request."""
        error = sys.exception()
        if not isinstance(error, OSError):
            _logger.error("a handler failed: %s", type(error).__name__)

    def stop(self) -> None:
        if self.closing.is_set():
            return
        self.closing.set()
        self.shutdown()
        with self._guard:
            for connection in self._connections:
                with contextlib.suppress(OSError):
                    # Not the SSL layer's: the thread that reads there sees an end of file.
                    socket.socket.shutdown(connection, socket.SHUT_RDWR)
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    """Turns bytes into a `Request` and a `Reply` into bytes."""

    protocol_version = "HTTP/1.1"
    server_version = "keystay-testing"
    sys_version = ""
    timeout = _IDLE_TIMEOUT
    server: _Server

    def __getattr__(self, name: str) -> Any:
        """Serve every method alike: `BaseHTTPRequestHandler` looks for `do_GET` and so on."""
        if name.startswith("do_"):
            return self._serve
        raise AttributeError(name)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base class's name)
        """Write nothing: requests are in the event log."""

    def _serve(self) -> None:
        body = self._read_body()
        if body is None:
            return
        headers: dict[str, str] = {}
        for name, value in self.headers.items():
            known = headers.get(name.lower())
            headers[name.lower()] = value if known is None else f"{known}, {value}"
        self._send(self.server.handle(Request(self.command, self.path, headers, body)))

    def _read_body(self) -> bytes | None:
        """Read the body, or answer why not (RFC 9110 sections 15.5.12 and 15.5.14)."""
        length = self.headers.get("Content-Length", "0")
        refused = None
        if "Transfer-Encoding" in self.headers:
            refused = 411
        elif not (length.isascii() and length.isdigit()):
            refused = 400
        elif int(length) > LONGEST_BODY:
            refused = 413
        if refused is None:
            body = self.rfile.read(int(length))
            if len(body) == int(length):
                return body
            refused = 400
        self.close_connection = True
        self._send(Reply(refused, {"Connection": "close"}))
        return None

    def _send(self, reply: Reply) -> None:
        if reply.delay:
            self.server.closing.wait(reply.delay)
        if reply.disconnect:
            self.close_connection = True
            return
        names = {name.lower() for name in reply.headers}
        self.send_response_only(reply.status)
        self.send_header("Server", self.version_string())
        if "date" not in names:
            self.send_header("Date", self.date_time_string(int(self.server.clock())))
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if "content-length" not in names and reply.status not in (204, 304):
            self.send_header("Content-Length", str(len(reply.body)))
        elif "content-length" in names:
            self.close_connection = True
        self.end_headers()
        if self.command == "HEAD":
            return
        if not reply.drip:
            self.wfile.write(reply.body)
            return
        for byte in reply.body:
            if self.server.closing.wait(reply.drip):
                return
            self.wfile.write(bytes((byte,)))
