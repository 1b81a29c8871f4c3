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
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from keystay.concurrency.clock import Deadline

__all__ = [
    "ClosesForForks",
    "arm",
    "close_for_forks",
    "detect_fork",
    "hold_off_forks",
    "reset_after_fork",
]

# Seconds that a fork waits for calls that may hang: they last milliseconds, or the network is down.
_PATIENCE = 1.0
_GATE_PATIENCE = 0.5
# The same for computations and imports, which end by themselves, on a busy machine late.
_COMPUTING_PATIENCE = 20.0
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

    For calls into libraries with locks of their own (OpenSSL, gRPC): a fork in their middle copies
    these locks as they are. May be nested.

    Args:
        deadline: The block waits no longer than that for a fork that is being made.
        may_hang: Whether it waits for a device or the network: a fork then waits less long.
    """

    __slots__ = ("_deadline", "_may_hang")

    def __init__(self, deadline: Deadline, *, may_hang: bool = False) -> None:
        self._deadline, self._may_hang = deadline, may_hang

    def __enter__(self) -> None:
        _sections.enter(self._deadline, self._may_hang)

    def __exit__(self, *exception: object) -> None:
        _sections.leave(self._may_hang)


class _Sections:
    """The threads inside `hold_off_forks`. Entering and leaving take no lock."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        # Depth by thread.
        self._computing: dict[int, int] = {}
        self._calling: dict[int, int] = {}
        self._forking = False

    def enter(self, deadline: Deadline, may_hang: bool) -> None:
        thread = get_ident()
        is_first = thread not in self._computing and thread not in self._calling
        inside = self._calling if may_hang else self._computing
        inside[thread] = inside.get(thread, 0) + 1
        # Noted first and looked second: the forking thread does it the other way round, so that at
        # least one of the two sees the other.
        while self._forking and is_first:
            del inside[thread]
            patience = min(2 * _COMPUTING_PATIENCE, deadline.remaining)
            is_first = _poll(lambda: not self._forking, patience)  # else goes on regardless
            inside[thread] = 1

    def leave(self, may_hang: bool) -> None:
        thread, inside = get_ident(), self._calling if may_hang else self._computing
        depth = inside.get(thread, 1) - 1  # none where a fork was made in the block
        if depth:
            inside[thread] = depth
        else:
            inside.pop(thread, None)

    def close(self) -> None:
        own = {get_ident()}
        self._forking = True
        _poll(lambda: not (self._computing.keys() | self._calling.keys()) - own, _PATIENCE)
        _poll(lambda: not self._computing.keys() - own, _COMPUTING_PATIENCE)

    def open(self) -> None:
        self._forking = False


class _Fork:
    """What the forking thread has closed and is to open again."""

    def __init__(self) -> None:
        self.gates: list[ClosesForForks] = []
        self.holds_import_lock = False


_sections = _Sections()
_forks: dict[int, _Fork] = {}


def _before() -> None:
    if get_ident() in _forks:
        return
    fork = _forks[get_ident()] = _Fork()
    had_logging, is_lent = _has_logging(), _lend_logging_lock()
    # First the blocks: those inside may have gates to pass yet before they can leave.
    _sections.close()
    for found in list(_gates.values()):
        gate = found()
        if gate is not None and gate.close(_GATE_PATIENCE):
            fork.gates.append(gate)
    fork.holds_import_lock = _close_imports()
    if is_lent or (not had_logging and _has_logging()):
        # Imported while this waited: its hook after the fork releases what its hook before the
        # fork, which came too late, has not acquired.
        sys.modules["logging"]._lock.acquire()


def _after_in_parent() -> None:
    fork = _forks.pop(get_ident(), None)
    if fork is None:
        return
    if fork.holds_import_lock:
        _imp.release_lock()
    for gate in fork.gates:
        gate.open()
    _sections.open()


def _after_in_child() -> None:
    global _pid  # noqa: PLW0603
    if os.getpid() == _pid:
        return
    fork = _forks.pop(get_ident(), None)
    if fork is not None and fork.holds_import_lock:
        _imp.release_lock()
    _forks.clear()
    _pid = os.getpid()
    _sections.reset()
    for found, reset in list(_resets.values()):
        if (owner := found()) is not None:
            reset(owner)


def _lend_logging_lock() -> bool:
    """Release logging's lock if this fork holds it while another thread imports logging.

    Its hook is registered in the middle of its import, whose end needs the lock.
    """
    module = sys.modules.get("logging")
    lock = getattr(module, "_lock", None)
    is_imported = not getattr(getattr(module, "__spec__", None), "_initializing", False)
    if lock is None or is_imported or not lock._is_owned():
        return False
    lock.release()
    return True


def _has_logging() -> bool:
    """Whether logging takes part in forks; its import has then come that far."""
    return hasattr(sys.modules.get("logging"), "LogRecord")


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

    return _poll(closed, _COMPUTING_PATIENCE)


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


def arm() -> None:
    """Have a fork wait for imports before logging takes part in it.

    The hooks before a fork run in reverse order, and logging's takes a lock that every module needs
    for its logger. So ours is registered once more when logging is there; `import keystay` does not
    load it. The second one to run finds everything done.
    """
    global _armed  # noqa: PLW0603
    if not _armed:
        _armed = True
        import logging  # noqa: F401

        _register()


def _register() -> None:
    os.register_at_fork(
        before=_before, after_in_parent=_after_in_parent, after_in_child=_after_in_child
    )


_armed = False
_register()
