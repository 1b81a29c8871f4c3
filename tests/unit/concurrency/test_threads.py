"""Calls that cannot be interrupted are left alone at the deadline, and bounded in number."""

from __future__ import annotations

import contextvars
import gc
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
import pytest

from keystay.concurrency.clock import Deadline
from keystay.concurrency.threads import WorkerThreads
from keystay.errors import BackendTimeoutError, BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable

COLOUR: contextvars.ContextVar[str] = contextvars.ContextVar("colour", default="none")
SOON = 0.05


def wait_until(condition: Callable[[], object]) -> None:
    """Wait until something holds, at most ten seconds."""
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.001)


def run_all(threads: list[threading.Thread]) -> None:
    """Start them all, and wait for them."""
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


@pytest.fixture
def workers() -> WorkerThreads:
    """Threads that call a device."""
    return WorkerThreads("the device", most_abandoned=2)


def test_result(workers: WorkerThreads) -> None:
    """A call runs elsewhere, in the caller's context; threads are used again."""
    COLOUR.set("red")
    threads = {
        workers.call_with_deadline(threading.get_ident, Deadline.after(5)) for _ in range(20)
    }

    assert "red" == workers.call_with_deadline(COLOUR.get, Deadline.after(5))
    assert threading.get_ident() not in threads
    assert 1 == len(threads)


def test_error(workers: WorkerThreads) -> None:
    """What the call raises, the caller gets, and nobody keeps it."""

    class FailureError(Exception):
        pass

    def fail() -> None:
        raise FailureError

    try:
        workers.call_with_deadline(fail, Deadline.after(5))
    except FailureError as error:
        kept = weakref.ref(error)
    wait_until(lambda: workers._idle)
    gc.collect()

    assert kept() is None


def test_deadline(workers: WorkerThreads) -> None:
    """At the deadline the caller leaves; it learns when the call is over after all."""
    release, events = threading.Event(), list[str]()

    started = time.monotonic()
    with pytest.raises(BackendTimeoutError, match=r"the device did not return within 0\.05 s"):
        workers.call_with_deadline(
            lambda: release.wait(30),
            Deadline.after(SOON),
            on_abandon=lambda: events.append("given up"),
            late=lambda returned: events.append(f"late, {returned}"),
        )
    assert time.monotonic() - started < 5
    assert (["given up"], 1) == (events, workers.abandoned)
    assert "free" == workers.call_with_deadline(lambda: "free", Deadline.after(5))

    release.set()
    wait_until(lambda: not workers.abandoned)
    assert ["given up", "late, True"] == events


def test_deadline_of_the_call_itself(workers: WorkerThreads) -> None:
    """A call that minds the deadline has a moment to say so itself."""
    deadline = Deadline.after(SOON)

    def call() -> None:
        time.sleep(deadline.remaining)
        deadline.check("Waiting for a session")

    with pytest.raises(BackendTimeoutError, match="Waiting for a session"):
        workers.call_with_deadline(call, deadline)


def test_too_many_hang(workers: WorkerThreads) -> None:
    """Beyond the limit nothing is called; one that returns makes room."""
    release = threading.Event()
    for _ in range(2):
        with pytest.raises(BackendTimeoutError):
            workers.call_with_deadline(lambda: release.wait(30), Deadline.after(SOON))

    with pytest.raises(BackendUnavailableError, match="2 calls to the device") as caught:
        workers.call_with_deadline(pytest.fail, Deadline.after(5))
    assert "backend-hangs" == caught.value.code

    release.set()
    wait_until(lambda: workers.abandoned < 2)
    assert 1 == workers.call_with_deadline(lambda: 1, Deadline.after(5))


def test_bounded() -> None:
    """No more at once than allowed; the others wait, and one that hangs gives its place away."""
    workers = WorkerThreads("the device", most=2)
    release, inside, most = threading.Event(), list[int](), list[int]()

    def call() -> None:
        inside.append(1)
        most.append(len(inside))
        time.sleep(0.01)
        inside.pop()

    callers = [
        threading.Thread(target=workers.call_with_deadline, args=(call, Deadline.after(10)))
        for _ in range(8)
    ]
    run_all(callers)
    assert (8, True) == (len(most), max(most) <= 2)

    def hang() -> None:
        with pytest.raises(BackendTimeoutError):
            workers.call_with_deadline(lambda: release.wait(30), Deadline.after(SOON))

    hung = [threading.Thread(target=hang) for _ in range(2)]
    for thread in hung:
        thread.start()
    assert "after" == workers.call_with_deadline(lambda: "after", Deadline.after(10))
    for thread in hung:
        thread.join()
    release.set()


def test_given_up_while_it_waits() -> None:
    """A call whose caller left before its turn is not made."""
    workers = WorkerThreads("the device", most=1)
    release, made = threading.Event(), list[str]()
    first = threading.Thread(
        target=workers.call_with_deadline, args=(lambda: release.wait(30), Deadline.after(30))
    )
    first.start()
    wait_until(lambda: workers._jobs)

    with pytest.raises(BackendTimeoutError):
        workers.call_with_deadline(lambda: made.append("made"), Deadline.after(SOON))
    release.set()
    first.join()

    assert "next" == workers.call_with_deadline(lambda: "next", Deadline.after(5))
    assert ([], 0) == (made, workers.abandoned)


def test_abandon(workers: WorkerThreads) -> None:
    """Everybody who waits is let go at once, with an error of the caller's choice."""
    release, caught, late = threading.Event(), list[BaseException](), list[str]()

    def call() -> None:
        try:
            workers.call_with_deadline(
                lambda: release.wait(30),
                Deadline.after(30),
                on_abandon=lambda: late.append("given up"),
                late=lambda _: late.append("late"),
            )
        except LookupError as error:
            caught.append(error)

    callers = [threading.Thread(target=call) for _ in range(2)]
    for caller in callers:
        caller.start()
    wait_until(lambda: len(workers._jobs) == 2)
    workers.abandon_all(LookupError)
    for caller in callers:
        caller.join()

    assert (2, 2) == (len(caught), workers.abandoned)
    release.set()
    wait_until(lambda: not workers.abandoned)
    assert ["given up", "given up", "late", "late"] == sorted(late)


def test_idle_threads_end(workers: WorkerThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread without work ends; the next call makes another."""
    monkeypatch.setattr("keystay.concurrency.threads._IDLE_SECONDS", 0.01)
    workers.call_with_deadline(lambda: None, Deadline.after(5))
    wait_until(lambda: not workers._idle)

    assert 1 == workers.call_with_deadline(lambda: 1, Deadline.after(5))


def test_no_thread_to_be_had(workers: WorkerThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no thread can be started, as when the interpreter ends, the caller makes the call."""

    def refuse(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("keystay.concurrency.threads._Worker.start", refuse)

    assert threading.get_ident() == workers.call_with_deadline(
        threading.get_ident, Deadline.after(5)
    )


def test_fork(workers: WorkerThreads) -> None:
    """A child has none of its parent's threads, and makes its own."""
    workers.call_with_deadline(lambda: None, Deadline.after(5))
    if not (child := os.fork()):
        os._exit(0 if workers.call_with_deadline(lambda: 7, Deadline.after(5)) == 7 else 1)
    assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


async def test_async(workers: WorkerThreads) -> None:
    """The event loop is free meanwhile; result, error and context are the call's."""
    COLOUR.set("blue")
    release = threading.Event()

    async def beat() -> None:
        for _ in range(10):
            await anyio.lowlevel.checkpoint()
        release.set()

    async with anyio.create_task_group() as group:
        group.start_soon(beat)
        assert await workers.call_with_deadline_async(lambda: release.wait(10), Deadline.after(20))
    assert "blue" == await workers.call_with_deadline_async(COLOUR.get, Deadline.after(5))
    with pytest.raises(ZeroDivisionError):
        await workers.call_with_deadline_async(lambda: 1 / 0, Deadline.after(5))


async def test_async_deadline(workers: WorkerThreads) -> None:
    """At the deadline the task goes on, whatever the call does."""
    release = threading.Event()
    with pytest.raises(BackendTimeoutError):
        await workers.call_with_deadline_async(lambda: release.wait(30), Deadline.after(SOON))
    release.set()


async def test_async_cancelled(workers: WorkerThreads) -> None:
    """A task that is cancelled leaves at once; its call does not count as one that hangs."""
    release = threading.Event()
    for _ in range(4):
        started = time.monotonic()
        with anyio.move_on_after(SOON) as scope:
            await workers.call_with_deadline_async(lambda: release.wait(30), Deadline.after(20))
        assert scope.cancelled_caught
        assert time.monotonic() - started < 5
    assert not workers.abandoned
    assert 1 == await workers.call_with_deadline_async(lambda: 1, Deadline.after(5))
    release.set()


async def test_async_many() -> None:
    """A thousand tasks at once: all are served, by no more threads than allowed."""
    workers, found = WorkerThreads("the device", most=8), list[int]()
    before = threading.active_count()

    async def work(number: int) -> None:
        found.append(await workers.call_with_deadline_async(lambda: number, Deadline.after(20)))

    async with anyio.create_task_group() as group:
        for number in range(1000):
            group.start_soon(work, number)

    assert list(range(1000)) == sorted(found)
    assert threading.active_count() - before <= 8


def test_loop_that_has_ended(workers: WorkerThreads) -> None:
    """A call that outlives its event loop disturbs nobody."""
    release = threading.Event()

    async def leave() -> None:
        with anyio.move_on_after(SOON):
            await workers.call_with_deadline_async(lambda: release.wait(30), Deadline.after(20))

    for backend in ("asyncio", "trio"):
        anyio.run(leave, backend=backend)
    release.set()
    wait_until(lambda: not workers._busy)
    assert 1 == workers.call_with_deadline(lambda: 1, Deadline.after(5))
