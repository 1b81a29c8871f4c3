"""Lets calls into a module side by side, and lets one in alone that must not meet any other.

C_Finalize while another thread is inside the module is undefined, and so is forking while one
holds the module's locks. Neither is a call that can be interrupted, so whoever must be alone
waits, bounded, for the others to come out.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from keystay.errors import BackendTimeoutError

if TYPE_CHECKING:
    from keystay.backends import Deadline

__all__ = ["Gate"]


class Gate:
    """Counts the calls inside a module.

    A thread does not enter twice: it would wait for itself when somebody wants to be alone.
    """

    __slots__ = ("_changed", "_generation", "_inside", "_lock", "_shut")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._inside = 0
        self._generation = 0  # of the calls that are counted
        self._shut = False

    def enter(self, deadline: Deadline) -> int:
        """Count one call in; `leave` must follow, with what this returns.

        Raises:
            BackendTimeoutError: Somebody was alone inside until the deadline.
        """
        with self._lock:
            if self._shut:
                self._wait_until_open(deadline.remaining, deadline.seconds)
            self._inside += 1
            return self._generation

    def leave(self, generation: int) -> None:
        """Count it out, unless it was left behind."""
        with self._lock:
            if generation == self._generation:
                self._inside -= 1
                if self._shut and not self._inside:
                    self._changed.notify_all()

    @contextmanager
    def call(self, deadline: Deadline) -> Iterator[None]:
        """Be inside for the block; see `enter`."""
        generation = self.enter(deadline)
        try:
            yield
        finally:
            self.leave(generation)

    def shut(self, seconds: float, *, force: bool = False) -> bool:
        """Keep new calls out and wait for those inside; `open` must follow if it returns True.

        Args:
            seconds: How long to wait.
            force: Count calls no more that have not come out by then.
        """
        until = time.monotonic() + seconds
        with self._lock:
            while self._shut:
                if not self._changed.wait(max(0.0, until - time.monotonic())):
                    return False
            self._shut = True
            while self._inside and not (force and until <= time.monotonic()):
                if not self._changed.wait(max(0.0, until - time.monotonic())) and not force:
                    self._shut = False
                    self._changed.notify_all()
                    return False
            if self._inside:
                self._generation += 1
                self._inside = 0
            return True

    def open(self) -> None:
        """Let calls in again."""
        with self._lock:
            self._shut = False
            self._changed.notify_all()

    @contextmanager
    def alone(self, seconds: float, *, force: bool = False) -> Iterator[bool]:
        """Be alone inside for the block; see `shut`.

        Yields:
            Whether nobody was left behind there.

        Raises:
            BackendTimeoutError: Others did not come out within `seconds`.
        """
        generation = self._generation
        if not self.shut(seconds, force=force):
            raise BackendTimeoutError(
                f"The module could not be restarted: {self._inside} calls into it did not return "
                f"within {seconds:g} s.",
                cause="The device hangs; a PKCS#11 call cannot be interrupted.",
                hint="Check the device; restart this process if it does not come back.",
                code="module-busy",
            )
        try:
            yield generation == self._generation
        finally:
            self.open()

    def _wait_until_open(self, seconds: float, whole: float) -> None:
        until = time.monotonic() + seconds
        while self._shut:
            if not self._changed.wait(max(0.0, until - time.monotonic())) and self._shut:
                raise BackendTimeoutError(
                    f"The module did not finish restarting within {whole:g} s.",
                    cause="Another thread is bringing the module back after a failure.",
                    hint="Check the device and its daemon.",
                    code="module-restarting",
                )
