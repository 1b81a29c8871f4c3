"""The life of a module as a state machine: any order of starts, losses, users, forks and time.

The model is the table in `keystay_pkcs11.module`; that the machine bites is shown by four faults
made by hand.
"""

from __future__ import annotations

from typing import ClassVar, Literal

import pytest
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from pkcs11.exceptions import DeviceError, SessionClosed

from keystay.errors import BackendUnavailableError
from keystay_pkcs11.module import Module
from tests.support.stepping import ManualClock
from tests.unit.plugins.pkcs11.fake_library import FakeLibrary, as_library

Kind = Literal["device", "software", "remoted", "shared"]
PATHS: dict[Kind, tuple[str, str]] = {
    "device": ("/usr/lib/acme.so", "Acme"),
    "software": ("/usr/lib/softhsm.so", "SoftHSM"),
    "remoted": ("/usr/lib/pkcs11/p11-kit-client.so", "Acme"),
    "shared": ("/usr/lib/tpm2.so", "tpm2-software.github.io"),
}
RESTART_INTERVAL = 30.0


class Life(RuleBasedStateMachine):
    """One module, its users and their calls.

    Attributes:
        state: As the table has it.
        generation: Of the handles that are valid.
        inside: Calls under way: what the gate gave them.
        restarted: When it was restarted for a device that was lost, in a generation that ran.
    """

    make_module: ClassVar[type[Module]] = Module

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.state = "stopped"
        self.generation = 0
        self.inside: list[int] = []
        self.restarts: list[float] = []
        self.users: set[str] = set()  # who reached a token in this generation

    @initialize(kind=st.sampled_from(sorted(PATHS)), starts=st.booleans())
    def load(self, kind: Kind, starts: bool) -> None:
        """A module of a kind; in half of the cases it runs."""
        path, manufacturer = PATHS[kind]
        self.kind, self.fake = kind, FakeLibrary(manufacturer)
        self.fake.may_be_finalized_under_calls = kind == "remoted"
        self.module = type(self).make_module(
            path, loader=lambda _: as_library(self.fake), clock=self.clock.clock
        )
        self.module.users = 1
        if starts:
            self.start()

    @property
    def is_light(self) -> bool:
        """Whether a start disturbs no device. Software is known when it has been started."""
        return self.kind in ("software", "remoted") and (
            self.kind == "remoted" or self.module.computes_here
        )

    def ran(self) -> None:
        """It runs, in the generation that begins with it."""
        self.state, self.generation = "running", self.module.generation

    @rule()
    def start(self) -> None:
        """A key is opened."""
        before, slept = self.module.generation, len(self.clock.slept)
        try:
            generation = self.module.start(self.clock.deadline(0.9))
        except BackendUnavailableError as error:
            failed = error
        else:
            assert self.state != "foreign", "a child started its parent's module"
            assert before == generation, "a start begins no generation"
            assert self.state != "running" or slept == len(self.clock.slept)
            self.ran()
            return
        if self.state == "foreign":
            assert "fork-unsupported" == failed.code
        else:
            assert self.state != "running", "it runs, and cannot be used"
            assert self.fake.fails or self.inside

    @precondition(lambda self: self.state == "running")
    @rule(is_stale=st.booleans())
    def restart(self, is_stale: bool) -> None:
        """A call lost its device, in this generation or in one that is over."""
        before = self.fake.finalized
        generation = self.generation - is_stale
        try:
            self.module.restart(generation, DeviceError(), self.clock.deadline(0.0))
        except BackendUnavailableError as error:
            if error.code == "device-lost":
                assert self.recently_restarted() or self.clock.at < self.module._busy_until
            elif error.code == "module-busy":
                self.expect_busy()
            else:
                assert self.fake.fails
                self.restarts.append(self.clock.at)
                self.end("lost")
            return
        assert before == self.fake.finalized or not is_stale, "done twice for one loss"
        if not is_stale:
            assert not self.recently_restarted(), "restarted twice in 30 s"
            self.restarts.append(self.clock.at)
            self.end("running")

    @rule()
    def miss(self) -> None:
        """A token is not there: the module may be started again to see it."""
        if self.state != "running":
            return
        before, generation = self.fake.finalized, self.generation
        was_light, recently = self.is_light, self.recently_restarted()
        try:
            again = self.module.reinitialise_if_idle(generation, self.clock.deadline(0.0))
        except BackendUnavailableError as error:
            if error.code == "module-busy":
                self.expect_busy()
                return
            self.expect_failure()
            self.end("lost")
            if not was_light:
                self.restarts.append(self.clock.at)
            return
        if self.users:
            assert not again
            assert before == self.fake.finalized, "started again while a token is in use"
            return
        assert again
        if before != self.fake.finalized:
            assert was_light or not recently, "a device is restarted rarely"
            if not was_light:
                self.restarts.append(self.clock.at)
            self.end("running")

    @precondition(lambda self: self.state == "running")
    @rule()
    def mark_missing(self) -> None:
        """The token stays missing."""
        before = self.fake.finalized
        self.module.mark_missing(self.generation)
        assert before == self.fake.finalized
        if self.is_light and not self.users:
            self.end("lost")

    @precondition(lambda self: self.state == "running")
    @rule(owner=st.sampled_from("ab"))
    def reach(self, owner: str) -> None:
        """A token is connected."""
        self.module.mark_in_use(owner, self.generation)
        self.users.add(owner)
        if self.restarts:
            self.restarts[-1] = max(self.restarts[-1], self.module._restarted_at)

    @rule(owner=st.sampled_from("ab"))
    def leave_token(self, owner: str) -> None:
        """A token's last user lets go."""
        self.module.mark_unused(owner)
        self.users.discard(owner)

    @precondition(lambda self: self.state == "running" and self.kind != "remoted")
    @rule()
    def enter(self) -> None:
        """A call that takes its time."""
        self.inside.append(self.module.gate.enter(self.clock.deadline()))
        self.fake.inside += 1

    @precondition(lambda self: self.inside)
    @rule()
    def leave(self) -> None:
        """It returns."""
        self.fake.inside -= 1
        self.module.gate.leave(self.inside.pop())

    @precondition(lambda self: self.state == "running")
    @rule(is_stale=st.booleans())
    def call(self, is_stale: bool) -> None:
        """A call with handles of this generation is made; with others, it is not."""
        made = []
        try:
            self.module.call(
                lambda: made.append(self.fake.initialized),
                self.clock.deadline(5.0),
                generation=self.generation - is_stale,
            )
        except SessionClosed:
            assert is_stale
        assert ([] if is_stale else [True]) == made

    @rule(fails=st.booleans())
    def device_changes(self, fails: bool) -> None:
        """C_Initialize fails from now on, or works."""
        self.fake.fails = fails

    @precondition(lambda self: not self.inside)
    @rule()
    def close_all(self) -> None:
        """Its last user closes, and another one comes."""
        self.module.users = 0
        self.module.stop()
        self.module.users = 1
        if self.state == "running":
            assert not self.fake.initialized, "closed, and still initialised"
            self.end("stopped")

    @precondition(lambda self: not self.inside)
    @rule()
    def fork(self) -> None:
        """The machine goes on in the child."""
        self.module._reset_after_fork()  # what `reset_after_fork` calls
        if self.state == "running":
            self.end("foreign" if self.kind == "shared" else "lost")
        self.restarts = []

    @rule(seconds=st.sampled_from([0.2, 1.0, 11.0, 31.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.clock.passes(seconds)

    @invariant()
    def state_is_as_modelled(self) -> None:
        """It is what the table says, and running means initialised."""
        if not hasattr(self, "module"):
            return
        assert self.state == self.module.state
        assert self.module.is_in_use == bool(self.users)
        if self.state == "running":
            assert self.fake.initialized
            assert self.generation == self.module.generation

    def expect_failure(self) -> None:
        """Nothing else keeps it from starting."""
        assert self.fake.fails

    def expect_busy(self) -> None:
        """Calls kept a restart from being made."""
        assert self.inside, "busy, with no call inside"
        assert self.kind != "remoted", "its calls can be left behind"

    def end(self, state: str) -> None:
        """A generation is over, and the model knows it by a higher number."""
        assert self.module.generation > self.generation, "handles of two starts look alike"
        self.state, self.generation = state, self.module.generation
        self.users.clear()

    def recently_restarted(self) -> bool:
        """Whether the last restart is less than 30 s ago."""
        return bool(self.restarts) and self.clock.at - self.restarts[-1] < RESTART_INTERVAL


SETTINGS = settings(max_examples=100, stateful_step_count=40, deadline=None)
# For faults: the same examples in each run, and no more of them once one has failed.
THOROUGH = settings(
    SETTINGS, max_examples=2000, derandomize=True, database=None, phases=[Phase.generate],
    report_multiple_bugs=False, print_blob=False,
)  # fmt: skip


def test_module_life() -> None:
    """No order of events breaks a rule."""
    run_state_machine_as_test(Life, settings=SETTINGS)


class SameGeneration(Module):
    """Fault: handles of the last start still count."""

    def _end_generation(self, state: object) -> None:
        self.state = state  # type: ignore[assignment]


class RestartedForEach(Module):
    """Fault: each call that failed restarts the module, also for a loss that is mended."""

    def restart(self, generation: int, error: object, deadline: object) -> None:
        super().restart(self.generation, error, deadline)  # type: ignore[arg-type]


class BlindToUsers(Module):
    """Fault: the module is started again under another token's users."""

    @property
    def is_in_use(self) -> bool:
        return False


class ParentsModuleUsed(Module):
    """Fault: a child uses a module that shares its parent's connection."""

    def _shares_connection(self) -> bool:
        return False


class RestartedAtOnce(Module):
    """Fault: nothing is waited for between two restarts."""

    @property
    def may_restart(self) -> bool:
        return True


FAULTS = [SameGeneration, RestartedForEach, BlindToUsers, ParentsModuleUsed, RestartedAtOnce]


@pytest.mark.parametrize("faulty", FAULTS)
def test_faults_are_found(faulty: type[Module]) -> None:
    """The machine fails for each fault made by hand."""

    class Faulty(Life):
        make_module = faulty

    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(Faulty, settings=THOROUGH)
