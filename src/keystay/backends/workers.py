"""Threads for calls that cannot be interrupted, so that whoever waits for one can leave.

A call into a vendor's library ends when it ends. Whoever must not wait longer than a deadline, or
must not hold up an event loop, has it made in another thread and gives up waiting: the thread
stays with the call, its result is dropped, and the next call gets another thread. So that a
device that hangs does not collect threads without end, there is a limit to those that hang.
"""

from __future__ import annotations

import contextvars
import os
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from keystay.backends.port import Deadline
from keystay.errors import BackendTimeoutError, BackendUnavailableError

__all__ = ["Workers"]

T = TypeVar("T")

_IDLE_SECONDS = 10.0  # until a thread without work ends
_GRACE_SECONDS = 0.05  # for a call that minds the deadline itself: its own error says more


class Workers:
    """Makes calls in threads of its own; thread-safe, and good again in a forked child.

    Args:
        name: What the calls go to, for messages, such as `the token 'prod'`.
        most: Calls at work at once, those that hang apart; None for as many as are asked for.
        most_hanging: Calls that may hang before new ones are refused.
    """

    def __init__(self, name: str, *, most: int | None = None, most_hanging: int = 16) -> None:
        self._name, self._most, self._most_hanging = name, most, most_hanging
        self._begin()

    def __repr__(self) -> str:
        return f"<Workers for {self._name}: {self._busy} at work, {self._hanging} hanging>"

    @property
    def hanging(self) -> int:
        """Calls that nobody waits for any more and that have not returned."""
        return self._hanging if self._pid == os.getpid() else 0

    def run(
        self,
        call: Callable[[], T],
        deadline: Deadline,
        *,
        given_up: Callable[[], object] | None = None,
        late: Callable[[], object] | None = None,
    ) -> T:
        """What `call` returns or raises; the caller waits no longer than the deadline.

        Args:
            call: Made in another thread, in a copy of this one's context.
            deadline: When to give up waiting for it.
            given_up: Called in this thread when it is given up: what it uses stays in use.
            late: Called in that thread once a call that was given up is over after all.

        Raises:
            BackendTimeoutError: It had not returned by the deadline.
            BackendUnavailableError: Too many calls hang already; it was not made.
        """
        done = threading.Lock()
        done.acquire()
        job = _Job(call, done.release, late)
        self._submit(job)
        try:
            returned = done.acquire(timeout=deadline.remaining + _GRACE_SECONDS)
        except BaseException:
            self._give_up(job, hangs=False)
            if given_up is not None and job.given_up:
                given_up()
            raise
        timed_out = not returned and self._give_up(job)
        if given_up is not None and job.given_up:
            given_up()
        if timed_out:
            raise self._timeout(deadline)
        return job.outcome()  # type: ignore[no-any-return]

    async def run_async(self, call: Callable[[], T], deadline: Deadline) -> T:
        """As `run`, for asyncio and trio. A task that is cancelled leaves at once.

        Raises:
            BackendTimeoutError, BackendUnavailableError: As `run`.
        """
        import anyio
        import anyio.lowlevel

        loop: Any = anyio.lowlevel.current_token().native_token
        schedule = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
        returned = anyio.Event()
        job = _Job(call, partial(_wake, schedule, returned.set), None)
        self._submit(job)
        try:
            with anyio.move_on_after(deadline.remaining + 3 * _GRACE_SECONDS):
                await returned.wait()
        except BaseException:
            self._give_up(job, hangs=False)
            raise
        if not returned.is_set() and self._give_up(job):
            raise self._timeout(deadline)
        return job.outcome()  # type: ignore[no-any-return]

    def abandon(self, error: Callable[[], Exception]) -> None:
        """Give up every call under way, now: whoever waits for one gets an `error`."""
        with self._lock:
            jobs = [job for job in self._jobs if job.give_up_with(error())]
            self._hanging += len(jobs)
            self._busy -= len(jobs)
        for job in jobs:
            job.notify()

    def _begin(self) -> None:
        self._jobs: set[_Job] = set()  # begun, and not over
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._idle: list[_Worker] = []
        self._queue: deque[_Job] = deque()
        self._busy = self._hanging = 0

    def _submit(self, job: _Job) -> None:
        """Give the job to a thread, or have it wait for one."""
        if self._pid != os.getpid():
            self._begin()  # a fork takes one thread along, and locks as they happen to be
        with self._lock:
            if self._hanging >= self._most_hanging:
                raise BackendUnavailableError(
                    f"{self._hanging} calls to {self._name} have not returned; no more are made.",
                    cause="The device hangs; a call to it cannot be interrupted.",
                    hint="Check the device; calls are made again as soon as one returns. If none "
                    "does, restart this process.",
                    code="backend-hangs",
                )
            if self._most is not None and self._busy >= self._most:
                self._queue.append(job)
                return
            self._busy += 1
            worker = self._idle.pop() if self._idle else None
        self._start(job, worker)

    def _start(self, job: _Job, worker: _Worker | None) -> None:
        if worker is None:
            worker = _Worker(self)
            worker.job = job
            try:
                worker.start()
            except RuntimeError:  # no thread is to be had, as when the interpreter ends
                self._make_here(job)
        else:
            worker.job = job
            worker.wake.release()

    def _make_here(self, job: _Job) -> None:
        job.started = True
        job.make()
        with self._lock:
            job.done = True
            self._busy -= 1
        job.notify()

    def _give_up(self, job: _Job, *, hangs: bool = True) -> bool:
        """Stop waiting for a job; False if it is done after all.

        One that hangs gives its place to another. One whose caller was cancelled keeps it until it
        returns, which it is about to do as far as anybody knows.
        """
        following = None
        with self._lock:
            if job.done or job.given_up:
                return False
            job.given_up = True
            if job.started and hangs:
                job.hangs = True
                self._hanging += 1
                following = self._following()
        if following is not None:
            self._start(following, None)
        return True

    def _following(self) -> _Job | None:
        """Lock held, one call less at work: the job to do instead, if one waits."""
        if self._queue:
            return self._queue.popleft()
        self._busy -= 1
        return None

    def _work(self, worker: _Worker) -> None:
        """What a worker's thread does."""
        job: _Job | None = worker.job
        while True:
            worker.job = None
            while job is not None:
                job = self._do(job, worker)
            if not worker.wake.acquire(timeout=_IDLE_SECONDS):
                with self._lock:
                    if worker in self._idle:
                        self._idle.remove(worker)
                        return
                worker.wake.acquire()  # somebody has just taken it up
            job = worker.job

    def _do(self, job: _Job, worker: _Worker) -> _Job | None:
        """Make one call; return the next job, or None when there is none."""
        with self._lock:
            wanted = job.started = not job.given_up
            if wanted:
                self._jobs.add(job)
        if wanted:
            job.make()
        with self._lock:
            job.done = True
            self._jobs.discard(job)
        if not job.given_up:
            following = self._finish(job, worker)
            job.notify()
            return following
        if job.late is not None:
            with suppress(Exception):  # nobody is left to tell
                job.late()
        return self._finish(job, worker)

    def _finish(self, job: _Job, worker: _Worker) -> _Job | None:
        """Account for a call that is over; return the next job, if one waits."""
        with self._lock:
            following = None
            if job.hangs:
                self._hanging -= 1  # its place was given away when it was given up
            else:
                following = self._following()
            if following is None:
                self._idle.append(worker)
            return following

    def _timeout(self, deadline: Deadline) -> BackendTimeoutError:
        return BackendTimeoutError(
            f"A call to {self._name} did not return within {deadline.seconds:g} s.",
            cause="The device or service is slow, overloaded or hangs; a call that has begun "
            "cannot be interrupted, so it is left alone and its result is dropped.",
            hint="Check its health and load; raise the timeout only if it is slow by nature.",
        )


class _Worker(threading.Thread):
    """A thread that waits for jobs. It never keeps the process from ending."""

    def __init__(self, workers: Workers) -> None:
        super().__init__(name="keystay-worker", daemon=True)
        self._workers = workers
        self.wake = threading.Lock()
        self.wake.acquire()
        self.job: _Job | None = None

    def run(self) -> None:
        self._workers._work(self)


class _Job:
    """One call, and what came of it."""

    __slots__ = (
        "_call", "_context", "_error", "_value", "done", "given_up", "hangs", "late", "notify",
        "started",
    )  # fmt: skip

    def __init__(
        self,
        call: Callable[[], Any],
        notify: Callable[[], object],
        late: Callable[[], object] | None,
    ) -> None:
        self._call, self.notify, self.late = call, notify, late
        self._context = contextvars.copy_context()
        self._value: Any = None
        self._error: BaseException | None = None
        self.started = self.done = self.given_up = self.hangs = False

    def make(self) -> None:
        value, failure = None, None
        try:
            value = self._context.run(self._call)
        except BaseException as error:  # noqa: BLE001 - whoever waits gets it
            failure = error
        if not self.given_up:
            self._value, self._error = value, failure

    def give_up_with(self, error: Exception) -> bool:
        """Have `outcome` raise `error`, whatever comes; False if it is given up already."""
        if self.given_up or self.done:
            return False
        self.given_up = self.hangs = True
        self._value, self._error = None, error
        return True

    def outcome(self) -> Any:
        error, self._error = self._error, None
        if error is None:
            return self._value
        try:
            raise error
        finally:
            del error  # or it would keep itself alive, through this frame


def _wake(schedule: Callable[[Callable[[], object]], object], tell: Callable[[], object]) -> None:
    """Tell an event loop; one that has ended has nobody left to tell."""
    with suppress(RuntimeError):
        schedule(tell)
