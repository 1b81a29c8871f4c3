"""Deadlines go by the clock they were made with; pauses grow, and leave half to chance."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystay.concurrency.clock import SYSTEM_CLOCK, Clock, Deadline, backoff
from keystay.errors import BackendTimeoutError


def test_deadline_by_an_injected_clock() -> None:
    """It passes when that clock says so, and is never negative."""
    moment = [100.0]
    deadline = Deadline.after(10, Clock(lambda: moment[0]))
    assert (10.0, False) == (deadline.remaining, deadline.expired)
    moment[0] = 109.0
    deadline.check("Signing")
    assert 1.0 == deadline.remaining
    moment[0] = 111.0
    assert (0.0, True) == (deadline.remaining, deadline.expired)
    with pytest.raises(BackendTimeoutError, match="Signing did not finish within 10 s"):
        deadline.check("Signing")
    assert 4.0 == deadline.extended(5).remaining


def test_system_clock_is_not_the_wall_clock() -> None:
    """Nobody sets what lifetimes are measured by."""
    assert SYSTEM_CLOCK.now() <= SYSTEM_CLOCK.now()
    assert SYSTEM_CLOCK.time() > 1_700_000_000


@given(st.integers(1, 10_000), st.floats(0.01, 10), st.floats(0.01, 100))
def test_backoff_is_bounded(failures: int, first: float, longest: float) -> None:
    """Between half of the doubled pause and all of it, and never longer than the longest."""
    whole = min(first * 2.0 ** min(failures - 1, 30), longest)
    assert whole / 2 <= backoff(failures, first=first, longest=longest) <= whole


@given(st.floats(0, 1000))
def test_backoff_obeys_the_server(retry_after: float) -> None:
    """Never shorter than asked, and not the same for all."""
    pause = backoff(1, first=0.1, longest=1, retry_after=retry_after)
    assert retry_after <= pause <= max(0.1, retry_after + 0.25)
