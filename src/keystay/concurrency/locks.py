"""Locks that are waited for no longer than a deadline, and that are free in a forked child."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from keystay.concurrency.clock import Deadline
from keystay.concurrency.forks import close_for_forks, reset_after_fork
from keystay.errors import BackendTimeoutError

__all__ = ["DeadlineLock", "ReadWriteGate"]


class DeadlineLock:
    """A lock for what may take long.

    Args:
        busy: How an error says what another thread is doing, such as "connecting to the token".
        reentrant: Whether the thread that holds it may take it again, as a signal handler does
            that comes in the middle.
    """

    __slots__ = ("__weakref__", "_busy", "_lock", "_make")

    def __init__(self, busy: str, *, reentrant: bool = False) -> None:
        self._busy = busy
        self._make = threading.RLock if reentrant else threading.Lock
        self.reset()
        reset_after_fork(self.reset)

    @contextmanager
    def held(self, deadline: Deadline) -> Iterator[None]:
        """Hold the lock for the block.

        Raises:
            BackendTimeoutError: Another thread held it until the deadline.
        """
        lock = self._lock
        if not lock.acquire(timeout=min(deadline.remaining, threading.TIMEOUT_MAX)):
            raise BackendTimeoutError(
                f"Another thread was still {self._busy} after {deadline.seconds:g} s.",
                cause="The device or service is slow or hangs, or a secret is being asked for.",
                hint="Check the device; allow more time.",
            )
        try:
            yield
        finally:
            lock.release()

    def reset(self) -> None:
        """Leave the lock to whichever thread holds it and does not come back."""
        self._lock = self._make()


class ReadWriteGate:
    """Lets calls in side by side, and lets one in alone that must not meet any other.

    C_Finalize while another thread is inside a PKCS#11 module is undefined, and so is forking while
    one holds the module's locks. Neither is a call that can be interrupted, so whoever must be
    alone waits, bounded, for the others to come out. During a fork the gate is closed.

    A thread does not enter twice: it would wait for itself when somebody wants to be alone.

    Args:
        busy: Makes the error for an exclusive block that cannot begin, from the number of calls
            still inside and the seconds waited.
        closed: Makes the error for a call that found the gate closed until its deadline.
    """

    __slots__ = ("__weakref__", "_busy", "_changed", "_closed", "_error", "_generation", "_inside")

    def __init__(
        self,
        *,
        busy: Callable[[int, float], Exception],
        closed: Callable[[Deadline], Exception],
    ) -> None:
        self._busy, self._error = busy, closed
        self.reset()
        close_for_forks(self)
        reset_after_fork(self.reset)

    def reset(self) -> None:
        """Open, with nobody inside."""
        self._changed = threading.Condition(threading.Lock())
        self._inside = 0
        self._generation = 0  # of the calls that are counted
        self._closed = False

    def enter(self, deadline: Deadline) -> int:
        """Count one call in; `leave` must follow, with what this returns.

        Raises:
            Exception: As `closed` makes it: somebody was alone inside until the deadline.
        """
        with self._changed:
            if self._closed and not self._changed.wait_for(
                lambda: not self._closed, deadline.remaining
            ):
                raise self._error(deadline)
            self._inside += 1
            return self._generation

    def leave(self, generation: int) -> None:
        """Count it out, unless it was left behind."""
        with self._changed:
            if generation == self._generation:
                self._inside -= 1
                if self._closed and not self._inside:
                    self._changed.notify_all()

    @contextmanager
    def shared(self, deadline: Deadline) -> Iterator[None]:
        """Be inside for the block; see `enter`."""
        generation = self.enter(deadline)
        try:
            yield
        finally:
            self.leave(generation)

    def close(self, seconds: float, *, force: bool = False) -> bool:
        """Keep new calls out and wait for those inside; `open` must follow if it returns True.

        Args:
            seconds: How long to wait.
            force: Count calls no more that have not come out by then.
        """
        until = time.monotonic() + seconds
        with self._changed:
            if not self._changed.wait_for(lambda: not self._closed, seconds):
                return False
            self._closed = True
            left = max(0.0, until - time.monotonic())
            if not self._changed.wait_for(lambda: not self._inside, left):
                if not force:
                    self._closed = False
                    self._changed.notify_all()
                    return False
                self._generation += 1
                self._inside = 0
            return True

    def open(self) -> None:
        """Let calls in again."""
        with self._changed:
            self._closed = False
            self._changed.notify_all()

    @contextmanager
    def exclusive(self, seconds: float, *, force: bool = False) -> Iterator[bool]:
        """Be alone inside for the block; see `close`.

        Yields:
            Whether nobody was left behind there.

        Raises:
            Exception: As `busy` makes it: others did not come out within `seconds`.
        """
        generation = self._generation
        if not self.close(seconds, force=force):
            raise self._busy(self._inside, seconds)
        try:
            yield generation == self._generation
        finally:
            self.open()
