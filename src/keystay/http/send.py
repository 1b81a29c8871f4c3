"""Sends one request with httpx or httpx2: one deadline, bounded size, no redirect.

Their own timeouts bound each read, so a server that drips a byte at a time is never late; name
resolution, and trying one address after another, know no deadline at all. Under asyncio and trio
a cancel scope ends the exchange; otherwise it runs in a thread that is waited for no longer.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from types import ModuleType
from typing import TYPE_CHECKING, Protocol, TypedDict, cast

from keystay.concurrency.threads import WorkerThreads
from keystay.http.errors import (
    client_closed,
    failures,
    hanging,
    raise_network_error,
    too_long,
    unread,
)
from keystay.http.library import error_classes, library_of, own_library
from keystay.http.messages import HttpRequest, HttpResponse

if TYPE_CHECKING:
    import httpx

    from keystay.concurrency.clock import Deadline

__all__ = ["HTTP_THREADS", "send", "send_async", "send_from_loop"]


class _HttpThreads(WorkerThreads):
    def timeout_error(self, deadline: Deadline) -> Exception:
        return TimeoutError()

    def hanging_error(self, count: int) -> Exception:
        return hanging(count)


HTTP_THREADS = _HttpThreads("HTTP servers", most_abandoned=64)
"""In which synchronous requests are sent. One that is abandoned ends as soon as its connection is
cut, unless it is resolving a name or trying another address."""


def send(client: httpx.Client, request: HttpRequest, deadline: Deadline) -> HttpResponse:
    """Send one request and read the whole answer, by the deadline.

    Where no thread is to be had it runs in this one: then the deadline bounds each read, and an
    answer whose headers drip can be late.

    Args:
        client: Its TLS settings and proxy are used; its default headers, cookies and auth are not.
        request: What to send.
        deadline: When to give up.

    Raises:
        NetworkTimeoutError: The deadline passed.
        NetworkError: Anything else that kept an answer from coming back whole.
        ConfigurationError: The client is closed.
    """
    if client.is_closed:
        raise client_closed()
    connection = _Connection()
    exchange = partial(_exchange, client, request, deadline, connection)
    try:
        if deadline.expired:
            raise TimeoutError
        return HTTP_THREADS.call_with_deadline(exchange, deadline, on_abandon=connection.cut)
    except failures() as error:
        raise_network_error(request, error, deadline, closed=client.is_closed)


async def send_from_loop(
    client: httpx.Client, request: HttpRequest, deadline: Deadline
) -> HttpResponse:
    """As `send`, for a task: the event loop is free meanwhile."""
    if client.is_closed:
        raise client_closed()
    connection = _Connection()
    exchange = partial(_exchange, client, request, deadline, connection)
    try:
        if deadline.expired:
            raise TimeoutError
        return await HTTP_THREADS.call_with_deadline_async(
            exchange, deadline, on_abandon=connection.cut
        )
    except failures() as error:
        raise_network_error(request, error, deadline, closed=client.is_closed)


async def send_async(
    client: httpx.AsyncClient, request: HttpRequest, deadline: Deadline
) -> HttpResponse:
    """As `send`, for an asynchronous client."""
    import anyio

    opened: list[_AsyncStream] = []

    async def trace(event: str, info: Mapping[str, object]) -> None:
        if event.endswith(_CONNECTED):
            opened.append(cast(_AsyncStream, info["return_value"]))

    if client.is_closed:
        raise client_closed()
    try:
        with anyio.fail_after(deadline.remaining):
            try:
                message = _message(client, request, deadline)
                message.extensions["trace"] = trace
                message.stream = _body_class(_library(client))(request.body or b"")
                response = await client.send(
                    message, auth=None, stream=True, follow_redirects=False
                )
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
    except failures() as error:
        raise_network_error(request, error, deadline, closed=client.is_closed)


# Events of httpcore's trace: a connection is there, its stream the event's return value.
_CONNECTED = (".connect_tcp.complete", ".connect_unix_socket.complete")


class _AsyncStream(Protocol):
    async def aclose(self) -> None: ...


class _SyncStream(Protocol):
    def get_extra_info(self, info: str) -> socket.socket: ...


class _Timeouts(TypedDict):
    connect: float
    read: float
    write: float
    pool: float


def _exchange(
    client: httpx.Client, request: HttpRequest, deadline: Deadline, connection: _Connection
) -> HttpResponse:
    try:
        message = _message(client, request, deadline)
        message.extensions["trace"] = connection.trace
        response = client.send(message, auth=None, stream=True, follow_redirects=False)
        try:
            body = bytearray()
            if _is_readable(request, response):
                for chunk in response.iter_raw():
                    body += chunk
                    _refuse_longer(body, request)
                    if deadline.expired:  # where no other thread cuts the connection
                        raise TimeoutError
        finally:
            response.close()
        return _answer(response, body)
    finally:
        connection.close()


def _message(
    client: httpx.Client | httpx.AsyncClient, request: HttpRequest, deadline: Deadline
) -> httpx.Request:
    # Made here, not by the client: its default headers, cookies and auth stay out.
    headers = {
        "User-Agent": client.headers.get("User-Agent", "keystay"),
        "Accept-Encoding": "identity",
        **({} if request.is_followed else {"Connection": "close"}),
        **request.headers,
    }
    left = max(deadline.remaining, 0.001)
    made: httpx.Request = _library(client).Request(
        request.method,
        request.url,
        headers=headers,
        content=request.body,
        extensions={"timeout": _Timeouts(connect=left, read=left, write=left, pool=left)},
    )
    return made


def _library(client: object) -> ModuleType:
    return library_of(type(client)) or own_library()  # type: ignore[arg-type]


@cache
def _body_class(library: ModuleType) -> type[httpx.ByteStream]:
    stream: type[httpx.ByteStream] = library.ByteStream

    class Body(stream):  # type: ignore[misc, valid-type]
        """Iterates without a generator: a connection that breaks strands one (trio reports it)."""

        def __aiter__(self) -> AsyncIterator[bytes]:
            return _Chunks(iter(self))

    return Body


class _Chunks:
    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks

    def __aiter__(self) -> _Chunks:
        return self

    async def __anext__(self) -> bytes:
        for chunk in self._chunks:
            return chunk
        raise StopAsyncIteration


class _Connection:
    """The connection an exchange runs over, so that it can be cut."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._socket: socket.socket | None = None
        self._is_cut = False

    def trace(self, event: str, info: Mapping[str, object]) -> None:
        """Httpx's `trace` extension: learns of each new connection."""
        if not event.endswith(_CONNECTED):
            return
        found = cast(_SyncStream, info["return_value"]).get_extra_info("socket")
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
        """Let go of the descriptor."""
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


def _is_readable(request: HttpRequest, response: httpx.Response) -> bool:
    """Whether the body is to be read; where the status says enough, one that cannot be is not."""
    if response.headers.get("content-encoding", "identity").lower() in ("", "identity"):
        return True
    if response.status_code == 429 or response.status_code >= 500:
        return False
    raise unread(request, response.status_code)


async def _read_async(response: httpx.Response, request: HttpRequest) -> bytearray:
    body = bytearray()
    try:
        async for chunk in response.aiter_raw():
            body += chunk
            if len(body) > request.max_bytes and "network_stream" in response.extensions:
                # The next read fails and ends httpx's nested generators. Leaving the loop would
                # strand them, which trio reports.
                await response.extensions["network_stream"].aclose()
    except error_classes("HTTPError"):
        if len(body) <= request.max_bytes:
            raise
    _refuse_longer(body, request)
    return body


def _refuse_longer(body: bytearray, request: HttpRequest) -> None:
    if len(body) > request.max_bytes:
        raise too_long(request)


def _answer(response: httpx.Response, body: bytearray) -> HttpResponse:
    headers = {name.lower(): value for name, value in response.headers.items()}
    return HttpResponse(response.status_code, headers, bytes(body))
