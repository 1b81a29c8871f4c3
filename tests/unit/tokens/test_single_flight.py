"""Single flight as a state machine: any interleaving of callers, answers, time and cancellation.

The model knows who asks, who waits, and which token was got when. The rules that must hold at
every moment are checked after each step; that they bite is shown by three faults made by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, ClassVar

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

from keystay.errors import KeystayError, NetworkError
from keystay.observers.dispatch import NOBODY
from keystay.tokens.cache import InFlight, TokenCache
from keystay.tokens.events import TokenEvents
from tests.support.stepping import Call, ManualClock, Step, SteppedIO

if TYPE_CHECKING:
    from keystay.http.io import IO
    from keystay.token_stores.access_token import AccessToken

LIFETIME = 100.0


class SingleFlight(RuleBasedStateMachine):
    """Callers of one cache; every answer, wake-up and second is a step."""

    make_cache: ClassVar[Callable[..., TokenCache]] = TokenCache

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        events = TokenEvents("client", "https://fhir.example.org", NOBODY, self.clock.clock)
        self.cache = type(self).make_cache(self.ask, events, 0.2, clock=self.clock.clock)
        self.callers: list[Call[AccessToken]] = []
        self.rejected: list[AccessToken] = []
        self.asked = 0

    async def ask(self, io: IO, may_retry: Callable[[], bool]) -> AccessToken:
        """A request, which a rule answers."""
        self.asked += 1
        return await Step("ask")  # type: ignore[no-any-return]

    def under_way(self, kind: str) -> list[Call[AccessToken]]:
        """Callers at a step of a kind."""
        return [call for call in self.callers if call.kind == kind]

    @rule()
    def come(self) -> None:
        """Another caller."""
        before = self.asked
        is_renewing = self.cache.is_renewing and not self.overdue()
        fresh = self.cache.fresh()
        call = Call(self.cache.get(SteppedIO(self.clock.deadline(30))))
        self.callers.append(call)
        if fresh is not None:
            assert fresh is call.result, "a fresh token is handed out as it is"
        if is_renewing:
            assert before == self.asked, "one request at a time"
        self.look(call)

    @precondition(lambda self: self.under_way("ask"))
    @rule(data=st.data())
    def grant(self, data: st.DataObject) -> None:
        """The server grants."""
        call = data.draw(st.sampled_from(self.under_way("ask")))
        token = self.clock.token(LIFETIME)
        call.answer(token)
        assert token is call.result
        assert token is self.cache.token, "the newest token is the one kept"

    @precondition(lambda self: self.under_way("ask"))
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        """The server fails."""
        call = data.draw(st.sampled_from(self.under_way("ask")))
        call.fail(NetworkError("down"))
        self.look(call)

    @precondition(lambda self: self.under_way("ask"))
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """The caller who renews is cancelled."""
        data.draw(st.sampled_from(self.under_way("ask"))).close()

    @precondition(lambda self: self.under_way("sleep"))
    @rule(data=st.data())
    def wake_up(self, data: st.DataObject) -> None:
        """A pause is over."""
        call = data.draw(st.sampled_from(self.under_way("sleep")))
        assert call.step
        self.clock.passes(call.step.seconds)
        call.answer()
        self.look(call)

    @precondition(lambda self: self.woken())
    @rule(data=st.data())
    def notice(self, data: st.DataObject) -> None:
        """Somebody who waited sees that the renewal is over."""
        call = data.draw(st.sampled_from(self.woken()))
        call.answer(True)
        self.look(call)

    @rule(seconds=st.sampled_from([1.0, 15.0, 85.0, 200.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes; waits that are too long end."""
        self.clock.passes(seconds)
        for call in self.under_way("wait"):
            assert call.step
            if seconds >= call.step.seconds:
                call.answer(False)
                self.look(call)

    @precondition(lambda self: self.cache.token is not None)
    @rule()
    def reject(self) -> None:
        """A FHIR server answers 401 to the token kept."""
        token = self.cache.token
        assert token is not None
        self.rejected.append(token)
        self.cache.discard(token)

    @precondition(lambda self: self.rejected)
    @rule(data=st.data())
    def reject_late(self, data: st.DataObject) -> None:
        """A rejection that comes when there is a successor takes that not along."""
        token = data.draw(st.sampled_from(self.rejected))
        kept = self.cache.token
        self.cache.discard(token)
        assert kept is token or kept is self.cache.token

    @invariant()
    def nobody_waits_for_nothing(self) -> None:
        """Whoever waits waits for a renewal under way, or has been told that it is over."""
        waiting = [call for call in self.under_way("wait") if call not in self.woken()]
        assert not waiting or self.under_way("ask") or self.under_way("sleep"), "a lost wake-up"

    @invariant()
    def one_renewal(self) -> None:
        """Unless its maker is overdue, there is one renewal, and it is known."""
        if self.under_way("ask") and not self.overdue():
            assert self.cache.is_renewing

    def look(self, call: Call[AccessToken]) -> None:
        """What a caller got is good; what it was told is an error of ours."""
        if call.result is not None:
            assert not call.result.expired, "an expired token was handed out"
        assert call.error is None or isinstance(call.error, KeystayError)

    def overdue(self) -> bool:
        """Whether the renewal under way counts as lost."""
        flight = self.cache._in_flight
        return flight is None or self.clock.at >= flight.overdue_at

    def woken(self) -> list[Call[AccessToken]]:
        """Callers whose renewal is over."""
        waiting = self.under_way("wait")
        return [c for c in waiting if c.step and c.step.event and c.step.event.is_set]

    def teardown(self) -> None:
        """Leave no coroutine behind."""
        for call in self.callers:
            call.close()


SETTINGS = settings(max_examples=200, stateful_step_count=40, deadline=None)


def test_single_flight() -> None:
    """No order of events breaks a rule."""
    run_state_machine_as_test(SingleFlight, settings=SETTINGS)


class LostWakeUp(TokenCache):
    """Fault: a renewal that fails tells nobody."""

    __slots__ = ()

    async def renew(self, flight: InFlight, io: IO) -> AccessToken:
        def silent(token: AccessToken | None, error: Exception | None) -> None:
            if error is None:
                InFlight.complete(flight, token, error)

        flight.complete = silent  # type: ignore[method-assign]
        return await super().renew(flight, io)


class StaleGeneration(TokenCache):
    """Fault: a late rejection takes the successor along."""

    __slots__ = ()

    def discard(self, token: AccessToken | None = None) -> None:
        super().discard(None)


class LostOnCancellation(TokenCache):
    """Fault: a cancelled renewal stays under way for ever."""

    __slots__ = ()

    async def renew(self, flight: InFlight, io: IO) -> AccessToken:
        try:
            return await super().renew(flight, io)
        except GeneratorExit:
            self._in_flight = InFlight(float("inf"))
            raise


@pytest.mark.parametrize("faulty", [LostWakeUp, StaleGeneration, LostOnCancellation])
def test_faults_are_found(faulty: type[TokenCache]) -> None:
    """The machine fails for each of three faults made by hand."""

    class Faulty(SingleFlight):
        make_cache = faulty

    quick = settings(  # the same examples in each run, and enough of them
        SETTINGS, max_examples=2000, derandomize=True, database=None, phases=[Phase.generate],
        report_multiple_bugs=False, print_blob=False,
    )  # fmt: skip
    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(Faulty, settings=quick)
