"""Lets a process fork only between calls of gRPC.

A fork while another thread is inside gRPC copies its locks as they are, and nobody in the child
ever opens them: its calls hang. gRPC says so itself ("Other threads are currently calling into
gRPC, skipping fork() handlers") and goes on.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keystay.backends import Deadline

__all__ = ["inside_grpc"]

# Seconds that a fork waits for calls under way: they last milliseconds, or the network hangs.
_PATIENCE = 1.0


class _Gate:
    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._forking = False
        os.register_at_fork(
            before=self._close, after_in_parent=self._open, after_in_child=self._begin_anew
        )

    def enter(self, deadline: Deadline) -> None:
        with self._changed:
            if self._forking:
                wait = min(2 * _PATIENCE, deadline.remaining)
                self._changed.wait_for(lambda: not self._forking, wait)
            self._inside += 1

    def leave(self) -> None:
        with self._changed:
            self._inside = max(0, self._inside - 1)  # 0 where the fork was made in the call itself
            if self._forking:
                self._changed.notify_all()

    def _close(self) -> None:
        until = time.monotonic() + _PATIENCE
        with self._changed:
            self._forking = True
            while self._inside and (left := until - time.monotonic()) > 0:
                self._changed.wait(left)

    def _open(self) -> None:
        with self._changed:
            self._forking = False
            self._changed.notify_all()

    def _begin_anew(self) -> None:
        self._changed = threading.Condition()
        self._inside, self._forking = 0, False


_gate = _Gate()


@contextmanager
def inside_grpc(deadline: Deadline) -> Iterator[None]:
    """A call of gRPC; a fork waits until it is over, if that is soon.

    Args:
        deadline: The call's; it waits no longer for a fork that is being made.
    """
    gate = _gate
    gate.enter(deadline)
    try:
        yield
    finally:
        gate.leave()
