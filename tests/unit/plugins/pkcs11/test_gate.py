"""The gate lets calls in together, and one alone."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack

import pytest

from keystay.backends import Deadline
from keystay.errors import BackendTimeoutError
from keystay_pkcs11.gate import Gate


def test_together() -> None:
    """Calls do not wait for each other."""
    gate = Gate()
    with ExitStack() as calls:
        for _ in range(3):
            calls.enter_context(gate.call(Deadline.after(0)))


def test_alone_waits_for_calls() -> None:
    """Whoever wants to be alone waits until the others are out."""
    gate = Gate()
    call = inside(gate)
    started = time.monotonic()
    threading.Timer(0.1, call.close).start()

    with gate.alone(5) as indeed:
        assert indeed
        assert time.monotonic() - started >= 0.09


def test_alone_gives_up() -> None:
    """A call that hangs is reported, and the others go on."""
    gate = Gate()
    with (
        inside(gate),
        pytest.raises(BackendTimeoutError, match="1 calls into it did not return"),
        gate.alone(0.05),
    ):
        pass

    with gate.call(Deadline.after(0)):
        pass


def test_alone_by_force() -> None:
    """A call that hangs may be left behind; coming out later, it is not counted."""
    gate = Gate()
    left_behind = inside(gate)
    with gate.alone(0.05, force=True) as indeed:
        assert not indeed

    with inside(gate):
        left_behind.close()
        assert not gate.shut(0.05)
    assert gate.shut(0.05)


def inside(gate: Gate) -> ExitStack:
    """A call that is inside until it is closed."""
    call = ExitStack()
    call.enter_context(gate.call(Deadline.after(1)))
    return call


def test_calls_wait_for_the_one_alone() -> None:
    """While one is alone, new calls wait, as long as their deadline allows."""
    gate = Gate()
    assert gate.shut(1)
    with (
        pytest.raises(BackendTimeoutError, match="did not finish restarting"),
        gate.call(Deadline.after(0.05)),
    ):
        pass
    threading.Timer(0.05, gate.open).start()

    with gate.call(Deadline.after(5)):
        pass


def test_one_alone_at_a_time() -> None:
    """Two do not think themselves alone."""
    gate = Gate()
    assert gate.shut(1)
    assert not gate.shut(0.05)
    gate.open()
    assert gate.shut(0.05)
