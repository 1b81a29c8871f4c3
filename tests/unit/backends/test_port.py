"""The port: deadlines, and what never shows itself."""

from __future__ import annotations

import time

import pytest

from keystay import algorithms, backends
from keystay.backends import (
    BackendContext,
    BackendKey,
    BackendSignature,
    Deadline,
    GeneratesKeys,
    LeasesKey,
    ListsKeys,
    SignRequest,
)
from keystay.errors import BackendTimeoutError
from tests.unit.fakes import FakeKey, LeasedKey


def test_deadline_passes() -> None:
    """It counts down to 0.0 and then says what took too long."""
    deadline = Deadline.after(0.05)
    assert 0 < deadline.remaining <= 0.05
    deadline.check("Signing")
    time.sleep(0.06)
    assert 0.0 == deadline.remaining
    with pytest.raises(BackendTimeoutError, match=r"Signing did not finish within 0\.05 s"):
        deadline.check("Signing")


@pytest.mark.parametrize("seconds", [0, -1])
def test_deadline_in_the_past(seconds: float) -> None:
    """No time at all is over at once."""
    with pytest.raises(BackendTimeoutError):
        Deadline.after(seconds).check("Signing")


def test_bytes_are_not_shown() -> None:
    """Neither a request nor a signature nor a context shows its content."""
    request = SignRequest(algorithms.get("ES384"), b"the-message", Deadline.after(1))
    signature = BackendSignature(b"the-signature", "raw", "key-1")
    context = BackendContext(settings={"pin_source": "the-pin"})
    shown = f"{request!r} {signature!r} {signature} {context!r}"
    assert [] == [word for word in ("the-message", "the-signature", "the-pin") if word in shown]


def test_digest_of_a_request() -> None:
    """It is the message's, made when asked for; or the one given; or none for EdDSA."""
    deadline = Deadline.after(1)
    es384, eddsa = algorithms.get("ES384"), algorithms.get("EdDSA")
    expected = es384.digest(b"message")
    assert expected == SignRequest(es384, b"message", deadline).digest
    assert b"given" == SignRequest(es384, None, deadline, b"given").digest
    assert None is SignRequest(eddsa, b"message", deadline).digest
    assert None is SignRequest(es384, None, deadline).digest


def test_protocols_tell_capabilities() -> None:
    """What a key or store can do is told by its methods."""
    assert (True, False) == (isinstance(FakeKey(), BackendKey), isinstance(FakeKey(), LeasesKey))
    assert True is isinstance(LeasedKey(), LeasesKey)
    assert (False, False) == (
        isinstance(FakeKey(), GeneratesKeys),
        isinstance(FakeKey(), ListsKeys),
    )


def test_everything_a_plugin_needs_is_here() -> None:
    """Every name of `keystay.backends` can be imported from it."""
    assert [] == [name for name in backends.__all__ if not hasattr(backends, name)]
