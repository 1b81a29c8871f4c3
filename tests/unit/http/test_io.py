"""The same coroutine in a thread and on an event loop."""

from __future__ import annotations

import contextvars
import threading
import warnings
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from keystay.concurrency.clock import Deadline
from keystay.concurrency.threads import SharedEvent
from keystay.errors import BackendTimeoutError, ConfigurationError
from keystay.http.clients import HttpLink, async_link, sync_link
from keystay.http.io import IO, LoopIO, LoopIOWithThreads, ThreadIO, run_sync
from tests.support.stepping import ManualClock

if TYPE_CHECKING:
    import httpx

pytestmark = pytest.mark.usefixtures("http_library")

COLOUR = contextvars.ContextVar("colour", default="none")


@pytest.fixture
def link() -> HttpLink[httpx.Client]:
    """An HTTP client of ours."""
    return sync_link(None)


@pytest.fixture(params=[LoopIO, LoopIOWithThreads])
async def loop_io(request: pytest.FixtureRequest) -> IO:
    """Both kinds of I/O on an event loop."""
    if request.param is LoopIO:
        return LoopIO(async_link(None), Deadline.after(30))
    return LoopIOWithThreads(sync_link(None), Deadline.after(30))


async def flow(io: IO, function: Callable[[], str]) -> str:
    """Sleeps, waits for what has happened, and runs something."""
    event = SharedEvent()
    event.set()
    await io.sleep(0.001)
    assert await io.wait(event, 10)
    COLOUR.set("the flow's")
    return await io.run(function)


def test_in_a_thread(link: HttpLink[httpx.Client]) -> None:
    """It ends in its first step, by the clock that is injected; nothing of its context leaks."""
    clock = ManualClock()
    io = ThreadIO(link, clock.deadline(), clock.clock)
    COLOUR.set("the caller's")
    assert "the flow's" == run_sync(io, flow, COLOUR.get)
    assert "the caller's" == COLOUR.get()
    assert [0.001] == clock.slept


async def test_on_a_loop(loop_io: IO) -> None:
    """Functions run in another thread, in the flow's context."""
    here = threading.get_ident()
    assert str(here) != await flow(loop_io, lambda: str(threading.get_ident()))
    assert "the flow's" == await flow(loop_io, COLOUR.get)


def test_suspending_is_a_defect(link: HttpLink[httpx.Client]) -> None:
    """A coroutine that suspends where there is no loop is closed, and told."""
    ended = []

    class Suspends:
        def __await__(self) -> Generator[None, None, None]:
            yield

    async def bare(io: IO) -> None:
        try:
            await Suspends()
        finally:
            ended.append(True)

    with pytest.raises(RuntimeError, match="the synchronous I/O suspended"):
        run_sync(ThreadIO(link, Deadline.after(1)), bare)
    assert [True] == ended


def test_no_coroutine_is_left_unawaited(link: HttpLink[httpx.Client]) -> None:
    """An HTTP client that is closed is told before there is one."""
    link.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigurationError, match="The HTTP client is closed"):
            run_sync(ThreadIO(link, Deadline.after(1)), flow, COLOUR.get)


def test_function_that_hangs(link: HttpLink[httpx.Client]) -> None:
    """It is left to itself when its seconds are over; what it returns late is handed on."""
    release, late = threading.Event(), threading.Event()
    io = ThreadIO(link, Deadline.after(30))

    async def hang(io: IO) -> bool:
        def hand_on(returned: bool | None) -> None:
            assert returned
            late.set()

        return await io.run(lambda: release.wait(30), 0.01, late=hand_on)

    with pytest.raises(BackendTimeoutError):
        run_sync(io, hang)
    release.set()
    assert late.wait(30)


async def test_function_that_hangs_on_a_loop(loop_io: IO) -> None:
    """As in a thread; and a task that is cancelled leaves at once."""
    release = threading.Event()
    with pytest.raises(BackendTimeoutError):
        await loop_io.run(lambda: release.wait(30), 0.01)
    with anyio.move_on_after(0.01) as scope:
        await loop_io.run(lambda: release.wait(30))
    assert scope.cancelled_caught
    release.set()
