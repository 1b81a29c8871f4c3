"""Serves the set over plain HTTP with the standard library; TLS is the reverse proxy's job."""

from __future__ import annotations

import http.server
import logging
import socket
from collections.abc import Callable
from typing import Any

from keystay.errors import ConfigurationError
from keystay.ops.publishing.response import Response

__all__ = ["SetServer"]

logger = logging.getLogger("keystay.publishing")

# Seconds: whoever sends nothing for so long is let go.
_IDLE_TIMEOUT = 15.0


class SetServer(http.server.ThreadingHTTPServer):
    """A listening server; `serve_forever()` answers.

    Args:
        answers: From method, path and If-None-Match to the answer.
        host: Address to listen on.
        port: 0 for any that is free.

    Raises:
        ConfigurationError: The address cannot be listened on.
    """

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, answers: Callable[..., Response], host: str, port: int) -> None:
        self.answers = answers
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            self.address_family, *_, address = found[0]
            super().__init__(address[:2], _Handler)  # type: ignore[arg-type]
        except (OSError, UnicodeError) as error:  # UnicodeError: it cannot be a host's name
            why = getattr(error, "strerror", None) or "it is no host name"
            raise ConfigurationError(
                f"{host}, port {port}, cannot be listened on: {why}.",
                cause="Another program listens there, or the address is not this machine's.",
                hint="Choose another with --host and --port.",
                code="address-unusable",
            ) from error

    @property
    def origin(self) -> str:
        """Scheme, host and port."""
        host, port = self.server_address[:2]
        name = host.decode() if isinstance(host, bytes) else str(host)
        return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"

    def server_bind(self) -> None:
        """Bind; the base class would look the host's name up, which may take long."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients come and go."""
        logger.debug("a connection ended early", extra={"event": "connection-ended"})


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_TIMEOUT
    server: SetServer

    def __getattr__(self, name: str) -> Any:
        """Every method is answered alike: the base class looks for `do_GET` and so on."""
        if name.startswith("do_"):
            return self._answer
        raise AttributeError(name)

    def version_string(self) -> str:
        """What the Server header says."""
        return "keystay"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base class's name
        """Requests are no news."""
        logger.debug(
            "%s " + format,  # noqa: G003
            self.address_string(),
            *args,
            extra={"event": "jwks-request"},
        )

    def _answer(self) -> None:
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body nobody reads
        response = self.server.answers(
            self.command,
            self.path.partition("?")[0],
            if_none_match=self.headers.get("If-None-Match"),
        )
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(response.body)
