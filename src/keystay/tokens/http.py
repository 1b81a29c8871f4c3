"""Sends a flow's requests with httpx: one deadline, bounded size, no redirect.

httpx's own timeouts bound each read, so a server that drips a byte at a time is never late; name
resolution, and trying one address after another, know no deadline at all. Under asyncio and trio
a cancel scope ends the exchange; otherwise it runs in a thread that is waited for no longer.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import copy_context
from importlib import metadata
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import httpx

from keystay.backends.secrets import SecretResolver
from keystay.config.checks import http_faults
from keystay.errors import ConfigurationError, NetworkError, NetworkTimeoutError
from keystay.smart.messages import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from keystay.backends.port import Deadline
    from keystay.config import HttpSettings

__all__ = ["new_async_client", "new_client", "send", "send_async"]


def new_client(settings: HttpSettings) -> httpx.Client:
    """A client for token requests and FHIR reads. No connection is kept: see `_LIMITS`.

    Raises:
        ConfigurationError: A setting cannot be used.
    """
    with _proxies_usable():
        return httpx.Client(**_options(settings))


def new_async_client(settings: HttpSettings) -> httpx.AsyncClient:
    """As `new_client`, asynchronous."""
    with _proxies_usable():
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
    line = _Line()

    def exchange() -> HttpResponse:
        message = _message(client, request, deadline)
        message.extensions["trace"] = line.trace
        response = client.send(message, auth=auth, stream=True, follow_redirects=False)
        try:
            _refuse_encoded(request, response)
            body = bytearray()
            for chunk in response.iter_raw():
                body += chunk
                _refuse_longer(body, request)
        finally:
            response.close()
        return _answer(response, body)

    _require_open(client)
    with _mapped(request, deadline):
        return _run(exchange, deadline, line)


async def send_async(
    client: httpx.AsyncClient, request: HttpRequest, deadline: Deadline
) -> HttpResponse:
    """As `send`, for an asynchronous client."""
    opened: list[Any] = []

    async def trace(event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(_CONNECTED):
            opened.append(info["return_value"])

    _require_open(client)
    with _mapped(request, deadline), anyio.fail_after(deadline.remaining):
        try:
            message = _message(client, request, deadline)
            message.extensions["trace"] = trace
            message.stream = _Body(request.body or b"")
            response = await client.send(message, auth=None, stream=True, follow_redirects=False)
            try:
                _refuse_encoded(request, response)
                body = await _read_async(response, request)
            finally:
                with anyio.CancelScope(shield=True):
                    await response.aclose()
        except BaseException:
            # httpcore leaves the socket of a TLS handshake that is cancelled half-way.
            with anyio.CancelScope(shield=True):
                for stream in opened:
                    await stream.aclose()
            raise
        return _answer(response, body)


# A token is asked for every few minutes. By then a firewall has often dropped the idle
# connection without a word, so every exchange opens its own.
_LIMITS = httpx.Limits(max_keepalive_connections=0)

# Events of httpcore's trace: a connection is there, its stream the event's return value.
_CONNECTED = (".connect_tcp.complete", ".connect_unix_socket.complete")

# Seconds past its deadline that a cut exchange is given to end.
_GRACE = 0.25


def _options(settings: HttpSettings) -> dict[str, Any]:
    for _, fault in http_faults(settings):
        raise fault
    secrets = SecretResolver()
    agent = settings.user_agent or f"keystay/{metadata.version('keystay')}"
    options: dict[str, Any] = {
        "verify": _tls(settings, secrets),
        "timeout": settings.timeout,
        "limits": _LIMITS,
        "headers": {"User-Agent": agent},
        # Plain HTTP is for loopback only: through a proxy it would leave this machine.
        "mounts": {"http://": None},
    }
    if settings.proxy is not None:
        options["proxy"] = _proxy(settings, secrets)
    return options


def _trust(settings: HttpSettings) -> ssl.SSLContext:
    try:
        context = (
            httpx.create_ssl_context()
            if settings.ca_bundle is None
            else ssl.create_default_context(cafile=settings.ca_bundle)
        )
    except (OSError, ssl.SSLError) as error:
        bundle = settings.ca_bundle or "that SSL_CERT_FILE or SSL_CERT_DIR names"
        raise ConfigurationError(
            f"The CA bundle {bundle} cannot be used: {_reason(error)}.",
            hint="Name a PEM file with your organisation's CA certificates.",
            code="ca-bundle-invalid",
        ) from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _tls(settings: HttpSettings, secrets: SecretResolver) -> ssl.SSLContext:
    context = _trust(settings)
    if settings.client_cert is not None:
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
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"The client certificate {settings.client_cert} cannot be used: {_reason(error)}.",
                hint="Check client_cert, client_key and client_key_passphrase; the key must belong "
                "to the certificate.",
                code="client-cert-invalid",
            ) from error
    return context


def _proxy(settings: HttpSettings, secrets: SecretResolver) -> httpx.Proxy:
    url = settings.proxy or ""
    credentials = secrets.resolve(settings.proxy_credentials, "the proxy's user:password")
    auth = None
    if credentials is not None:
        user, colon, password = credentials.reveal().partition(":")
        if not colon:
            raise ConfigurationError(
                "What proxy_credentials refers to is not user:password.",
                hint=f"Write both, with a colon between them, where {settings.proxy_credentials} "
                "points to.",
                code="proxy-credentials-invalid",
            )
        auth = (user, password)
    # The proxy's own certificate, where it has one, is trusted as the servers' are.
    tls = _trust(settings) if url.lower().startswith("https:") else None
    return httpx.Proxy(url, ssl_context=tls, auth=auth)


@contextmanager
def _proxies_usable() -> Iterator[None]:
    """What httpx says of a proxy that the environment names, without quoting it."""
    try:
        yield
    except (ValueError, ImportError, httpx.InvalidURL):
        raise ConfigurationError(
            "The proxy that the environment names cannot be used.",
            cause="HTTPS_PROXY, HTTP_PROXY or ALL_PROXY is not an http:// or https:// URL; SOCKS "
            "needs the package httpx[socks].",
            hint="Correct or unset it, or set [http] proxy.",
            code="proxy-invalid",
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


def _require_open(client: httpx.Client | httpx.AsyncClient) -> None:
    if client.is_closed:
        raise ConfigurationError(
            "The HTTP client is closed.",
            cause="The token client, or the httpx client it was given, was used after close().",
            hint="Make a new one, or close it later.",
            code="client-closed",
        )


class _Body(httpx.ByteStream):
    """Not httpx's asynchronous generator: a connection that breaks strands it, trio reports it."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Chunks(iter(self))


class _Chunks:
    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration


class _Line:
    """The connection an exchange runs over, so that it can be cut."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_cut = False

    def trace(self, event: str, info: Mapping[str, Any]) -> None:
        """Httpx's `trace` extension: learns of each new connection."""
        if not event.endswith(_CONNECTED):
            return
        found = info["return_value"].get_extra_info("socket")
        with self._lock:
            self._close()
            # A duplicate descriptor: wrapping in TLS detaches the object seen now, and the
            # plain socket's shutdown does not wait for the peer as TLS's own would.
            self._socket = socket.fromfd(found.fileno(), found.family, found.type)
            if self._is_cut:
                self._shut()

    def cut(self) -> None:
        """End the connection, and any that is made from now on."""
        with self._lock:
            self._is_cut = True
            self._shut()

    def close(self) -> None:
        with self._lock:
            self._close()

    def _shut(self) -> None:
        if self._socket is not None:
            with suppress(OSError):  # closed already
                self._socket.shutdown(socket.SHUT_RDWR)

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def _run(exchange: Callable[[], HttpResponse], deadline: Deadline, line: _Line) -> HttpResponse:
    """Run an exchange in a thread; at the deadline cut its line and go on without it."""
    future: Future[HttpResponse] = Future()
    context = copy_context()

    def work() -> None:
        try:
            future.set_result(context.run(exchange))
        except BaseException as error:  # noqa: BLE001 - raised again by future.result()
            future.set_exception(error)
        finally:
            line.close()

    if deadline.remaining <= 0:
        raise TimeoutError
    thread = threading.Thread(target=work, name="keystay-http", daemon=True)
    thread.start()
    try:
        return future.result(deadline.remaining)
    finally:
        if not future.done():
            line.cut()
        # It ends at once, unless it is resolving a name or trying another address.
        thread.join(_GRACE)


def _refuse_encoded(request: HttpRequest, response: httpx.Response) -> None:
    if response.headers.get("content-encoding", "identity").lower() not in ("", "identity"):
        raise NetworkError(
            f"The answer to {request.purpose} is compressed, which was not asked for.",
            status=response.status_code,
            hint="Something between here and the server changes answers: look there.",
            code="network-encoding",
        )


async def _read_async(response: httpx.Response, request: HttpRequest) -> bytearray:
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > request.max_bytes and "network_stream" in response.extensions:
                # The next read fails and ends httpx's nested generators. Leaving the loop would
                # strand them, which trio reports.
                await response.extensions["network_stream"].aclose()
    except httpx.HTTPError:
        if len(body) <= request.max_bytes:
            raise
    _refuse_longer(body, request)
    return body


def _refuse_longer(body: bytearray, request: HttpRequest) -> None:
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
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, UnicodeError) as error:
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
    if isinstance(root, socket.gaierror | UnicodeError):
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
            hint="Check host and port (the proxy's, if there is one), and that the server runs.",
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
    """The innermost error: httpx, httpcore and anyio wrap what the socket said."""
    while True:
        inner = error.__cause__ or error.__context__
        if isinstance(error, BaseExceptionGroup):  # one for each address tried
            inner = error.exceptions[0]
        if inner is None:
            return error
        error = inner


def _where(request: HttpRequest) -> str:
    parts = urlsplit(request.url)
    return f"{parts.scheme}://{parts.netloc}"


def _reason(error: Exception) -> str:
    found = getattr(error, "reason", None) or getattr(error, "strerror", None)
    return str(found or type(error).__name__)
