"""How far apart the clocks are, when that matters, and what is done about it."""

from __future__ import annotations

import logging
from email.utils import formatdate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystay.http.messages import HttpResponse
from keystay.tokens.server_clock import ServerClock
from tests.support.stepping import ManualClock

WALL = 1_700_000_000.0


@pytest.fixture
def machine() -> ManualClock:
    """This machine's two clocks, as the test wants them."""
    return ManualClock(wall=WALL)


def date(moment: float) -> HttpResponse:
    """An answer by a server with this time."""
    return HttpResponse(200, {"date": formatdate(moment, usegmt=True)}, b"")


def heard(
    machine: ManualClock, offset: float, *, lifetime: int = 240, corrects: bool = True
) -> ServerClock:
    """A clock that has heard from a server that is so many seconds ahead."""
    clock = ServerClock(lifetime=lifetime, corrects=corrects, clock=machine.clock)
    clock.learn(date(machine.wall + offset), is_first_hand=True)
    return clock


@given(
    true_offset=st.floats(-86000, 86000),
    lifetime=st.integers(1, 300),
    latency=st.floats(0, 1),
    later=st.floats(0, 80000),
)
def test_stamps_are_accepted(
    true_offset: float, lifetime: int, latency: float, later: float
) -> None:
    """Up to a day apart, a strict server takes the exp: neither past nor too far ahead."""
    machine = ManualClock(wall=WALL)
    clock = ServerClock(lifetime=lifetime, corrects=True, clock=machine.clock)
    clock.learn(date(machine.wall - latency + true_offset), is_first_hand=True)
    machine.passes(later)
    exp = int(clock.time()) + lifetime
    server = machine.wall + true_offset
    # A lifetime of a few seconds leaves no room for whole seconds and the way; 300 none at all.
    assert exp > server - (0 if lifetime > 10 else 10)
    assert exp <= server + 300 + (0 if lifetime < 298 else 2.5)


@pytest.mark.parametrize("offset", [0, 5, -5, 29, -29])
def test_small_differences_are_left_alone(machine: ManualClock, offset: float) -> None:
    """Assertions live minutes; this machine's clock is as good as the server's."""
    clock = heard(machine, offset)
    assert (0.0, WALL) == (clock.correction, clock.time())
    assert pytest.approx(offset, abs=1) == clock.offset


@pytest.mark.parametrize(("lifetime", "offset"), [(240, 40), (240, -40), (295, -10), (20, 15)])
def test_what_matters_depends_on_the_lifetime(
    machine: ManualClock, lifetime: int, offset: float
) -> None:
    """What would have an assertion refused is made up for."""
    clock = heard(machine, offset, lifetime=lifetime)
    assert pytest.approx(offset, abs=1) == clock.correction


@pytest.mark.parametrize("offset", [90_000, -90_000, 10**9])
def test_more_than_a_day_is_not_corrected(
    machine: ManualClock, caplog: pytest.LogCaptureFixture, offset: float
) -> None:
    """It is told."""
    assert 0.0 == heard(machine, offset).correction
    assert "more than is corrected for" in caplog.text


def test_only_warned(machine: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """With "warn" nothing is shifted."""
    assert 0.0 == heard(machine, 600, corrects=False).correction
    assert 'clock_correction = "on"' in caplog.text


def test_told_once(machine: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """A warning when it begins, a word when it is over, nothing in between."""
    clock = heard(machine, 600)
    with caplog.at_level(logging.INFO, "keystay.tokens"):
        for _ in range(5):
            machine.passes(240)
            clock.learn(date(machine.wall + 600), is_first_hand=True)
        machine.wall += 600  # somebody sets the clock
        for _ in range(3):
            clock.learn(date(machine.wall), is_first_hand=True)
    assert ["WARNING", "INFO"] == [record.levelname for record in caplog.records]


def test_step_of_this_machines_clock(machine: ManualClock) -> None:
    """Seen at once, without another answer; and gone when it is undone."""
    clock = heard(machine, 0)
    machine.wall += 3600
    assert (-3600.0, WALL) == (clock.correction, clock.time())
    machine.wall -= 3600
    assert 0.0 == clock.correction


def test_the_token_endpoints_word_counts(machine: ManualClock) -> None:
    """Discovery's is believed until the token endpoint has answered."""
    clock = ServerClock(lifetime=240, corrects=True, clock=machine.clock)
    assert (None, 0.0) == (clock.offset, clock.correction)
    clock.learn(date(WALL + 600), is_first_hand=False)
    assert 600.0 == clock.offset
    clock.learn(date(WALL + 100), is_first_hand=True)
    clock.learn(date(WALL + 600), is_first_hand=False)
    assert 100.0 == clock.offset


def test_old_news(machine: ManualClock) -> None:
    """After a day without an answer nothing is known any more."""
    clock = heard(machine, 600)
    machine.passes(86_401)
    assert (None, 0.0) == (clock.offset, clock.correction)


def test_no_date(machine: ManualClock) -> None:
    """An answer without a Date changes nothing."""
    clock = heard(machine, 600)
    clock.learn(HttpResponse(200, {}, b""), is_first_hand=True)
    assert 600.0 == clock.offset
