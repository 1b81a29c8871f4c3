"""When a token is renewed, by whom, and what the others get: stepped, with a clock set by hand."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystay.errors import (
    ConfigurationError,
    KeystayError,
    NetworkError,
    NetworkTimeoutError,
    ObserverError,
    PolicyError,
    SignerClosedError,
    TokenServerError,
)
from keystay.observers.dispatch import NOBODY
from keystay.tokens.cache import TokenCache
from keystay.tokens.events import TokenEvents
from tests.support.stepping import Call, ManualClock, Step, SteppedIO

if TYPE_CHECKING:
    from keystay.http.io import IO
    from keystay.token_stores.access_token import AccessToken


class Cache:
    """A cache whose requests the test answers.

    Attributes:
        patience: For each request, whether it might have tried again.
    """

    def __init__(self, clock: ManualClock, window: float = 0.2) -> None:
        self.clock, self.patience = clock, list[bool]()
        events = TokenEvents("client", "https://fhir.example.org", NOBODY, clock.clock)
        self.kept = TokenCache(self._ask, events, window, clock=clock.clock)

    def get(self, seconds: float = 3600.0, *, blocks: bool = False) -> Call[AccessToken]:
        """A caller: a task, or this thread."""
        return Call(self.kept.get(SteppedIO(self.clock.deadline(seconds), blocks=blocks)))

    async def _ask(self, io: IO, may_retry: Callable[[], bool]) -> AccessToken:
        self.patience.append(may_retry())
        return await Step("ask")  # type: ignore[no-any-return]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    """A clock set by hand; nothing is left to chance."""
    monkeypatch.setattr("random.uniform", lambda low, high: high)
    return ManualClock()


@pytest.fixture
def cache(clock: ManualClock) -> Cache:
    """A cache by that clock."""
    return Cache(clock)


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
def test_window(clock: ManualClock, cache: Cache, lifetime: float, window: float) -> None:
    """Renewal begins in the last fifth of the life, at most a minute before its end."""
    token = cache.kept.replace(clock.token(lifetime))
    assert pytest.approx(token.ends_at - window) == cache.kept.refresh_after


@given(st.floats(0.001, 10**8), st.floats(0.001, 0.999))
def test_window_is_never_the_whole(lifetime: float, share: float) -> None:
    """Some of every token's life is left in which nobody renews it."""
    clock = ManualClock()
    kept = Cache(clock, share).kept
    token = kept.replace(clock.token(lifetime))
    assert clock.at <= kept.refresh_after <= token.ends_at
    assert token.ends_at - kept.refresh_after <= 60.001


def test_first_in_the_window_renews(clock: ManualClock, cache: Cache) -> None:
    """With one try; the others get the old token, and afterwards all the new one."""
    old = cache.kept.replace(clock.token())
    clock.passes(250)
    first = cache.get()
    assert "ask" == first.kind
    for _ in range(3):
        assert old is cache.get().result
        assert old is cache.kept.fresh()
    new = clock.token()
    assert new is first.answer(new)
    assert new is cache.kept.fresh()
    assert [False] == cache.patience


def test_none_left_makes_all_wait_for_one(clock: ManualClock, cache: Cache) -> None:
    """A patient request, and its token for everybody."""
    cache.kept.replace(clock.token())
    clock.passes(301)
    first, *waiting = (cache.get() for _ in range(4))
    assert ["ask", "wait", "wait", "wait"] == [first.kind, *(call.kind for call in waiting)]
    new = clock.token()
    assert new is first.answer(new)
    assert [new] * 3 == [call.answer(True) for call in waiting]
    assert [True] == cache.patience


def test_patience_grows_when_the_old_token_ends(clock: ManualClock) -> None:
    """While the old token is good one try is enough; once it has ended more are made."""
    patient: list[Callable[[], bool]] = []

    async def ask(io: IO, may_retry: Callable[[], bool]) -> AccessToken:
        patient.append(may_retry)
        return await Step("ask")  # type: ignore[no-any-return]

    events = TokenEvents("client", "https://fhir.example.org", NOBODY, clock.clock)
    kept = TokenCache(ask, events, 0.2, clock=clock.clock)
    kept.replace(clock.token())
    clock.passes(299)
    Call(kept.get(SteppedIO(clock.deadline())))
    seen = [patient[0]()]
    clock.passes(1)
    assert [False, True] == [*seen, patient[0]()]


def test_failure_beside_a_good_token(clock: ManualClock, cache: Cache) -> None:
    """A token that was kept by another way while the renewal was under way is everybody's."""
    first, second = cache.get(), cache.get()
    good = cache.kept.replace(clock.token())
    assert good is first.fail(NetworkError("down"))
    assert good is second.answer(True)


def test_old_token_that_ends_while_it_is_renewed(clock: ManualClock, cache: Cache) -> None:
    """Until its end it is handed out; from then on callers wait for the same renewal."""
    old = cache.kept.replace(clock.token())
    clock.passes(299)
    first = cache.get()
    assert old is cache.get().result
    clock.passes(1)
    assert "wait" == cache.get().kind
    new = clock.token()
    assert new is first.answer(new)


def test_failures_grow_rarer(clock: ManualClock) -> None:
    """1, 2, 4 … 60 s apart, and from the beginning after a success."""
    cache = Cache(clock, 0.999)
    token = cache.kept.replace(clock.token(100_000))
    clock.at = token.ends_at - 59
    pauses = []
    for _ in range(5):
        cache.get().fail(NetworkError("down"))
        pauses.append(cache.kept.refresh_after - clock.at)
        clock.at = cache.kept.refresh_after
    assert pytest.approx([1, 2, 4, 8, 16]) == pauses
    cache.get().answer(clock.token(100))
    clock.passes(90)
    cache.get().fail(NetworkError("down"))
    assert pytest.approx(1) == cache.kept.refresh_after - clock.at


@pytest.mark.parametrize(("asked", "pause"), [(5.0, 5.25), (100_000.0, 600.25), (0.0, 1.0)])
def test_retry_after_is_obeyed_across_calls(cache: Cache, asked: float, pause: float) -> None:
    """By the next renewal, whoever makes it; ten minutes at most."""
    first = cache.get()
    first.fail(TokenServerError("busy", status=503, retry_after=asked))
    assert isinstance(first.error, TokenServerError)
    second = cache.get()
    assert "sleep" == second.kind
    assert second.step
    assert pytest.approx(pause) == second.step.seconds


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
    cache: Cache, error: KeystayError, is_paused: bool
) -> None:
    """Unless key and server have been troubled before them, which is spared."""
    first = cache.get()
    first.fail(error)
    assert error is first.error
    assert ("sleep" if is_paused else "ask") == cache.get().kind


def test_pause_that_is_too_long_is_not_begun(cache: Cache) -> None:
    """The last error once more, with the wait; a copy, for its traceback is its caller's."""
    first = cache.get()
    first.fail(TokenServerError("busy", status=503, retry_after=90.0, hint="Wait."))
    second = cache.get(seconds=10)
    assert isinstance(second.error, TokenServerError)
    assert "asked again in 90 s" in str(second.error)
    assert first.error is not second.error
    assert "asked again" not in str(first.error)


def test_each_waiter_raises_an_error_of_its_own(cache: Cache) -> None:
    """One object raised in two threads would have the traceback of both."""
    first, *waiting = (cache.get() for _ in range(3))
    first.fail(NetworkError("down"))
    for call in waiting:
        call.answer(True)
    assert 3 == len({id(call.error) for call in (first, *waiting)})
    assert ["down [network-failed]"] * 3 == [str(call.error) for call in (first, *waiting)]


@pytest.mark.parametrize("end", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_who_renews_gives_up(clock: ManualClock, cache: Cache, end: type[BaseException]) -> None:
    """One who waited takes over, with a request of his own."""
    first, second, third = (cache.get() for _ in range(3))
    first.fail(end())
    assert isinstance(first.error, end)
    second.answer(True)
    third.answer(True)
    assert ("ask", "wait") == (second.kind, third.kind)
    new = clock.token()
    assert [new, new] == [second.answer(new), third.answer(True)]


def test_cancelled_renewal_hands_over(cache: Cache) -> None:
    """A coroutine that is closed, or dropped, lets one who waited take over."""
    first, second = cache.get(), cache.get()
    first.close()
    second.answer(True)
    assert "ask" == second.kind
    third = cache.get()
    del second
    gc.collect()
    third.answer(True)
    assert "ask" == third.kind


def test_renewal_without_a_maker(clock: ManualClock, cache: Cache) -> None:
    """A renewal long past its deadline is nobody's: the next caller makes another."""
    stuck = cache.get(seconds=10)
    assert ("ask", "wait") == (stuck.kind, cache.get().kind)
    clock.passes(13)
    assert "ask" == cache.get().kind


def test_late_end_of_a_renewal_that_was_replaced(clock: ManualClock, cache: Cache) -> None:
    """It wakes its own waiters, and ends no other renewal."""
    stuck, waiter = cache.get(seconds=10), cache.get()
    clock.passes(13)
    second = cache.get()
    stuck.fail(NetworkError("down"))
    assert cache.kept.is_renewing
    waiter.answer(True)
    assert isinstance(waiter.error, NetworkError)
    new = clock.token()
    assert new is second.answer(new)


def test_waiting_has_an_end(clock: ManualClock, cache: Cache) -> None:
    """One's own deadline; or the renewal's, after which one who still has time takes over."""
    stuck, hasty, patient = cache.get(seconds=10), cache.get(seconds=1), cache.get()
    waits = [call.step.seconds for call in (hasty, patient) if call.step]
    assert "ask" == stuck.kind
    assert pytest.approx([1.5, 10.5]) == waits
    clock.passes(1.5)
    hasty.answer(False)
    assert isinstance(hasty.error, NetworkTimeoutError)
    clock.passes(9.1)
    patient.answer(False)
    assert "ask" == patient.kind


def test_thread_that_interrupted_its_own_renewal(clock: ManualClock, cache: Cache) -> None:
    """It asks for itself, whenever that was: the renewal goes on only when it has returned."""
    interrupted = cache.get(seconds=10, blocks=True)
    handler = cache.get(blocks=True)
    assert ("ask", "ask") == (interrupted.kind, handler.kind)
    clock.passes(13)
    assert "ask" == cache.get(blocks=True).kind
    new = clock.token()
    assert new is handler.answer(new)
    assert new is cache.kept.fresh()
    assert cache.kept.is_renewing
    later = clock.token()
    assert later is interrupted.answer(later)
    assert not cache.kept.is_renewing


def test_discarding_by_generation(clock: ManualClock, cache: Cache) -> None:
    """Only the token that was rejected."""
    first, second = cache.kept.replace(clock.token()), cache.kept.replace(clock.token())
    cache.kept.discard(first)
    assert second is cache.kept.fresh()
    cache.kept.discard(second)
    assert (None, "") == (cache.kept.fresh(), cache.kept.header)


def test_is_collected(clock: ManualClock) -> None:
    """Nothing global keeps it."""
    gone = weakref.ref(Cache(clock).kept)
    gc.collect()
    assert gone() is None


@pytest.fixture(autouse=True)
def nothing_dropped_in_the_middle() -> Iterator[None]:
    """Coroutines that a test leaves behind are closed while its clock is still there."""
    yield
    gc.collect()
