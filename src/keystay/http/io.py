"""The input and output that flows ask for: sent, signed, run, slept and waited for.

A flow is an `async def` over one `IO`. The asynchronous client awaits it on its event loop. The
synchronous client runs the very same coroutine without a loop: `run_sync` takes its first step,
which is its last, for nothing that `ThreadIO` does suspends.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Concatenate, ParamSpec, Protocol, TypeVar

from keystay.concurrency.clock import SYSTEM_CLOCK, Deadline
from keystay.concurrency.threads import WorkerThreads
from keystay.http.clients import HttpExchange, HttpLink, async_link, sync_link
from keystay.http.send import send, send_async, send_from_loop

if TYPE_CHECKING:
    import httpx

    from keystay.assertion import ClientAssertion
    from keystay.concurrency.clock import Clock
    from keystay.concurrency.threads import SharedEvent
    from keystay.http.library import AsyncClient, Client
    from keystay.http.messages import HttpRequest, HttpResponse
    from keystay.http.settings import HttpSettings

__all__ = [
    "IO",
    "LoopIO",
    "LoopIOWithThreads",
    "ThreadIO",
    "run_async",
    "run_once",
    "run_once_async",
    "run_sync",
]

P = ParamSpec("P")
T = TypeVar("T")
Late = Callable[[T | None], object]

_THREADS = WorkerThreads("a file, a key or an observer", most_abandoned=64)


class IO(Protocol):
    """What a flow needs of the world until its deadline, and nothing else.

    Attributes:
        deadline: When to give up.
        blocks: Whether waiting blocks the thread, so that what this very thread has begun, and was
            interrupted in, never ends meanwhile.
    """

    deadline: Deadline
    blocks: bool

    async def send(self, request: HttpRequest) -> HttpResponse:
        """Send one request and read the whole answer.

        Raises:
            NetworkError: As `keystay.http.send.send`.
        """
        ...

    async def sign(self, assertion: ClientAssertion, audience: str) -> tuple[str, str | None]:
        """A fresh assertion, and the backend's id of the request that signed it.

        Raises:
            KeystayError: As `ClientAssertion.build`.
        """
        ...

    async def run(
        self,
        function: Callable[[], T],
        seconds: float | None = None,
        *,
        late: Late[T] | None = None,
    ) -> T:
        """What a function returns that may block: a file's reading, a key's opening, an observer.

        Args:
            function: Called off the event loop.
            seconds: When to leave it to itself, at the deadline at the latest; None to see it to
                its end.
            late: Called with what it returned after that, or None.

        Raises:
            BackendTimeoutError: It did not return in time.
            BackendUnavailableError: Too many such calls hang already.
        """
        ...

    async def sleep(self, seconds: float) -> None:
        """Let some seconds pass."""
        ...

    async def wait(self, event: SharedEvent, seconds: float) -> bool:
        """Wait for an event, so many seconds at most; return whether it happened."""
        ...


def run_sync(
    io: ThreadIO,
    function: Callable[Concatenate[ThreadIO, P], Coroutine[object, None, T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """What a flow returns whose I/O is a `ThreadIO`, which is closed then.

    It runs in a copy of the caller's context: what it sets there does not leak.

    Raises:
        RuntimeError: It would suspend, which is a defect.
    """
    coroutine = function(io, *args, **kwargs)
    try:
        contextvars.copy_context().run(coroutine.send, None)
    except StopIteration as finished:
        return finished.value  # type: ignore[no-any-return]
    finally:
        io.close()
    coroutine.close()
    raise RuntimeError("the synchronous I/O suspended")


async def run_async(
    io: LoopIOWithThreads,
    function: Callable[Concatenate[LoopIOWithThreads, P], Coroutine[object, object, T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """What a flow returns whose I/O is an event loop's, which is closed then."""
    try:
        return await function(io, *args, **kwargs)
    finally:
        await io.aclose()


def run_once(
    http: HttpSettings | Client | None,
    timeout: float | None,
    function: Callable[Concatenate[IO, P], Coroutine[object, None, T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """What a single flow returns.

    Args:
        http: How to reach servers, or the caller's own client.
        timeout: Seconds; default that of `http`, else 10.
        function: The flow.
        *args: Its arguments.
        **kwargs: Its arguments.
    """
    link = sync_link(http)
    return run_sync(ThreadIO(link, link.deadline(timeout)), function, *args, **kwargs)


async def run_once_async(
    http: HttpSettings | AsyncClient | None,
    timeout: float | None,
    function: Callable[Concatenate[IO, P], Coroutine[object, object, T]],
    *args: P.args,
    **kwargs: P.kwargs,
) -> T:
    """As `run_once`, for asyncio and trio."""
    link = async_link(http)
    return await run_async(LoopIO(link, link.deadline(timeout)), function, *args, **kwargs)


class ThreadIO:
    """For the thread that calls.

    Args:
        http: Its HTTP client.
        deadline: When to give up.
        clock: Sleeps.

    Raises:
        ConfigurationError: The HTTP client is closed.
    """

    blocks = True

    def __init__(
        self, http: HttpLink[httpx.Client], deadline: Deadline, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._http, self.deadline, self._clock = HttpExchange(http), deadline, clock

    async def send(self, request: HttpRequest) -> HttpResponse:
        """See `IO`."""
        return send(self._http.client_for(request), request, self.deadline)

    async def sign(self, assertion: ClientAssertion, audience: str) -> tuple[str, str | None]:
        """See `IO`."""
        return assertion.build_traced(audience, timeout=self.deadline.remaining)

    async def run(
        self,
        function: Callable[[], T],
        seconds: float | None = None,
        *,
        late: Late[T] | None = None,
    ) -> T:
        """See `IO`."""
        if seconds is None:
            return function()
        return _THREADS.call_with_deadline(function, self.deadline.at_most(seconds), late=late)

    async def sleep(self, seconds: float) -> None:
        """See `IO`."""
        self._clock.sleep(seconds)

    async def wait(self, event: SharedEvent, seconds: float) -> bool:
        """See `IO`."""
        return event.wait(seconds)

    def close(self) -> None:
        """Close the connection that the exchange has kept."""
        if self._http.private is not None:
            self._http.private.close()


class LoopIOWithThreads:
    """For tasks of asyncio or trio, with a synchronous HTTP client, used in worker threads.

    Signing goes where the signer sends it.

    Args:
        http: Its HTTP client.
        deadline: When to give up.

    Raises:
        ConfigurationError: The HTTP client is closed.
    """

    blocks = False

    def __init__(self, http: HttpLink[httpx.Client], deadline: Deadline) -> None:
        self._http, self.deadline = HttpExchange(http), deadline

    async def send(self, request: HttpRequest) -> HttpResponse:
        """See `IO`."""
        await self._load(self._http.link)
        return await send_from_loop(self._http.client_for(request), request, self.deadline)

    async def sign(self, assertion: ClientAssertion, audience: str) -> tuple[str, str | None]:
        """See `IO`."""
        return await assertion.build_traced_async(audience, timeout=self.deadline.remaining)

    async def run(
        self,
        function: Callable[[], T],
        seconds: float | None = None,
        *,
        late: Late[T] | None = None,
    ) -> T:
        """See `IO`."""
        deadline = None if seconds is None else self.deadline.at_most(seconds)
        return await _THREADS.call_with_deadline_async(function, deadline, late=late)

    async def sleep(self, seconds: float) -> None:
        """See `IO`."""
        import anyio

        await anyio.sleep(seconds)

    async def wait(self, event: SharedEvent, seconds: float) -> bool:
        """See `IO`."""
        return await event.wait_async(seconds)

    async def _load(self, link: HttpLink[httpx.Client] | HttpLink[httpx.AsyncClient]) -> None:
        # Reads certificates, and secrets that a person may have to type.
        if not link.is_loaded:
            await self.run(link.load)

    async def aclose(self) -> None:
        """Close the connection that the exchange has kept."""
        if self._http.private is not None:
            self._http.private.close()


class LoopIO(LoopIOWithThreads):
    """For tasks of asyncio or trio.

    Args:
        http: Its HTTP client.
        deadline: When to give up.

    Raises:
        ConfigurationError: The HTTP client is closed.
    """

    def __init__(self, http: HttpLink[httpx.AsyncClient], deadline: Deadline) -> None:
        self._asynchronous, self.deadline = HttpExchange(http), deadline

    async def send(self, request: HttpRequest) -> HttpResponse:
        """See `IO`."""
        await self._load(self._asynchronous.link)
        return await send_async(self._asynchronous.client_for(request), request, self.deadline)

    async def aclose(self) -> None:
        """See `LoopIOWithThreads`."""
        if (private := self._asynchronous.private) is not None:
            import anyio

            with anyio.CancelScope(shield=True):
                await private.aclose()
