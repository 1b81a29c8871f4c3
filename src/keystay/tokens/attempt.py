"""One renewal under way, which threads and the tasks of any event loop can wait for."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio

from keystay.concurrency.clock import now

if TYPE_CHECKING:
    from keystay.token_stores.access_token import AccessToken

__all__ = ["Attempt"]

Schedule = Callable[[Callable[[], object]], object]


class Attempt:
    """Over when its token is there, or its error, or neither: then one who waited tries himself.

    Nothing here waits for a lock that is held for longer than a few instructions, and the lock is
    re-entrant: a signal handler may come between any two of them.

    Args:
        seconds: After so many it is overdue: whoever made it is gone without a word.
    """

    def __init__(self, seconds: float) -> None:
        self.thread = threading.get_ident()
        """The thread whose caller makes it."""
        self.overdue_at = now() + seconds
        """When nobody should wait for it any more, by `clock.now()`."""
        self.token: AccessToken | None = None
        self.error: Exception | None = None
        self._is_over = False
        self._lock = threading.RLock()
        self._threads: list[Callable[[], object]] = []
        self._loops: dict[object, tuple[Schedule, anyio.Event]] = {}

    def end(self, token: AccessToken | None = None, error: Exception | None = None) -> None:
        """Wake everybody; once."""
        with self._lock:
            if self._is_over:
                return
            self.token, self.error, self._is_over = token, error, True
            threads, loops = [*self._threads], [*self._loops.values()]
        for release in threads:
            release()
        for schedule, event in loops:
            with suppress(RuntimeError):  # that loop has ended, and all its tasks
                schedule(event.set)

    def wait(self, seconds: float) -> bool | None:
        """Block until it is over.

        Returns:
            Whether it is; None at once when this very thread makes it, and has been interrupted by
            a signal handler or calls from a coroutine: waiting would never end.
        """
        if self.thread == threading.get_ident():
            return True if self._is_over else None
        gate = threading.Lock()
        gate.acquire()
        with self._lock:
            if self._is_over:
                return True
            self._threads.append(gate.release)
        return gate.acquire(timeout=seconds)

    async def wait_async(self, seconds: float) -> bool:
        """As `wait`, for a task of asyncio or trio.

        The first task of a loop sets the timer for all: a thousand timers cost more than the wait.
        When its time is up, or it is cancelled, they wake and look for themselves.
        """
        loop, schedule = _running_loop()
        with self._lock:
            if self._is_over:
                return True
            known = self._loops.get(loop)
            event = anyio.Event() if known is None else known[1]
            if known is None:
                self._loops[loop] = (schedule, event)
        if known is not None:
            await event.wait()
            return self._is_over
        try:
            with anyio.move_on_after(seconds):
                await event.wait()
        finally:
            with self._lock:
                is_over = self._is_over
                self._loops.pop(loop, None)
            if not is_over:
                event.set()
        return self._is_over


def _running_loop() -> tuple[object, Schedule]:
    """The event loop of this task, and how any thread has it call a function."""
    with suppress(RuntimeError):  # trio's
        loop = asyncio.get_running_loop()
        if asyncio.current_task(loop) is not None:  # else trio is asyncio's guest
            return loop, loop.call_soon_threadsafe
    token = sys.modules["trio"].lowlevel.current_trio_token()
    return token, token.run_sync_soon
