"""The access token: what it tells, what it hides, and when it ends."""

from __future__ import annotations

import copy
import pickle
import time
from typing import Any

import pytest

import keystay
from keystay.concurrency.clock import SYSTEM_CLOCK
from tests.support.secrets_watch import WATCH
from tests.support.stepping import ManualClock

VALUE = "a-secret-access-token-value"


def token(**changes: Any) -> keystay.AccessToken:
    """A token of five minutes."""
    WATCH.add("the access token", VALUE)
    settings: dict[str, Any] = {
        "expires_in": 300.0,
        "scope": "system/Patient.rs",
        "requested_scope": "system/Patient.rs",
        "requested_at": SYSTEM_CLOCK.now(),
        **changes,
    }
    return keystay.AccessToken(VALUE, **settings)


def test_shows_itself_only_when_asked() -> None:
    """repr, str and format leave the value out; .value and .authorization are the value."""
    made = token()
    WATCH.check(f"{made!r} {made!s} {made} {[made]} {vars(type(made))}", "a repr")
    assert VALUE == made.value
    assert f"Bearer {VALUE}" == made.authorization


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_not_pickled(protocol: int) -> None:
    """Pickling is refused with a way out, by every protocol, and so is copying."""
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(token(), protocol)
    with pytest.raises(TypeError, match="not pickled"):
        copy.copy(token())


def test_expires_by_the_monotonic_clock() -> None:
    """A stepped wall clock neither ends nor prolongs a token."""
    clock = ManualClock()
    made = clock.token(300)
    seen = []
    for later in (0.0, 299.9, 0.1, 100.0):
        clock.at += later
        clock.wall = 0.0
        seen.append((made.expired, round(made.expires_in, 1)))
    assert [(False, 300.0), (False, 0.1), (True, 0.0), (True, 0.0)] == seen


def test_life_counts_from_the_request() -> None:
    """Time spent on the way is not added to the token's life; `expires_at` is Unix time."""
    made = token(expires_in=300, requested_at=SYSTEM_CLOCK.now() - 100)
    assert pytest.approx(200, abs=1) == made.expires_in
    assert pytest.approx(time.time() + 200, abs=1) == made.expires_at


def test_scopes_not_granted() -> None:
    """What was asked for and not granted is there to be compared."""
    made = token(scope="a c", requested_scope="a b c")
    assert ("b",) == made.missing_scopes
    assert "scope='a c'" in repr(made)
