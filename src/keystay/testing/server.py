"""The strict authorization server and the FHIR server, on one loopback port, for a `with` block."""

from __future__ import annotations

import collections
import threading
import time
import urllib.parse
from typing import TYPE_CHECKING, Any, Self

from keystay.testing.assertion_rules import ALGORITHM_NAMES
from keystay.testing.authorization_server import AuthorizationServer, ErrorStyle
from keystay.testing.event_log import EventLog
from keystay.testing.fhir_server import FHIRServer
from keystay.testing.loopback import LoopbackServer
from keystay.testing.messages import NO_HEADERS, Reply, Request
from keystay.testing.registration_server import RegistrationServer

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterable, Mapping

_FHIR_PATH = "/fhir"
_REGISTRATION_PATH = "/oauth2/register"
_TOKEN_PATH = "/oauth2/token"  # noqa: S105  (a path)


class SmartTestServer:
    """A SMART server on 127.0.0.1, for tests and demonstrations only.

    Example:
        >>> with SmartTestServer() as server:  # doctest: +SKIP
        ...     server.register("my-client", jwks=jwks)
        ...     client = TokenClient(fhir_base_url=server.fhir_base_url, ...)
        ...     client.token()
        ...     server.log.last_refusal

    Args:
        ssl_context: Serve TLS with it; plain HTTP when None.
        hostname: `127.0.0.1` or `localhost`, as in the certificate.
        clock: The time now, in seconds since the epoch; for tests of clocks that disagree.
        algorithm_names: The `alg` values accepted and advertised.
        token_lifetime: Seconds that an access token lives.
        extra_scopes: Scopes known besides `system/`, such as a vendor's own.
        error_style: How much an error tells the client.
        correlation_header: A response header that carries an id for each request, or None.
        initial_access_token: Demanded for dynamic registration when given.

    Attributes:
        log: Every request with the precise reason of each refusal.
        authorization_server: The token endpoint; its settings may be changed while it runs.
        fhir_server: The FHIR server.
        registration_server: The endpoint for dynamic registration.
        origin: Scheme, host and port.
        fhir_base_url: The FHIR base URL.
        token_endpoint: The URL of the token endpoint.
        register: Registers a client, or replaces its registration; see `RegisteredClient`.
        revoke_tokens: Makes every access token issued so far worthless.
    """

    def __init__(
        self,
        *,
        ssl_context: ssl.SSLContext | None = None,
        hostname: str = "127.0.0.1",
        clock: Callable[[], float] = time.time,
        algorithm_names: Iterable[str] = ALGORITHM_NAMES,
        token_lifetime: int = 300,
        extra_scopes: Iterable[str] = (),
        error_style: ErrorStyle = ErrorStyle.DESCRIBED,
        correlation_header: str | None = None,
        initial_access_token: str | None = None,
    ) -> None:
        """Bind a free port and serve until closed."""
        self.log = EventLog()
        self._scripts: dict[str, collections.deque[Reply | None]] = {}
        self._documents: dict[str, Reply] = {}
        self._lock = threading.Lock()
        self._ready = threading.Event()
        self._loopback = LoopbackServer(
            self._handle, ssl_context=ssl_context, hostname=hostname, clock=clock
        )
        self.origin = self._loopback.origin
        self.fhir_base_url = f"{self.origin}{_FHIR_PATH}"
        self.token_endpoint = f"{self.origin}{_TOKEN_PATH}"
        self.authorization_server = AuthorizationServer(
            self.token_endpoint,
            log=self.log,
            clock=clock,
            algorithm_names=algorithm_names,
            token_lifetime=token_lifetime,
            extra_scopes=extra_scopes,
            error_style=error_style,
            correlation_header=correlation_header,
        )
        self.registration_server = RegistrationServer(
            f"{self.origin}{_REGISTRATION_PATH}",
            self.authorization_server,
            initial_access_token=initial_access_token,
        )
        self.fhir_server = FHIRServer(
            self.fhir_base_url,
            self.authorization_server,
            registration_endpoint=self.registration_server.endpoint,
        )
        self.register = self.authorization_server.register
        self.revoke_tokens = self.authorization_server.revoke_tokens
        self._ready.set()

    def __repr__(self) -> str:
        """Show where it serves."""
        return f"<SmartTestServer {self.fhir_base_url}>"

    @property
    def smart_configuration_url(self) -> str:
        """The URL of the SMART configuration."""
        return f"{self.fhir_base_url}/.well-known/smart-configuration"

    def script(self, path: str, replies: Iterable[Reply | None]) -> None:
        """Answer the next requests to a path with these replies, in this order.

        Args:
            path: A path of this server, or a URL of it.
            replies: One for each request; None lets a request through to the real handling.
        """
        with self._lock:
            self._scripts.setdefault(self._path(path), collections.deque()).extend(replies)

    def publish(self, path: str, document: Any, *, headers: Mapping[str, str] = NO_HEADERS) -> str:
        """Serve a JSON document at a path, such as a client's JWK Set; return its URL."""
        reply = Reply.json(document, headers=headers)
        with self._lock:
            self._documents[self._path(path)] = reply
        return f"{self.origin}{self._path(path)}"

    def close(self) -> None:
        """Stop serving and wait for the threads; safe to repeat."""
        self._loopback.close()

    def __enter__(self) -> Self:
        """Return the running server."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()

    def _path(self, path: str) -> str:
        path = path.removeprefix(self.origin)
        if not path.startswith("/"):
            raise ValueError(f"{path} is no path of {self.origin}")
        return path

    def _handle(self, request: Request) -> Reply:
        self._ready.wait()
        scripted = self._next_scripted(request.path)
        if scripted is not None:
            status = 0 if scripted.disconnect else scripted.status
            self.log.record("scripted", request, status=status, parameters=_form_names(request))
            return scripted
        if request.path == _TOKEN_PATH:
            return self.authorization_server.handle(request)
        if self.registration_server.answers(request.path):
            return self.registration_server.handle(request)
        if request.path == _FHIR_PATH or request.path.startswith(f"{_FHIR_PATH}/"):
            return self.fhir_server.handle(request)
        with self._lock:
            document = self._documents.get(request.path)
        if document is None:
            document = Reply.json({"error": "not_found"}, status=404)
        self.log.record("document", request, status=document.status)
        return document

    def _next_scripted(self, path: str) -> Reply | None:
        with self._lock:
            replies = self._scripts.get(path)
            return replies.popleft() if replies else None


def _form_names(request: Request) -> tuple[str, ...]:
    """Name the parameters of a form body, for the log."""
    pairs = urllib.parse.parse_qsl(request.body.decode("latin-1"), keep_blank_values=True)
    return tuple(name for name, _ in pairs)
