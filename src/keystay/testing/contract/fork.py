"""Signs in a forked child, and tells the parent over a pipe what came of it."""

from __future__ import annotations

import os
import pickle
import select
import signal
import time
import warnings
from typing import TYPE_CHECKING, NamedTuple

import pytest

from keystay.errors import KeystayError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Outcome", "in_child"]


class Outcome(NamedTuple):
    """What the child did.

    Attributes:
        signature: What it signed, or None.
        error: The type and message of what it raised, or None.
        is_keystay_error: Whether that was one of keystay's.
    """

    signature: bytes | None
    error: str | None = None
    is_keystay_error: bool = False


def in_child(
    sign: Callable[[], bytes], *, seconds: float, meanwhile: Callable[[], object]
) -> Outcome:
    """Sign in a forked child while the parent does something else.

    Args:
        sign: What the child does.
        seconds: How long the child has; then it is killed and the test fails.
        meanwhile: What the parent does.
    """
    if not hasattr(os, "fork"):  # pragma: no cover
        pytest.skip("this platform has no fork")
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        # Python 3.12 and later warn of a fork beside threads, which is what is tested here.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:  # pragma: no cover
        os.close(reading)
        _child(sign, writing)
    os.close(writing)
    try:
        meanwhile()
        return _receive(reading, time.monotonic() + seconds)
    finally:
        os.close(reading)
        os.kill(pid, signal.SIGKILL)  # it has ended, or it hangs
        os.waitpid(pid, 0)


def _child(sign: Callable[[], bytes], writing: int) -> None:  # pragma: no cover
    try:
        try:
            outcome = Outcome(sign())
        except BaseException as error:  # noqa: BLE001
            outcome = Outcome(
                None, f"{type(error).__name__}: {error}", isinstance(error, KeystayError)
            )
        os.write(writing, pickle.dumps(tuple(outcome)))
    finally:
        os._exit(0)


def _receive(reading: int, until: float) -> Outcome:
    received = b""
    while True:
        ready, _, _ = select.select([reading], [], [], max(0.0, until - time.monotonic()))
        if not ready:
            pytest.fail("the child neither signed nor failed in time after the fork")
        chunk = os.read(reading, 1 << 16)
        if not chunk:
            break
        received += chunk
    if not received:
        pytest.fail("the child died after the fork")
    return Outcome(*pickle.loads(received))  # noqa: S301  (from our own child)
