"""A gate lets calls in together, and one alone; a lock is waited for until a deadline."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest

from keystay.concurrency.clock import Deadline
from keystay.concurrency.locks import DeadlineLock, ReadWriteGate
from keystay.errors import BackendTimeoutError


class BusyError(Exception):
    """Calls are inside."""


class ClosedError(Exception):
    """Somebody is alone inside."""


def new_gate() -> ReadWriteGate:
    """A gate with errors of its own."""
    return ReadWriteGate(
        busy=BusyError,
        closed=lambda deadline: ClosedError(deadline.seconds),
    )


def test_together() -> None:
    """Calls do not wait for each other."""
    gate = new_gate()
    with ExitStack() as calls:
        for _ in range(3):
            calls.enter_context(gate.shared(Deadline.after(0)))


def test_alone_waits_for_calls() -> None:
    """Whoever wants to be alone waits until the others are out."""
    gate = new_gate()
    call = inside(gate)
    started = time.monotonic()
    threading.Timer(0.1, call.close).start()

    with gate.exclusive(5) as indeed:
        assert indeed
        assert time.monotonic() - started >= 0.09


def test_alone_gives_up() -> None:
    """A call that hangs is reported, and the others go on."""
    gate = new_gate()
    with (
        inside(gate),
        pytest.raises(BusyError, match=r"\(1, 0\.05\)"),
        gate.exclusive(0.05),
    ):
        pass

    with gate.shared(Deadline.after(0)):
        pass


def test_alone_by_force() -> None:
    """A call that hangs may be left behind; coming out later, it is not counted."""
    gate = new_gate()
    left_behind = inside(gate)
    with gate.exclusive(0.05, force=True) as indeed:
        assert not indeed

    with inside(gate):
        left_behind.close()
        assert not gate.close(0.05)
    assert gate.close(0.05)


def inside(gate: ReadWriteGate) -> ExitStack:
    """A call that is inside until it is closed."""
    call = ExitStack()
    call.enter_context(gate.shared(Deadline.after(1)))
    return call


def test_calls_wait_for_the_one_alone() -> None:
    """While one is alone, new calls wait, as long as their deadline allows."""
    gate = new_gate()
    assert gate.close(1)
    with (
        pytest.raises(ClosedError, match=r"0\.05"),
        gate.shared(Deadline.after(0.05)),
    ):
        pass
    threading.Timer(0.05, gate.open).start()

    with gate.shared(Deadline.after(5)):
        pass


def test_one_alone_at_a_time() -> None:
    """Two do not think themselves alone."""
    gate = new_gate()
    assert gate.close(1)
    assert not gate.close(0.05)
    gate.open()
    assert gate.close(0.05)


def test_lock_is_waited_for_until_the_deadline() -> None:
    """The error says what the other thread is doing; once it is over the lock is free."""
    lock, held, release = DeadlineLock("typing a PIN"), threading.Event(), threading.Event()

    def hold() -> None:
        with lock.held(Deadline.after(5)):
            held.set()
            release.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    held.wait(10)
    with (
        pytest.raises(BackendTimeoutError, match=r"still typing a PIN after 0\.01 s"),
        lock.held(Deadline.after(0.01)),
    ):
        pass
    release.set()
    thread.join()
    with lock.held(Deadline.after(5)):
        pass


def test_lock_in_a_signal_handler() -> None:
    """A re-entrant one is taken again by the thread that holds it; another kind is not."""
    lock = DeadlineLock("opening a key", reentrant=True)
    with lock.held(Deadline.after(5)), lock.held(Deadline.after(0)):
        pass
    lock = DeadlineLock("opening a key")
    with (
        lock.held(Deadline.after(5)),
        pytest.raises(BackendTimeoutError),
        lock.held(Deadline.after(0.01)),
    ):
        pass
