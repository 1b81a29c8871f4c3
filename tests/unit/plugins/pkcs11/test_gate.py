"""The gate lets calls in together, and one alone."""

from __future__ import annotations

import threading
import time

import pytest

from keystay.backends import Deadline
from keystay.errors import BackendTimeoutError
from keystay_pkcs11.gate import Gate


def test_together() -> None:
    """Calls do not wait for each other."""
    gate = Gate()
    for _ in range(3):
        gate.enter(Deadline.after(0))


def test_alone_waits_for_calls() -> None:
    """Whoever wants to be alone waits until the others are out."""
    gate = Gate()
    gate.enter(Deadline.after(1))
    threading.Timer(0.1, gate.leave).start()
    started = time.monotonic()

    with gate.alone(5):
        assert time.monotonic() - started >= 0.09


def test_alone_gives_up() -> None:
    """A call that hangs is reported, and the others go on."""
    gate = Gate()
    gate.enter(Deadline.after(1))

    with (
        pytest.raises(BackendTimeoutError, match="1 calls into it did not return"),
        gate.alone(0.05),
    ):
        pass

    gate.enter(Deadline.after(0))


def test_calls_wait_for_the_one_alone() -> None:
    """While one is alone, new calls wait, as long as their deadline allows."""
    gate = Gate()
    assert gate.shut(1)
    with pytest.raises(BackendTimeoutError, match="did not finish restarting"):
        gate.enter(Deadline.after(0.05))
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
