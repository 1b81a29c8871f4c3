"""When a token is renewed, by whom, and what the others get: the flow by itself, without I/O."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystay.concurrency import Deadline, clock
from keystay.errors import (
    ConfigurationError,
    KeystayError,
    NetworkError,
    ObserverError,
    PolicyError,
    SignerClosedError,
    TokenServerError,
)
from keystay.token_stores.access_token import AccessToken
from keystay.tokens.actions import Flow, Pause, Wait
from keystay.tokens.renewal import Renewal

DEADLINE = Deadline.after(3600)


class Clock:
    """A clock that goes as the test wants."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = clock.now()
        for place in ("token_stores.access_token", "tokens.attempt", "tokens.renewal"):
            monkeypatch.setattr(f"keystay.{place}.now", lambda: self.at)
        monkeypatch.setattr("random.uniform", lambda low, high: high)

    def token(self, lifetime: float = 300.0) -> AccessToken:
        """A token that is asked for now."""
        return AccessToken(
            "x", expires_in=lifetime, scope="s", requested_scope="s", requested_at=self.at
        )


@pytest.fixture
def hand(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The hand on the clock."""
    return Clock(monkeypatch)


def asks(patience: list[bool] | None = None) -> Any:
    """A request that is answered by whoever drives the flow."""

    def ask(deadline: Deadline, patient: bool) -> Flow[AccessToken]:
        if patience is not None:
            patience.append(patient)
        return (yield Pause(0.0))  # type: ignore[no-any-return]

    return ask


def result(flow: Flow[AccessToken], answer: object = None) -> AccessToken:
    """What a flow returns when it is sent an answer."""
    with pytest.raises(StopIteration) as finished:
        flow.send(answer)
    return finished.value.value  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("lifetime", "window"),
    [
        pytest.param(1, 0.2, id="a-second"),
        pytest.param(2, 0.4, id="seconds"),
        pytest.param(300, 60, id="five-minutes"),
        pytest.param(100, 20, id="last-fifth"),
        pytest.param(3600, 60, id="at-most-a-minute"),
    ],
)
def test_window(hand: Clock, lifetime: float, window: float) -> None:
    """Renewal begins in the last fifth of the life, at most a minute before its end."""
    kept = Renewal()
    token = kept.adopt(hand.token(lifetime))
    assert pytest.approx(token.ends_at - window) == kept.look_at


@given(st.floats(0.001, 10**8), st.floats(0.001, 0.999))
def test_window_is_never_the_whole(lifetime: float, share: float) -> None:
    """Some of every token's life is left in which nobody renews it."""
    at = clock.now()
    token = AccessToken("x", expires_in=lifetime, scope="s", requested_scope="s", requested_at=at)
    kept = Renewal(share)
    kept.adopt(token)
    assert at <= kept.look_at <= token.ends_at
    assert token.ends_at - kept.look_at <= 60.001


def test_first_in_the_window_renews(hand: Clock) -> None:
    """With one try; the others get the old token, and afterwards all the new one."""
    kept = Renewal()
    patience: list[bool] = []
    old = kept.adopt(hand.token())
    hand.at += 250
    first = kept.obtain(asks(patience), DEADLINE)
    assert isinstance(next(first), Pause)
    for _ in range(3):
        assert old is result(kept.obtain(asks(patience), DEADLINE))
        assert old is kept.good()
    new = hand.token()
    assert new is result(first, new)
    assert new is kept.good()
    assert [False] == patience


def test_nothing_left_makes_all_wait_for_one(hand: Clock) -> None:
    """A patient request, and its token for everybody."""
    kept = Renewal()
    patience: list[bool] = []
    kept.adopt(hand.token())
    hand.at += 301
    first = kept.obtain(asks(patience), DEADLINE)
    next(first)
    waiting = [kept.obtain(asks(patience), DEADLINE) for _ in range(3)]
    assert [Wait] * 3 == [type(next(flow)) for flow in waiting]
    new = hand.token()
    assert new is result(first, new)
    assert [new] * 3 == [result(flow, True) for flow in waiting]
    assert [True] == patience


def test_failure_beside_a_good_token(hand: Clock) -> None:
    """A token that was kept by another way while the attempt was under way is everybody's."""
    kept = Renewal()
    first, second = (kept.obtain(asks(), DEADLINE) for _ in range(2))
    next(first)
    next(second)
    good = kept.adopt(hand.token())
    with pytest.raises(StopIteration) as finished:
        first.throw(NetworkError("down"))
    assert good is finished.value.value
    assert good is result(second, True)


def test_old_token_that_ends_while_it_is_renewed(hand: Clock) -> None:
    """Until its end it is handed out; from then on callers wait for the same attempt."""
    kept = Renewal()
    old = kept.adopt(hand.token())
    hand.at += 299
    first = kept.obtain(asks(), DEADLINE)
    next(first)
    assert old is result(kept.obtain(asks(), DEADLINE))
    hand.at += 1
    assert isinstance(next(kept.obtain(asks(), DEADLINE)), Wait)
    new = hand.token()
    assert new is result(first, new)


def test_failures_grow_rarer(hand: Clock) -> None:
    """1, 2, 4 … 60 s apart, and from the beginning after a success."""
    kept = Renewal(0.999)
    token = kept.adopt(hand.token(100_000))
    hand.at = token.ends_at - 59
    pauses = []
    for _ in range(5):
        flow = kept.obtain(asks(), DEADLINE)
        next(flow)
        with pytest.raises(StopIteration):
            flow.throw(NetworkError("down"))
        pauses.append(kept.look_at - hand.at)
        hand.at = kept.look_at
    assert pytest.approx([1, 2, 4, 8, 16]) == pauses
    flow = kept.obtain(asks(), DEADLINE)
    next(flow)
    result(flow, hand.token(100))
    hand.at += 90
    flow = kept.obtain(asks(), DEADLINE)
    next(flow)
    with pytest.raises(StopIteration):
        flow.throw(NetworkError("down"))
    assert pytest.approx(1) == kept.look_at - hand.at


@pytest.mark.parametrize(("asked", "pause"), [(5.0, 5.0), (100_000.0, 600.0), (0.0, 1.0)])
def test_retry_after_is_obeyed_across_calls(hand: Clock, asked: float, pause: float) -> None:
    """By the next attempt of whoever; ten minutes at most."""
    kept = Renewal()
    flow = kept.obtain(asks(), DEADLINE)
    next(flow)
    with pytest.raises(TokenServerError):
        flow.throw(TokenServerError("busy", status=503, retry_after=asked))
    waited = next(kept.obtain(asks(), DEADLINE))
    assert isinstance(waited, Pause)
    assert pytest.approx(pause) == waited.seconds


@pytest.mark.parametrize(
    ("error", "is_paused"),
    [
        (ConfigurationError("closed"), False),
        (SignerClosedError("closed"), False),
        (ObserverError("no disk"), True),
        (PolicyError("not hardware"), True),
    ],
)
def test_local_errors_are_not_paused_after(
    hand: Clock, error: KeystayError, is_paused: bool
) -> None:
    """Unless key and server have been troubled before them, which is spared."""
    kept = Renewal()
    flow = kept.obtain(asks(), DEADLINE)
    next(flow)
    with pytest.raises(type(error)):
        flow.throw(error)
    waited = next(kept.obtain(asks(), DEADLINE))
    assert isinstance(waited, Pause)
    assert is_paused is (waited.seconds > 0)


def test_pause_that_is_too_long_is_not_begun(hand: Clock) -> None:
    """The last error once more, with the wait; a copy, for its traceback is its caller's."""
    kept = Renewal()
    flow = kept.obtain(asks(), DEADLINE)
    next(flow)
    with pytest.raises(TokenServerError) as first:
        flow.throw(TokenServerError("busy", status=503, retry_after=90.0, hint="Wait."))
    with pytest.raises(TokenServerError, match="asked again in 90 s") as second:
        next(kept.obtain(asks(), Deadline.after(10)))
    assert first.value is not second.value
    assert "asked again" not in str(first.value)


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_who_renews_gives_up(hand: Clock, end: type[BaseException]) -> None:
    """One who waited takes over, with a request of his own."""
    kept = Renewal()
    first, second, third = (kept.obtain(asks(), DEADLINE) for _ in range(3))
    next(first)
    next(second)
    next(third)
    with pytest.raises(end):
        first.throw(end())
    assert isinstance(second.send(True), Pause)
    assert isinstance(third.send(True), Wait)
    new = hand.token()
    assert [new, new] == [result(second, new), result(third, True)]


def test_flow_that_is_forgotten(hand: Clock) -> None:
    """A coroutine that is dropped closes its flow, and that hands over too."""
    kept = Renewal()
    first, second = (kept.obtain(asks(), DEADLINE) for _ in range(2))
    next(first)
    next(second)
    del first
    gc.collect()
    assert isinstance(second.send(True), Pause)


def test_attempt_without_a_maker(hand: Clock) -> None:
    """An attempt long past its deadline is nobody's: the next caller makes another."""
    kept = Renewal()
    flow = kept.obtain(asks(), Deadline.after(10))
    next(flow)
    assert isinstance(next(kept.obtain(asks(), DEADLINE)), Wait)
    hand.at += 13
    assert isinstance(next(kept.obtain(asks(), DEADLINE)), Pause)


def test_waiting_has_an_end(hand: Clock) -> None:
    """One's own deadline; or the attempt's, after which one who still has time takes over."""
    kept = Renewal()
    stuck = kept.obtain(asks(), Deadline.after(10))
    next(stuck)
    hasty, patient = kept.obtain(asks(), Deadline.after(1)), kept.obtain(asks(), DEADLINE)
    waits = [next(hasty), next(patient)]
    assert [1, 10] == [round(w.seconds - 0.5, 1) for w in waits if isinstance(w, Wait)]
    hand.at += 10.6
    assert isinstance(patient.send(False), Pause)


def test_dropping_by_generation(hand: Clock) -> None:
    """Only the token that was rejected."""
    kept = Renewal()
    first, second = kept.adopt(hand.token()), kept.adopt(hand.token())
    kept.drop(first)
    assert second is kept.good()
    kept.drop(second)
    assert (None, "") == (kept.good(), kept.header)


def test_is_collected() -> None:
    """Nothing global keeps it."""
    kept = Renewal()
    gone = weakref.ref(kept)
    del kept
    gc.collect()
    assert gone() is None


@given(st.lists(st.sampled_from(["ask", "grant", "fail", "late", "drop"]), max_size=40))
def test_no_expired_token_whatever_happens(events: list[str]) -> None:
    """Any order of askers, grants, failures, time and rejections: what is returned is good."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        hand = Clock(monkeypatch)
        kept = Renewal()
        making: list[Any] = []
        for event in events:
            if event == "late":
                hand.at += 70
            elif event == "drop":
                kept.drop()
            elif event == "ask":
                flow = kept.obtain(asks(), DEADLINE)
                if isinstance(step(flow, partial(next, flow)), Pause):
                    making.append(flow)
            elif making:
                flow = making.pop(0)
                if event == "grant":
                    step(flow, partial(flow.send, hand.token(100)))
                else:
                    step(flow, partial(flow.throw, NetworkError("down")))


def step(flow: Flow[AccessToken], call: Callable[[], object]) -> object:
    """Take one step; what the flow returns has not expired."""
    try:
        return call()
    except StopIteration as finished:
        token = finished.value
    except NetworkError:
        return None
    assert not token.expired
    return token
