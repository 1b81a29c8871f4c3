"""Blocking calls that end by a deadline, and what wakes threads and event loops.

A call into a vendor's library, a socket or a file system ends when it ends. Whoever must not wait
longer than a deadline, or must not hold up an event loop, has it made in another thread and
abandons it: the thread stays with the call, its result is dropped, and the next call gets another
thread. So that a device that hangs does not collect threads without end, their number is bounded.
"""

from __future__ import annotations

import contextvars
import sys
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar, cast

from keystay.concurrency.clock import Deadline
from keystay.concurrency.forks import detect_fork, reset_after_fork
from keystay.errors import BackendTimeoutError, BackendUnavailableError

if TYPE_CHECKING:
    import anyio

__all__ = ["SharedEvent", "WorkerThreads", "running_loop"]

T = TypeVar("T")

_IDLE_SECONDS = 10.0  # until a thread without work ends
_GRACE_SECONDS = 0.05  # for a call that keeps the deadline itself: its own error says more

CallSoon = Callable[[Callable[[], object]], object]
"""Has an event loop call a function; from any thread."""


class WorkerThreads:
    """Makes calls in threads of its own. Thread-safe, and usable in a forked child.

    A subclass has its own errors for the two ways in which a call can be refused.

    Args:
        name: What the calls go to, for messages, such as `the token 'prod'`.
        most: Calls at work at once, abandoned ones apart; None for as many as are asked for.
        most_abandoned: Calls that may be left behind before new ones are refused.
    """

    def __init__(self, name: str, *, most: int | None = None, most_abandoned: int = 16) -> None:
        self._name, self._most, self._most_abandoned = name, most, most_abandoned
        self._reset()
        reset_after_fork(self._reset)

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} for {self._name}: {self._busy} at work, "
            f"{self._abandoned} abandoned>"
        )

    @property
    def abandoned(self) -> int:
        """Calls that hang: nobody waits for them any more, and they have not returned."""
        return self._abandoned

    def call_with_deadline(
        self,
        function: Callable[[], T],
        deadline: Deadline,
        *,
        on_abandon: Callable[[], object] | None = None,
        late: Callable[[T | None], object] | None = None,
    ) -> T:
        """What `function` returns or raises; the caller waits no longer than the deadline.

        Args:
            function: Called in another thread, in a copy of this one's context.
            deadline: When to abandon it.
            on_abandon: Called in this thread when it is abandoned: what it uses stays in use.
            late: Called in that thread once an abandoned call is over after all, with what it
                returned; None if it raised, or was not made any more.

        Raises:
            BackendTimeoutError: It had not returned by the deadline.
            BackendUnavailableError: Too many calls hang already; it was not made.
        """
        returned = threading.Lock()
        returned.acquire()
        job = _Job(function, returned.release, late)
        self._submit(job)
        try:
            in_time = returned.acquire(timeout=deadline.remaining + _GRACE_SECONDS)
        except BaseException:
            self._abandon(job, hangs=False)
            if on_abandon is not None and job.abandoned:
                on_abandon()
            raise
        timed_out = not in_time and self._abandon(job)
        if on_abandon is not None and job.abandoned:
            on_abandon()
        if timed_out:
            raise self.timeout_error(deadline)
        return job.outcome()

    async def call_with_deadline_async(
        self,
        function: Callable[[], T],
        deadline: Deadline | None,
        *,
        on_abandon: Callable[[], object] | None = None,
        late: Callable[[T | None], object] | None = None,
    ) -> T:
        """As `call_with_deadline`, for a task of asyncio or trio.

        A task that is cancelled leaves at once; without a deadline, only then.

        Raises:
            BackendTimeoutError, BackendUnavailableError: As `call_with_deadline`.
        """
        import anyio

        returned = anyio.Event()
        _, call_soon = running_loop()
        job = _Job(function, partial(_call_soon, call_soon, returned.set), late)
        self._submit(job)
        seconds = None if deadline is None else deadline.remaining + 3 * _GRACE_SECONDS
        try:
            with anyio.move_on_after(seconds):
                await returned.wait()
        except BaseException:
            self._abandon(job, hangs=False)
            if on_abandon is not None and job.abandoned:
                on_abandon()
            raise
        if deadline is not None and not returned.is_set() and self._abandon(job):
            if on_abandon is not None:
                on_abandon()
            raise self.timeout_error(deadline)
        return job.outcome()

    def abandon_all(self, error: Callable[[], Exception]) -> None:
        """Abandon every call under way, now: whoever waits for one gets an `error`."""
        with self._lock:
            jobs = [job for job in self._jobs if job.abandon_with(error())]
            self._abandoned += len(jobs)
            self._busy -= len(jobs)
        for job in jobs:
            job.notify()

    def timeout_error(self, deadline: Deadline) -> Exception:
        """The error for a call that did not return in time."""
        return BackendTimeoutError(
            f"A call to {self._name} did not return within {deadline.seconds:g} s.",
            cause="The device or service is slow, overloaded or hangs; a call that has begun "
            "cannot be interrupted, so it is left alone and its result is dropped.",
            hint="Check its health and load; raise the timeout only if it is slow by nature.",
        )

    def hanging_error(self, count: int) -> Exception:
        """The error for a call that is not made because so many hang."""
        return BackendUnavailableError(
            f"{count} calls to {self._name} have not returned; no more are made.",
            cause="The device hangs; a call to it cannot be interrupted.",
            hint="Check the device; calls are made again as soon as one returns. If none does, "
            "restart this process.",
            code="backend-hangs",
        )

    def _reset(self) -> None:
        self._jobs: set[_Job[object]] = set()  # begun, and not over
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._queue: deque[_Job[object]] = deque()
        self._busy = self._abandoned = 0

    def _submit(self, given: _Job[T]) -> None:
        """Give the job to a thread, or have it wait for one."""
        job = cast("_Job[object]", given)
        detect_fork()
        with self._lock:
            if self._abandoned >= self._most_abandoned:
                raise self.hanging_error(self._abandoned)
            if self._most is not None and self._busy >= self._most:
                self._queue.append(job)
                return
            self._busy += 1
            worker = self._idle.pop() if self._idle else None
        self._start(job, worker)

    def _start(self, job: _Job[object], worker: _Worker | None) -> None:
        if worker is None:
            worker = _Worker(self._work)
            worker.job = job
            try:
                worker.start()
            except RuntimeError:  # no thread is to be had, as when the interpreter ends
                self._make_here(job)
        else:
            worker.job = job
            worker.wake.release()

    def _make_here(self, job: _Job[object]) -> None:
        job.started = True
        job.make()
        with self._lock:
            job.done = True
            self._busy -= 1
        job.notify()

    def _abandon(self, given: _Job[T], *, hangs: bool = True) -> bool:
        """Stop waiting for a job; False if it is done after all.

        One that hangs gives its place to another. One whose caller was cancelled keeps it until it
        returns, which it is about to do as far as anybody knows.
        """
        following = None
        with self._lock:
            if given.done or given.abandoned:
                return False
            given.abandoned = True
            if given.started and hangs:
                given.hangs = True
                self._abandoned += 1
                following = self._following()
        if following is not None:
            self._start(following, None)
        return True

    def _following(self) -> _Job[object] | None:
        """Lock held, one call less at work: the job to do instead, if one waits."""
        if self._queue:
            return self._queue.popleft()
        self._busy -= 1
        return None

    def _work(self, worker: _Worker) -> None:
        """What a worker's thread does."""
        job: _Job[object] | None = worker.job
        while True:
            worker.job = None
            while job is not None:
                job = self._do(job, worker)
            if not worker.wake.acquire(timeout=_IDLE_SECONDS):
                with self._lock:
                    if worker in self._idle:
                        self._idle.remove(worker)
                        return
                worker.wake.acquire()  # it has just been given a job
            job = worker.job

    def _do(self, job: _Job[object], worker: _Worker) -> _Job[object] | None:
        """Make one call; return the next job, or None when there is none."""
        with self._lock:
            wanted = job.started = not job.abandoned
            if wanted:
                self._jobs.add(job)
        if wanted:
            job.make()
        with self._lock:
            job.done = True
            self._jobs.discard(job)
        if not job.abandoned:
            following = self._finish(job, worker)
            job.notify()
            return following
        job.end_late()
        return self._finish(job, worker)

    def _finish(self, job: _Job[object], worker: _Worker) -> _Job[object] | None:
        """Account for a call that is over; return the next job, if one waits."""
        with self._lock:
            following = None
            if job.hangs:
                self._abandoned -= 1  # its place was given away when it was abandoned
            else:
                following = self._following()
            if following is None:
                self._idle.append(worker)
            return following


class _Worker(threading.Thread):
    """A thread that waits for jobs. It never keeps the process from ending."""

    def __init__(self, work: Callable[[_Worker], None]) -> None:
        super().__init__(name="keystay-worker", daemon=True)
        self._work = work
        self.wake = threading.Lock()
        self.wake.acquire()
        self.job: _Job[object] | None = None

    def run(self) -> None:
        self._work(self)


class _Job(Generic[T]):
    """One call, and what came of it."""

    __slots__ = (
        "_context", "_error", "_function", "_late", "_value", "abandoned", "done", "hangs",
        "notify", "started",
    )  # fmt: skip

    def __init__(
        self,
        function: Callable[[], T],
        notify: Callable[[], object],
        late: Callable[[T | None], object] | None,
    ) -> None:
        self._function, self.notify, self._late = function, notify, late
        self._context = contextvars.copy_context()
        self._value: T | None = None
        self._error: BaseException | None = None
        self.started = self.done = self.abandoned = self.hangs = False

    def make(self) -> None:
        value, failure = None, None
        try:
            value = self._context.run(self._function)
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            failure = error
        if not self.abandoned or self._error is None:
            self._value, self._error = value, failure

    def end_late(self) -> None:
        """Hand what came of an abandoned call to `late`, whose errors nobody is left to see."""
        value, self._value, self._error = self._value, None, None
        if self._late is not None:
            with suppress(Exception):
                self._late(value)

    def abandon_with(self, error: Exception) -> bool:
        """Have `outcome` raise `error`, whatever comes; False if it is abandoned already."""
        if self.abandoned or self.done:
            return False
        self.abandoned = self.hangs = True
        self._value, self._error = None, error
        return True

    def outcome(self) -> T:
        error, self._error = self._error, None
        if error is None:
            return cast(T, self._value)
        try:
            raise error
        finally:
            del error  # or it would keep itself alive, through this frame


class SharedEvent:
    """Happens once; threads and the tasks of any event loop wait for it.

    Nothing here waits for a lock that is held for longer than a few instructions, and the lock is
    re-entrant: a signal handler may come between any two of them.
    """

    __slots__ = ("_is_set", "_lock", "_loops", "_threads")

    def __init__(self) -> None:
        self._is_set = False
        self._lock = threading.RLock()
        self._threads: list[Callable[[], object]] = []
        self._loops: dict[object, tuple[CallSoon, anyio.Event]] = {}

    @property
    def is_set(self) -> bool:
        """Whether it has happened."""
        return self._is_set

    def set(self) -> None:
        """Wake everybody; later calls do nothing."""
        with self._lock:
            if self._is_set:
                return
            self._is_set = True
            threads, loops = [*self._threads], [*self._loops.values()]
        for release in threads:
            release()
        for call_soon, event in loops:
            _call_soon(call_soon, event.set)

    def wait(self, seconds: float) -> bool:
        """Block until it happens, at most so long; return whether it did."""
        gate = threading.Lock()
        gate.acquire()
        with self._lock:
            if self._is_set:
                return True
            self._threads.append(gate.release)
        return gate.acquire(timeout=seconds)

    async def wait_async(self, seconds: float) -> bool:
        """As `wait`, for a task of asyncio or trio.

        The first task of a loop sets the timer for all: a thousand timers cost more than the wait.
        When its time is up, or it is cancelled, they wake and look for themselves.
        """
        import anyio

        loop, call_soon = running_loop()
        with self._lock:
            if self._is_set:
                return True
            known = self._loops.get(loop)
            event = anyio.Event() if known is None else known[1]
            if known is None:
                self._loops[loop] = (call_soon, event)
        if known is not None:
            await event.wait()
            return self._is_set
        try:
            with anyio.move_on_after(seconds):
                await event.wait()
        finally:
            with self._lock:
                self._loops.pop(loop, None)
            if not self._is_set:
                event.set()
        return self._is_set


def running_loop() -> tuple[object, CallSoon]:
    """The event loop of this task, and how any thread has it call a function."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is not None:
        with suppress(RuntimeError):  # trio's
            loop = asyncio.get_running_loop()
            if asyncio.current_task(loop) is not None:  # else trio is asyncio's guest
                return loop, loop.call_soon_threadsafe
    token = sys.modules["trio"].lowlevel.current_trio_token()
    return token, token.run_sync_soon


def _call_soon(call_soon: CallSoon, function: Callable[[], object]) -> None:
    """Have an event loop call a function; one that has ended has no tasks left to wake."""
    with suppress(RuntimeError):
        call_soon(function)
