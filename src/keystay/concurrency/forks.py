"""What a fork must find: nobody in the middle of something that the child could never finish.

A child has one thread. A lock that another thread held in the parent is never released in it, a
module that another thread was importing never completes, and a foreign library's own locks stay as
they were. So a fork waits, bounded, for those who are inside (`hold_off_forks`, gates, imports that
a call of ours has begun), and in the child everything that holds locks starts afresh
(`reset_after_fork`).
"""

from __future__ import annotations

import _imp
import os
import sys
import time
import weakref
from collections.abc import Callable
from threading import get_ident
from types import FrameType
from typing import Protocol

from keystay.concurrency.clock import Deadline

__all__ = ["ClosesForForks", "close_for_forks", "detect_fork", "hold_off_forks", "reset_after_fork"]

# Seconds that a fork waits for calls under way: they last milliseconds, or the network hangs.
_PATIENCE = 1.0
_GATE_PATIENCE = 0.5
# The same for an import, which ends by itself.
_IMPORT_PATIENCE = 5.0
_LOOK_EVERY = 0.001


class ClosesForForks(Protocol):
    """Something that can be kept empty while the process forks."""

    def close(self, seconds: float) -> bool:
        """Let nobody in and wait until all have left; False if they had not in `seconds`."""

    def open(self) -> None:
        """Let callers in again."""


# Plain dictionaries: unlike a WeakSet's, each of their changes is whole whenever a fork comes.
_resets: dict[int, tuple[weakref.ref[object], Callable[[object], None]]] = {}
_gates: dict[int, weakref.ref[ClosesForForks]] = {}
_pid = os.getpid()


def reset_after_fork(reset: Callable[[], None]) -> None:
    """Have a bound method called in every child forked from now on, as long as its object lives.

    It makes the object's locks anew, and forgets what threads of another process were doing.
    """
    owner: object = reset.__self__  # type: ignore[attr-defined]
    function: Callable[[object], None] = reset.__func__  # type: ignore[attr-defined]
    key, forget = id(owner), _resets.pop
    _resets[key] = (weakref.ref(owner, lambda _: forget(key, None)), function)


def close_for_forks(gate: ClosesForForks) -> None:
    """Keep a gate empty during every fork from now on, as long as it lives."""
    key, forget = id(gate), _gates.pop
    _gates[key] = weakref.ref(gate, lambda _: forget(key, None))


def detect_fork() -> None:
    """Reset now what a fork made stale, if it was made where Python's own hooks do not run."""
    if os.getpid() != _pid:
        _after_in_child()


class hold_off_forks:  # noqa: N801 - used as a function is
    """A block that a fork by another thread waits for, if it is over soon.

    For calls into libraries with locks of their own (gRPC, OpenSSL): a fork in their middle copies
    these locks as they are. May be nested.

    Args:
        deadline: The block waits no longer than that for a fork that is being made.
    """

    __slots__ = ("_deadline",)

    def __init__(self, deadline: Deadline) -> None:
        self._deadline = deadline

    def __enter__(self) -> None:
        _sections.enter(self._deadline)

    def __exit__(self, *exception: object) -> None:
        _sections.leave()


class _Sections:
    """The threads inside `hold_off_forks`. Entering and leaving take no lock."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self._inside: dict[int, int] = {}  # depth by thread
        self._forking = False

    def enter(self, deadline: Deadline) -> None:
        thread = get_ident()
        depth = self._inside[thread] = self._inside.get(thread, 0) + 1
        # Noted first and looked second: the forking thread does it the other way round, so that at
        # least one of the two sees the other.
        if self._forking and depth == 1:
            del self._inside[thread]
            _poll(lambda: not self._forking, min(2 * _PATIENCE, deadline.remaining))
            self._inside[thread] = 1

    def leave(self) -> None:
        thread = get_ident()
        depth = self._inside.get(thread, 1) - 1  # none where a fork was made in the block
        if depth:
            self._inside[thread] = depth
        else:
            self._inside.pop(thread, None)

    def close(self, seconds: float) -> bool:
        thread = get_ident()
        self._forking = True
        return _poll(lambda: not self._inside.keys() - {thread}, seconds)

    def open(self) -> None:
        self._forking = False


class _Fork:
    """What the forking thread has closed and is to open again."""

    def __init__(self) -> None:
        self.closed: list[ClosesForForks] = []
        self.holds_import_lock = False


_sections = _Sections()
_forks: dict[int, _Fork] = {}


def _before() -> None:
    fork = _forks[get_ident()] = _Fork()
    # First the blocks: those inside may have gates to pass yet before they can leave.
    _sections.close(_PATIENCE)
    fork.closed.append(_sections)
    for found in list(_gates.values()):
        gate = found()
        if gate is not None and gate.close(_GATE_PATIENCE):
            fork.closed.append(gate)
    fork.holds_import_lock = _close_imports()


def _after_in_parent() -> None:
    fork = _forks.pop(get_ident(), None)
    if fork is None:
        return
    if fork.holds_import_lock:
        _imp.release_lock()
    for gate in reversed(fork.closed):
        gate.open()


def _after_in_child() -> None:
    global _pid  # noqa: PLW0603
    fork = _forks.pop(get_ident(), None)
    if fork is not None and fork.holds_import_lock:
        _imp.release_lock()
    _forks.clear()
    _pid = os.getpid()
    _sections.reset()
    for found, reset in list(_resets.values()):
        if (owner := found()) is not None:
            reset(owner)


def _close_imports() -> bool:
    """Wait until no other thread is importing for us, and keep all from beginning to.

    Without the interpreter's import lock one could begin between this look and the fork.

    Returns:
        Whether the import lock is held; not when an import did not end in time.
    """

    def closed() -> bool:
        _imp.acquire_lock()
        own, frames = get_ident(), sys._current_frames()
        if any(_is_importing(frame) for thread, frame in frames.items() if thread != own):
            _imp.release_lock()
            return False
        return True

    return _poll(closed, _IMPORT_PATIENCE)


def _poll(condition: Callable[[], bool], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= until:
            return False
        time.sleep(_LOOK_EVERY)
    return True


def _is_importing(frame: FrameType | None) -> bool:
    """Whether a thread is in an import that keystay began, or in one of keystay's own modules."""
    inside_import = False
    while frame is not None:
        code = frame.f_code
        if code.co_filename == "<frozen importlib._bootstrap>":
            inside_import = True
            if code.co_name == "_find_and_load" and _is_ours(frame.f_locals.get("name")):
                return True
        elif _is_ours(frame.f_globals.get("__name__")) and (
            inside_import or code.co_name == "<module>"
        ):
            return True
        frame = frame.f_back
    return False


def _is_ours(module: object) -> bool:
    return isinstance(module, str) and module.startswith("keystay")


os.register_at_fork(
    before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
)
