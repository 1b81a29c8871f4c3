"""Sends a flow's requests with httpx: one deadline, bounded size, no redirect.

httpx's own timeouts bound each read, so a server that drips a byte at a time is never late; name
resolution, and trying one address after another, know no deadline at all. Under asyncio and trio
a cancel scope ends the exchange; otherwise it runs in a thread that is waited for no longer.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from contextvars import copy_context
from typing import TYPE_CHECKING, Any

import anyio
import httpx

from keystay.errors import ConfigurationError, NetworkError
from keystay.http.errors import mapped, where
from keystay.http.messages import HttpRequest, HttpResponse

if TYPE_CHECKING:
    from keystay.concurrency import Deadline

__all__ = ["closed", "require_open", "send", "send_async"]


def send(client: httpx.Client, request: HttpRequest, deadline: Deadline) -> HttpResponse:
    """Send one request and read the whole answer, by the deadline.

    Args:
        client: Its TLS settings and proxy are used; its default headers, cookies and auth are not.
        request: What to send.
        deadline: When to give up.

    Raises:
        NetworkTimeoutError: The deadline passed.
        NetworkError: Anything else that kept an answer from coming back whole.
    """
    line = _Line()

    def exchange() -> HttpResponse:
        message = _message(client, request, deadline)
        message.extensions["trace"] = line.trace
        response = client.send(message, auth=None, stream=True, follow_redirects=False)
        try:
            body = bytearray()
            if _is_readable(request, response):
                for chunk in response.iter_raw():
                    body += chunk
                    _refuse_longer(body, request)
                    if deadline.remaining <= 0:  # where no other thread cuts the line
                        raise TimeoutError
        finally:
            response.close()
        return _answer(response, body)

    with _open_throughout(client), mapped(request, deadline):
        return _run(exchange, deadline, line)


async def send_async(
    client: httpx.AsyncClient, request: HttpRequest, deadline: Deadline
) -> HttpResponse:
    """As `send`, for an asynchronous client."""
    opened: list[Any] = []

    async def trace(event: str, info: Mapping[str, Any]) -> None:
        if event.endswith(_CONNECTED):
            opened.append(info["return_value"])

    with (
        _open_throughout(client),
        mapped(request, deadline),
        anyio.fail_after(deadline.remaining),
    ):
        try:
            message = _message(client, request, deadline)
            message.extensions["trace"] = trace
            message.stream = _Body(request.body or b"")
            response = await client.send(message, auth=None, stream=True, follow_redirects=False)
            try:
                readable = _is_readable(request, response)
                body = await _read_async(response, request) if readable else bytearray()
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


# Events of httpcore's trace: a connection is there, its stream the event's return value.
_CONNECTED = (".connect_tcp.complete", ".connect_unix_socket.complete")

# Seconds past its deadline that a cut exchange is given to end.
_GRACE = 0.25


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


def require_open(client: httpx.Client | httpx.AsyncClient) -> None:
    """Return if the client can be used.

    Raises:
        ConfigurationError: It is closed.
    """
    if client.is_closed:
        raise closed()


@contextmanager
def _open_throughout(client: httpx.Client | httpx.AsyncClient) -> Iterator[None]:
    """Tell of a client that is closed, also by another thread on the way to the socket."""
    require_open(client)
    try:
        yield
    except RuntimeError as error:  # all that httpx says of it
        if client.is_closed:
            raise closed() from error
        raise


def closed() -> ConfigurationError:
    """The error for an HTTP client that is used after it was closed."""
    return ConfigurationError(
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
    """Run an exchange in a thread; at the deadline cut its line and go on without it.

    Where no thread is to be had it runs in this one: then the deadline bounds each read, and an
    answer whose headers drip can be late.
    """
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
    try:
        thread.start()
    except RuntimeError:  # as when the interpreter ends
        work()
        return future.result()
    try:
        return future.result(deadline.remaining)
    finally:
        if not future.done():
            line.cut()
        # It ends at once, unless it is resolving a name or trying another address.
        thread.join(_GRACE)


def _is_readable(request: HttpRequest, response: httpx.Response) -> bool:
    """Whether the body is to be read; where the status says enough, one that cannot be is not."""
    if response.headers.get("content-encoding", "identity").lower() in ("", "identity"):
        return True
    if response.status_code == 429 or response.status_code >= 500:
        return False
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
            hint=f"Check {where(request)}.",
            code="network-too-large",
        )


def _answer(response: httpx.Response, body: bytearray) -> HttpResponse:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return HttpResponse(response.status_code, headers, bytes(body))
