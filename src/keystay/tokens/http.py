"""Sends a flow's requests with httpx: one deadline, bounded size, no redirect.

httpx's own timeouts bound each read, so a server that drips a byte at a time is never late.
Under asyncio and trio a cancel scope ends the exchange; in a thread a timer shuts the socket.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import metadata
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import httpx

from keystay.backends.secrets import SecretResolver
from keystay.errors import ConfigurationError, NetworkError, NetworkTimeoutError
from keystay.smart.messages import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from keystay.backends.port import Deadline
    from keystay.config import HttpSettings

__all__ = ["new_async_client", "new_client", "send", "send_async"]


def new_client(settings: HttpSettings) -> httpx.Client:
    """A client for token requests and FHIR reads. No connection is kept: see `_LIMITS`."""
    return httpx.Client(**_options(settings))


def new_async_client(settings: HttpSettings) -> httpx.AsyncClient:
    """As `new_client`, asynchronous."""
    return httpx.AsyncClient(**_options(settings))


def send(
    client: httpx.Client,
    request: HttpRequest,
    deadline: Deadline,
    *,
    auth: httpx.Auth | None = None,
) -> HttpResponse:
    """Send one request and read the whole answer, by the deadline.

    Args:
        client: Its TLS settings and proxy are used; its default headers, cookies and auth are not.
        request: What to send.
        deadline: When to give up.
        auth: For requests that carry a token.

    Raises:
        NetworkTimeoutError: The deadline passed.
        NetworkError: Anything else that kept an answer from coming back whole.
    """
    with _watchdog(deadline) as watchdog, _mapped(request, deadline):
        message = _message(client, request, deadline)
        message.extensions["trace"] = watchdog.trace
        response = client.send(message, auth=auth, stream=True, follow_redirects=False)
        try:
            watchdog.watch(response.extensions.get("network_stream"))
            _refuse_encoded(request, response)
            body = bytearray()
            for chunk in response.iter_raw():
                _extend(body, chunk, request)
        finally:
            response.close()
        return _answer(response, body)


async def send_async(
    client: httpx.AsyncClient, request: HttpRequest, deadline: Deadline
) -> HttpResponse:
    """As `send`, for an asynchronous client."""
    with _mapped(request, deadline), anyio.fail_after(deadline.remaining):
        response = await client.send(
            _message(client, request, deadline), auth=None, stream=True, follow_redirects=False
        )
        try:
            _refuse_encoded(request, response)
            body = bytearray()
            async for chunk in response.aiter_raw():
                _extend(body, chunk, request)
        finally:
            with anyio.CancelScope(shield=True):
                await response.aclose()
        return _answer(response, body)


# A token is asked for every few minutes. By then a firewall has often dropped the idle
# connection without a word, so every exchange opens its own.
_LIMITS = httpx.Limits(max_keepalive_connections=0)


def _options(settings: HttpSettings) -> dict[str, Any]:
    secrets = SecretResolver()
    agent = settings.user_agent or f"keystay/{metadata.version('keystay')}"
    options: dict[str, Any] = {
        "verify": _tls(settings, secrets),
        "timeout": settings.timeout,
        "limits": _LIMITS,
        "headers": {"User-Agent": agent},
    }
    if settings.proxy is not None:
        options["proxy"] = _proxy(settings, secrets)
    return options


def _tls(settings: HttpSettings, secrets: SecretResolver) -> ssl.SSLContext:
    try:
        context = (
            ssl.create_default_context(cafile=settings.ca_bundle)
            if settings.ca_bundle
            else httpx.create_ssl_context()
        )
    except (OSError, ssl.SSLError) as error:
        raise ConfigurationError(
            f"The CA bundle {settings.ca_bundle} cannot be used: {_reason(error)}.",
            hint="Name a PEM file with your organisation's CA certificates.",
            code="ca-bundle-invalid",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.client_cert:
        passphrase = secrets.resolve(
            settings.client_key_passphrase, "the passphrase of the client certificate's key"
        )
        try:
            context.load_cert_chain(
                settings.client_cert,
                settings.client_key,
                # Never let OpenSSL ask on the terminal.
                passphrase.reveal() if passphrase else "",
            )
        except (OSError, ssl.SSLError) as error:
            raise ConfigurationError(
                f"The client certificate {settings.client_cert} cannot be used: {_reason(error)}.",
                hint="Check client_cert, client_key and client_key_passphrase; the key must belong "
                "to the certificate.",
                code="client-cert-invalid",
            ) from error
    return context


def _proxy(settings: HttpSettings, secrets: SecretResolver) -> httpx.Proxy:
    url = settings.proxy or ""
    parts = urlsplit(url)
    if parts.username is not None or parts.password is not None:
        raise ConfigurationError(
            "The proxy URL holds credentials.",
            hint="Leave them out and set proxy_credentials to a reference: "
            'proxy_credentials = "file:/run/secrets/proxy" with user:password in it.',
            code="proxy-secret",
        )
    credentials = secrets.resolve(settings.proxy_credentials, "the proxy's user:password")
    auth = None
    if credentials is not None:
        user, colon, password = credentials.reveal().partition(":")
        if not colon:
            raise ConfigurationError("proxy_credentials does not refer to user:password.")
        auth = (user, password)
    try:
        return httpx.Proxy(url, auth=auth)
    except (ValueError, httpx.InvalidURL):
        raise ConfigurationError(
            "The proxy is not a URL that can be used.", hint="Write http://proxy.example.org:3128."
        ) from None


def _message(
    client: httpx.Client | httpx.AsyncClient, request: HttpRequest, deadline: Deadline
) -> httpx.Request:
    # Made here, not by the client: its default headers, cookies and auth stay out.
    headers = {
        "User-Agent": client.headers.get("User-Agent", "keystay"),
        "Accept-Encoding": "identity",
        "Connection": "close",
        **request.headers,
    }
    timeout = httpx.Timeout(max(deadline.remaining, 0.001)).as_dict()
    return httpx.Request(
        request.method,
        request.url,
        headers=headers,
        content=request.body,
        extensions={"timeout": timeout},
    )


class _Watchdog:
    """Shuts the exchange's socket when the deadline passes."""

    def __init__(self, deadline: Deadline) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._barked = False
        self._timer = threading.Timer(deadline.remaining, self._bark)
        self._timer.daemon = True
        self._timer.start()

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Httpx's `trace` extension: learns of each new connection."""
        if event in ("connection.connect_tcp.complete", "connection.connect_unix_socket.complete"):
            self.watch(info["return_value"])

    def watch(self, stream: Any) -> None:
        """Shut this stream's socket when the time comes, or now if it has."""
        found = stream.get_extra_info("socket") if stream is not None else None
        if found is None:
            return
        with self._lock:
            if self._socket is None:
                # A duplicate descriptor: wrapping in TLS detaches the object seen first, and
                # the plain socket's shutdown does not wait for the peer as TLS's own would.
                self._socket = socket.fromfd(found.fileno(), found.family, found.type)
            if self._barked:
                self._shut()

    def stop(self) -> None:
        self._timer.cancel()
        with self._lock:
            if self._socket is not None:
                self._socket.close()

    def _bark(self) -> None:
        with self._lock:
            self._barked = True
            self._shut()

    def _shut(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # closed already
                self._socket.shutdown(socket.SHUT_RDWR)


@contextmanager
def _watchdog(deadline: Deadline) -> Iterator[_Watchdog]:
    watchdog = _Watchdog(deadline)
    try:
        yield watchdog
    finally:
        watchdog.stop()


def _refuse_encoded(request: HttpRequest, response: httpx.Response) -> None:
    if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise NetworkError(
            f"The answer to {request.purpose} is compressed, which was not asked for.",
            status=response.status_code,
            hint="Something between here and the server changes answers: look there.",
            code="network-encoding",
        )


def _extend(body: bytearray, chunk: bytes, request: HttpRequest) -> None:
    body += chunk
    if len(body) > request.max_bytes:
        raise NetworkError(
            f"The answer to {request.purpose} is longer than {request.max_bytes} bytes.",
            cause="Something other than the expected service answered.",
            hint=f"Check {_where(request)}.",
            code="network-too-large",
        )


def _answer(response: httpx.Response, body: bytearray) -> HttpResponse:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return HttpResponse(response.status_code, headers, bytes(body))


@contextmanager
def _mapped(request: HttpRequest, deadline: Deadline) -> Iterator[None]:
    """Httpx's errors as ours; what comes after the deadline is the deadline's doing."""
    try:
        yield
    except (httpx.TimeoutException, TimeoutError) as error:
        raise _late(request, deadline) from error
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
        if deadline.remaining <= 0:
            raise _late(request, deadline) from error
        raise _failed(request, error) from error


def _late(request: HttpRequest, deadline: Deadline) -> NetworkTimeoutError:
    return NetworkTimeoutError(
        f"{request.purpose[:1].upper()}{request.purpose[1:]} to {_where(request)} got no complete "
        f"answer within {deadline.seconds:g} s.",
        cause="The server is slow or down, or a firewall drops the connection.",
        hint="Try it with curl from this machine; behind a proxy set [http] proxy; raise "
        "[http] timeout only if the server is slow by nature.",
    )


def _failed(request: HttpRequest, error: Exception) -> NetworkError:
    where = _where(request)
    what = f"{request.purpose[:1].upper()}{request.purpose[1:]} to {where} failed"
    root = _root(error)
    if isinstance(root, ssl.SSLCertVerificationError):
        return NetworkError(
            f"{what}: its TLS certificate is not trusted ({root.verify_message}).",
            cause="The certificate is expired, for another host, or from a CA this machine does "
            "not know (a TLS-inspecting proxy has its own).",
            hint='Set [http] ca_bundle = "/path/to/your-ca.pem" if the CA is your organisation\'s. '
            "Verification cannot be turned off.",
            code="tls-untrusted",
        )
    if isinstance(root, ssl.SSLError):
        return NetworkError(
            f"{what}: TLS could not be agreed on ({root.reason or 'unknown reason'}).",
            cause="The server speaks no TLS on this port, wants a client certificate, or only "
            "offers versions before 1.2.",
            hint="Check the port; set [http] client_cert where mutual TLS is required.",
            code="tls-failed",
        )
    if isinstance(root, socket.gaierror):
        return NetworkError(
            f"{what}: the host name cannot be resolved.",
            cause="The name is misspelt, or this machine has no DNS for it.",
            hint="Check the URL; behind a proxy set [http] proxy.",
            code="network-dns",
        )
    if isinstance(root, ConnectionRefusedError):
        return NetworkError(
            f"{what}: the connection was refused.",
            cause="Nothing listens there, or a firewall refuses.",
            hint="Check host and port, and that the server runs.",
            code="network-refused",
        )
    if isinstance(error, httpx.ProxyError):
        return NetworkError(
            f"{what}: the proxy did not let it through.",
            hint="Check [http] proxy and proxy_credentials.",
            code="network-proxy",
        )
    return NetworkError(
        f"{what}: {type(error).__name__}.",
        cause="The connection broke, or what answered does not speak HTTP.",
        hint="Try again; check host and port.",
    )


def _root(error: BaseException) -> BaseException:
    """The innermost error: httpx and httpcore wrap what the socket said."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return error


def _where(request: HttpRequest) -> str:
    parts = urlsplit(request.url)
    return f"{parts.scheme}://{parts.netloc}"


def _reason(error: OSError) -> str:
    return error.strerror or getattr(error, "reason", None) or type(error).__name__
