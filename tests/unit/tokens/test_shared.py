"""A token that processes share: stepped interleavings of several caches over one store."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from keystay.concurrency.clock import Deadline
from keystay.errors import BackendTimeoutError, NetworkError, NetworkTimeoutError
from keystay.observers.dispatch import NOBODY
from keystay.token_stores.port import TokenOwner
from keystay.tokens.cache import TokenCache
from keystay.tokens.events import TokenEvents
from keystay.tokens.shared import SharedToken
from tests.support.stepping import Call, ManualClock, Step, SteppedIO

if TYPE_CHECKING:
    from keystay.http.io import IO
    from keystay.token_stores.access_token import AccessToken

SECONDS = 30.0  # that a caller has
OWNER = TokenOwner(client_id="c", fhir_base_url="https://f", token_endpoint="", scope="s")


class Claim:
    """The right to renew, of a store in memory."""

    def __init__(self, store: Store, overdue_at: float) -> None:
        self.store, self.overdue_at = store, overdue_at

    def release(self) -> None:
        if self.store.claim_held is self:
            self.store.claim_held = None


class Store:
    """A store in memory that obeys the port."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.token: AccessToken | None = None
        self.claim_held: Claim | None = None

    def load(self, owner: TokenOwner) -> AccessToken | None:
        return None if self.token is None or self.token.expired else self.token

    def save(self, owner: TokenOwner, token: AccessToken) -> None:
        kept = self.load(owner)
        if kept is None or kept.ends_at - kept.lifetime <= token.ends_at - token.lifetime:
            self.token = token

    def claim(self, owner: TokenOwner, seconds: float) -> Claim | None:
        held = self.claim_held
        if held is not None and self.clock.at < held.overdue_at:
            return None
        self.claim_held = Claim(self, self.clock.at + seconds)
        return self.claim_held

    def discard(self, owner: TokenOwner, token: AccessToken) -> None:
        if self.token is token:
            self.token = None


class Retry:
    """Asks a server whose answers the test gives."""

    def __init__(self) -> None:
        self.asked = 0

    async def token(self, io: IO, may_retry: Callable[[], bool]) -> AccessToken:
        self.asked += 1
        return await Step("ask")  # type: ignore[no-any-return]


class Process:
    """One process's cache."""

    def __init__(self, clock: ManualClock, store: Any) -> None:
        self.clock, self.retry = clock, Retry()
        events = TokenEvents("c", "https://f", NOBODY, clock.clock)
        self.shared = SharedToken(store, OWNER, self.retry)  # type: ignore[arg-type]
        self.cache = self.shared.kept = TokenCache(
            self.shared.renew, events, 0.2, clock=clock.clock
        )
        self.calls: list[Call[AccessToken]] = []
        self.began: list[float] = []

    def ask(self, seconds: float = SECONDS) -> Call[AccessToken]:
        """A caller."""
        self.began.append(self.clock.at)
        self.calls.append(Call(self.cache.get(SteppedIO(self.clock.deadline(seconds)))))
        return self.calls[-1]


@pytest.fixture
def clock() -> ManualClock:
    """A clock set by hand."""
    return ManualClock()


def test_one_asks_for_all(clock: ManualClock) -> None:
    """The others look again, and take what it got."""
    store = Store(clock)
    one, two = Process(clock, store), Process(clock, store)
    first, second = one.ask(), two.ask()
    assert ("ask", "sleep") == (first.kind, second.kind)
    token = clock.token()
    first.answer(token)
    clock.passes(0.02)
    assert token is second.answer()
    assert 0 == two.retry.asked
    assert store.claim_held is None


def test_old_token_goes_on_while_another_renews(clock: ManualClock) -> None:
    """Nobody waits as long as it lives."""
    store = Store(clock)
    one, two = Process(clock, store), Process(clock, store)
    one.ask().answer(clock.token(100))
    two.ask()
    clock.passes(90)
    renewing, other = one.ask(), two.ask()
    assert "ask" == renewing.kind
    assert other.result is not None
    assert not other.result.expired


def test_gone_process_is_replaced(clock: ManualClock) -> None:
    """After its deadline its right to renew is void."""
    store = Store(clock)
    gone, other = Process(clock, store).ask(seconds=5), Process(clock, store).ask(seconds=60)
    assert ("ask", "sleep") == (gone.kind, other.kind)
    clock.passes(8)
    other.answer()
    assert "ask" == other.kind


def test_waiting_has_an_end(clock: ManualClock) -> None:
    """The caller's own deadline."""
    store = Store(clock)
    busy, other = Process(clock, store).ask(seconds=60), Process(clock, store).ask(seconds=5)
    clock.passes(5)
    other.answer()
    assert isinstance(other.error, NetworkTimeoutError)
    assert "ask" == busy.kind


def test_failure_gives_the_right_back(clock: ManualClock) -> None:
    """Whoever comes next asks; so after a cancellation."""
    store = Store(clock)
    for end in (lambda call: call.fail(NetworkError("down")), Call.close):
        call = Process(clock, store).ask()
        assert "ask" == call.kind
        end(call)
        assert store.claim_held is None


def test_rejected_token_is_not_taken_again(clock: ManualClock) -> None:
    """A store that still has it does not bring it back; another's is taken."""
    store = Store(clock)
    one, two = Process(clock, store), Process(clock, store)
    token = clock.token()
    one.ask().answer(token)
    assert token is two.ask().result
    two.cache.discard(token)
    two.shared.reject(token)
    store.token = token
    assert "ask" == two.ask().kind


class HangingIO(SteppedIO):
    """A store that does not answer in time."""

    async def run(self, function: Any, seconds: float | None = None, *, late: Any = None) -> Any:
        if seconds is not None:
            late(function())  # it answers in the end
            raise BackendTimeoutError("the store hangs")
        return function()


def test_store_that_hangs_is_as_good_as_none(clock: ManualClock) -> None:
    """This process gets its own token, and the right to renew is given back."""
    store = Store(clock)
    process = Process(clock, store)
    call = Call(process.cache.get(HangingIO(Deadline.after(30, clock.clock))))
    assert "ask" == call.kind
    assert store.claim_held is None


class Sharing(RuleBasedStateMachine):
    """Three processes; every answer, look and second is a step."""

    make_store: Any = Store

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.store = type(self).make_store(self.clock)
        self.processes = [Process(self.clock, self.store) for _ in range(3)]

    def calls(self, kind: str) -> list[Call[AccessToken]]:
        """Callers of all processes at a step of a kind."""
        return [c for p in self.processes for c in p.calls if c.kind == kind]

    @rule(number=st.integers(0, 2))
    def come(self, number: int) -> None:
        """A caller of one of them."""
        call = self.processes[number].ask()
        assert call.result is None or not call.result.expired

    @precondition(lambda self: self.calls("ask"))
    @rule(data=st.data(), granted=st.booleans())
    def answer(self, data: st.DataObject, granted: bool) -> None:
        """The server answers one."""
        call = data.draw(st.sampled_from(self.calls("ask")))
        if granted:
            call.answer(self.clock.token(100))
        else:
            call.fail(NetworkError("down"))

    @precondition(lambda self: self.calls("sleep"))
    @rule(data=st.data())
    def wake_up(self, data: st.DataObject) -> None:
        """A pause is over."""
        call = data.draw(st.sampled_from(self.calls("sleep")))
        assert call.step
        self.clock.passes(call.step.seconds)
        call.answer()

    @precondition(lambda self: self.calls("ask"))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """The caller who renews is cancelled."""
        data.draw(st.sampled_from(self.calls("ask"))).close()

    @rule(seconds=st.sampled_from([1.0, 25.0, 90.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.clock.passes(seconds)

    @invariant()
    def one_asks(self) -> None:
        """Of all processes, one asks at a time, unless its right has run out."""
        asking = [
            call
            for process in self.processes
            for call, began in zip(process.calls, process.began, strict=True)
            if call.kind == "ask" and self.clock.at < began + SECONDS + 2.0
        ]
        assert len(asking) <= 1, "two ask for the same token"

    @invariant()
    def right_is_held_by_who_asks(self) -> None:
        """A right that no caller has any more is not held."""
        if self.store.claim_held is not None:
            assert self.calls("ask"), "the right to renew is lost"

    @invariant()
    def never_older(self) -> None:
        """What is stored is the newest that was got."""
        kept = [p.cache.token for p in self.processes if p.cache.token is not None]
        if self.store.token is not None and not self.store.token.expired and kept:
            newest = max(token.ends_at for token in kept)
            assert self.store.token.ends_at >= newest, "an older token over a newer one"

    def teardown(self) -> None:
        """Leave no coroutine behind."""
        for process in self.processes:
            for call in process.calls:
                call.close()


SETTINGS = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_sharing_in_any_order() -> None:
    """No order of events breaks a rule."""
    run_state_machine_as_test(Sharing, settings=SETTINGS)


class NeverReleased(Store):
    """Fault: the right to renew is not given back."""

    def claim(self, owner: TokenOwner, seconds: float) -> Claim | None:
        claim = super().claim(owner, seconds)
        if claim is not None:
            claim.release = lambda: None  # type: ignore[method-assign]
        return claim


class Overwrites(Store):
    """Fault: an older token replaces a newer one."""

    def save(self, owner: TokenOwner, token: AccessToken) -> None:
        if self.token is not None and not self.token.expired:
            return
        self.token = token


class NotExclusive(Store):
    """Fault: two have the right at once."""

    def claim(self, owner: TokenOwner, seconds: float) -> Claim | None:
        self.claim_held = Claim(self, self.clock.at + seconds)
        return self.claim_held


@pytest.mark.parametrize("faulty", [NeverReleased, Overwrites, NotExclusive])
def test_faults_are_found(faulty: type[Store]) -> None:
    """The machine fails for each of three faults made by hand."""

    class Faulty(Sharing):
        make_store = faulty

    quick = settings(  # the same examples in each run, and enough of them
        SETTINGS, max_examples=2000, derandomize=True, database=None, phases=[Phase.generate],
        report_multiple_bugs=False, print_blob=False,
    )  # fmt: skip
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(Faulty, settings=quick)
