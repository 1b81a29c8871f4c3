"""One renewal under way, which threads and the tasks of any event loop can wait for."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio

from keystay.tokens.clock import now

if TYPE_CHECKING:
    from keystay.tokens.access_token import AccessToken

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
            threads, loops = self._threads, self._loops
        for release in threads:
            release()
        for schedule, event in loops.values():
            with suppress(RuntimeError):  # that loop has ended, and all its tasks
                schedule(event.set)

    def wait(self, seconds: float) -> bool:
        """Block until it is over; False when it is not, or when this very thread makes it."""
        if self.thread == threading.get_ident():  # a signal handler, or a call from a coroutine
            return self._is_over
        gate = threading.Lock()
        gate.acquire()
        with self._lock:
            if self._is_over:
                return True
            self._threads.append(gate.release)
        return gate.acquire(timeout=seconds)

    async def wait_async(self, seconds: float) -> bool:
        """As `wait`, for a task of asyncio or trio."""
        loop, schedule = _running_loop()
        with self._lock:
            if self._is_over:
                return True
            _, event = self._loops.setdefault(loop, (schedule, anyio.Event()))
        with anyio.move_on_after(seconds):
            await event.wait()
        return self._is_over


def _running_loop() -> tuple[object, Schedule]:
    """The event loop of this task, and how any thread has it call a function."""
    trio: Any = sys.modules.get("trio")
    if trio is not None:
        with suppress(RuntimeError):  # not trio's
            token = trio.lowlevel.current_trio_token()
            return token, token.run_sync_soon
    loop = asyncio.get_running_loop()
    return loop, loop.call_soon_threadsafe
