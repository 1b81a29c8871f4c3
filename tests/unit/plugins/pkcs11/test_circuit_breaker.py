"""The circuit breaker as a state machine: any order of calls, outcomes, waits and time.

The model is the table in `keystay_pkcs11.circuit_breaker`; that the machine bites is shown by four
faults made by hand.
"""

from __future__ import annotations

from typing import ClassVar

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

from keystay.errors import BackendTimeoutError, BackendUnavailableError, LoginError
from keystay_pkcs11.circuit_breaker import CircuitBreaker
from keystay_pkcs11.errors import Place
from tests.support.stepping import ManualClock

LOSSES = ("device-error", "token-gone", "module-busy")
# Unavailable, or an error, and yet the token is there.
ANSWERS = ("session-count", "backend-hangs", "login-unanswered")
PATIENCE, SHORTEST, LONGEST = 1.0, 0.5, 10.0


def lost(code: str) -> BackendUnavailableError:
    """An error that says that the token is down."""
    return BackendUnavailableError("It is down.", hint="Bring it up.", code=code)


class Breaker(RuleBasedStateMachine):
    """Calls to one token; every outcome and second is a step.

    Attributes:
        calls: Those under way: whether each is the probe.
        lost_at: When the token was lost, or None while it is up.
        due: When the next probe may be made.
    """

    make_breaker: ClassVar[type[CircuitBreaker]] = CircuitBreaker

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.breaker = type(self).make_breaker(Place("/m.so", "prod"), self.clock.clock)
        self.calls: list[bool] = []
        self.lost_at: float | None = None
        self.due = 0.0

    def end(self, data: st.DataObject) -> bool:
        """Take one call out; whether it is the probe."""
        return self.calls.pop(data.draw(st.integers(0, len(self.calls) - 1)))

    def begin(self, seconds: float) -> None:
        """Another call, which may wait so long; the model says whether it is let through."""
        error = None
        try:
            is_probe = self.breaker.allow_request(self.clock.deadline(seconds))
        except BackendUnavailableError as caught:
            error = caught
        if error is not None:
            assert self.lost_at is not None, "refused while the token is up"
            assert True in self.calls or self.clock.at < self.due, "refused though a probe is due"
            assert ("device-lost", "Bring it up.") == (error.code, error.hint)
            assert "next attempt is in" in error.message
            return
        if self.lost_at is None:
            assert not is_probe
        else:
            assert is_probe, "let through while the token is down"
            assert True not in self.calls, "one probe at a time"
            assert self.clock.at >= self.due, "a probe before its time"
        self.calls.append(is_probe)

    @rule(count=st.integers(1, 3))
    def come(self, count: int) -> None:
        """Calls that wait for nothing."""
        for _ in range(count):
            self.begin(0.0)

    @rule(event=st.sampled_from(["nothing", "answers", "fails", "cancels"]))
    def come_and_wait(self, event: str) -> None:
        """A call that may wait; meanwhile the probe ends, or does not."""
        waited = 0.0

        def meanwhile(seconds: float) -> None:
            nonlocal waited
            waited += seconds
            self.clock.passes(seconds)
            if True in self.calls and event != "nothing":
                self.calls.remove(True)
                if event == "answers":
                    self.record_answer(True)
                elif event == "fails":
                    self.record_loss(True, "device-error")
                else:
                    self.breaker.cancel()

        self.clock.on_wait = meanwhile
        self.begin(30.0)
        assert waited <= PATIENCE + 1e-6, "a call waits no longer than a moment"

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def succeed(self, data: st.DataObject) -> None:
        """The token does what it was asked to."""
        self.record_answer(self.end(data))

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), code=st.sampled_from(LOSSES))
    def lose(self, data: st.DataObject, code: str) -> None:
        """The token is lost."""
        self.record_loss(self.end(data), code)

    @precondition(lambda self: self.calls)
    @rule(data=st.data(), code=st.sampled_from(ANSWERS))
    def answer(self, data: st.DataObject, code: str) -> None:
        """The token answers with an error: it is there."""
        is_probe = self.end(data)
        error = LoginError("no") if code == "session-count" else lost(code)
        self.breaker.record(is_probe, error)
        if is_probe:
            self.lost_at = None

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def time_out(self, data: st.DataObject) -> None:
        """A deadline passes, which says something of the token only if it is the probe's."""
        is_probe = self.end(data)
        self.breaker.record(is_probe, BackendTimeoutError("Late.", hint="Bring it up."))
        if is_probe:
            self.open()

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def interrupt(self, data: st.DataObject) -> None:
        """The caller is interrupted: nothing is known."""
        self.breaker.record(self.end(data), KeyboardInterrupt())

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """A call ends without having asked for anything."""
        if self.end(data):
            self.breaker.cancel()

    @rule(seconds=st.sampled_from([0.1, 0.6, 3.0, 40.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.clock.passes(seconds)

    @rule()
    def fork(self) -> None:
        """The process is forked: the child has no calls, and sees for itself."""
        self.breaker._reset()  # what `reset_after_fork` calls
        self.calls, self.lost_at = [], None

    @invariant()
    def state_is_as_modelled(self) -> None:
        """It is what the table says."""
        down = "half-open" if True in self.calls else "open"
        assert ("closed" if self.lost_at is None else down) == self.breaker.state

    @invariant()
    def probes_go_on(self) -> None:
        """A token that is down is looked at again, soon, but not at once."""
        if self.lost_at is not None:
            assert self.due == pytest.approx(self.breaker.next_probe)
            assert self.breaker.next_probe - self.clock.at <= LONGEST

    def record_answer(self, is_probe: bool) -> None:
        """A success closes it, also one that began before the loss."""
        self.breaker.record(is_probe)
        self.lost_at = None

    def record_loss(self, is_probe: bool, code: str) -> None:
        """A loss opens it; one that is known is told again by the probe only."""
        self.breaker.record(is_probe, lost(code))
        if is_probe or self.lost_at is None:
            self.open()

    def open(self) -> None:
        """The model's."""
        if self.lost_at is None:
            self.lost_at = self.clock.at
        pause = (self.clock.at - self.lost_at) / 4
        self.due = self.clock.at + min(max(pause, SHORTEST), LONGEST)


SETTINGS = settings(max_examples=100, stateful_step_count=40, deadline=None)
# For faults: the same examples in each run, and no more of them once one has failed.
THOROUGH = settings(
    SETTINGS, max_examples=2000, derandomize=True, database=None, phases=[Phase.generate],
    report_multiple_bugs=False, print_blob=False,
)  # fmt: skip


def test_circuit_breaker() -> None:
    """No order of events breaks a rule."""
    run_state_machine_as_test(Breaker, settings=SETTINGS)


class ForgottenProbe(CircuitBreaker):
    """Fault: a probe that is cancelled counts as under way for ever."""

    def cancel(self) -> None:
        pass


class TwoProbes(CircuitBreaker):
    """Fault: the probe does not keep others away."""

    def _await_probe(self, deadline: object) -> bool:
        found = super()._await_probe(deadline)  # type: ignore[arg-type]
        self._is_probing = False
        return found


class OldLossesPostpone(CircuitBreaker):
    """Fault: calls that began before the loss put off the next probe."""

    def _open(self, error: BackendUnavailableError, is_probe: bool) -> None:
        super()._open(error, True)


class HasteOpens(CircuitBreaker):
    """Fault: the deadline of one caller in a hurry counts as a loss."""

    def record(self, is_probe: bool, error: BaseException | None = None) -> None:
        if isinstance(error, BackendTimeoutError):
            error = lost("device-error")
        super().record(is_probe, error)


FAULTS = [ForgottenProbe, TwoProbes, OldLossesPostpone, HasteOpens]


@pytest.mark.parametrize("faulty", FAULTS)
def test_faults_are_found(faulty: type[CircuitBreaker]) -> None:
    """The machine fails for each fault made by hand."""

    class Faulty(Breaker):
        make_breaker = faulty

    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(Faulty, settings=THOROUGH)
