"""Recovery as a state machine: any answers of a token to a call, over any history of losses.

The module and the circuit breaker are the real ones, over a fake library and a clock set by hand;
the token is scripted. That the machine bites is shown by four faults made by hand.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar, cast

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
from pkcs11.exceptions import (
    DeviceError,
    KeyHandleInvalid,
    MechanismInvalid,
    PinIncorrect,
    PKCS11Error,
    SessionHandleInvalid,
    UserNotLoggedIn,
)

from keystay.backends import Deadline
from keystay.errors import BackendError, KeyNotFoundError, SignerClosedError
from keystay_pkcs11 import recovery
from keystay_pkcs11.circuit_breaker import CircuitBreaker
from keystay_pkcs11.errors import KeyVanishedError, Place, is_lost
from keystay_pkcs11.module import Module
from keystay_pkcs11.recovery import Recovery, TokenAccess
from tests.support.stepping import ManualClock
from tests.unit.plugins.pkcs11.fake_library import FakeLibrary, as_library

PLACE = Place("/m.so", "prod")
ANSWERS: dict[str, Callable[[], PKCS11Error] | None] = {
    "good": None,
    "session": SessionHandleInvalid,
    "login": UserNotLoggedIn,
    "device": DeviceError,
    "handle": KeyHandleInvalid,
    "vanished": lambda: KeyVanishedError(KeyNotFoundError("No such key.")),
    "pin": PinIncorrect,
    "refused": MechanismInvalid,
}
RESTART_INTERVAL = 30.0


class Connection:
    """A connection of one generation, whose calls a script answers."""

    waited = 0.0

    def __init__(self, token: Token) -> None:
        self.token, self.generation = token, token.module.generation

    @property
    def is_alive(self) -> bool:
        """Whether its generation goes on."""
        return self.generation == self.token.module.generation

    def lend(self, action: Callable[[Connection, object], object], deadline: Deadline) -> object:
        """Do something in a session."""
        assert self.is_alive, "a call with handles of a generation that is over"
        self.token.answer("lend", self)
        return action(self, None)


class Token:
    """A token that answers as a script says.

    Attributes:
        script: The answers to come; good ones after them.
        did: What it was asked for in this call, and how it answered.
        meanwhile: Called before each answer: what other threads do.
    """

    place = PLACE

    def __init__(self, clock: ManualClock) -> None:
        self.fake = FakeLibrary()
        self.module = Module("/m.so", loader=lambda _: as_library(self.fake), clock=clock.clock)
        self.module.users = 1
        self.breaker = CircuitBreaker(PLACE, clock.clock)
        self.script: list[str] = []
        self.did: list[tuple[str, str]] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.connection: Connection | None = None

    def answer(self, what: str, connection: Connection | None = None) -> None:
        """The next answer; that of a generation that is over is known."""
        kind = self.script.pop(0) if self.script else "good"
        self.did.append((what, kind))
        self.meanwhile()
        if connection is not None and not connection.is_alive:
            self.did[-1] = (what, "session")
            raise SessionHandleInvalid
        if (make := ANSWERS[kind]) is not None:
            raise make()

    def connect(self, credentials: object, deadline: Deadline) -> Connection:
        """The connection of this generation."""
        generation = self.module.start(deadline)
        if self.connection is None or self.connection.generation != generation:
            self.answer("connect")
            self.connection = Connection(self)
            self.module.mark_in_use(self, self.connection.generation)
        return self.connection

    def log_in_again(self, connection: Connection, credentials: object, deadline: Deadline) -> None:
        """A new login."""
        self.answer("log in")


class Recovering(RuleBasedStateMachine):
    """Calls to one token, each with the answers that it meets."""

    make_recovery: ClassVar[type[Recovery]] = Recovery

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.token = Token(self.clock)
        self.access = TokenAccess(cast(Any, self.token), cast(Any, SimpleNamespace()), "/m.so")
        self.restarts: list[float] = []
        self.releases = 0

    @rule(
        answers=st.lists(st.sampled_from(sorted(ANSWERS)), max_size=5),
        other=st.sampled_from(["nothing", "nothing", "restarts", "closes"]),
    )
    def call(self, answers: list[str], other: str) -> None:
        """A call, while another thread does something before one of the answers."""
        token = self.token
        token.script, token.did = [*answers], []
        finalized, closed = token.fake.finalized, False

        def meanwhile() -> None:
            nonlocal closed
            if other == "restarts" and token.module.is_running:
                token.meanwhile = lambda: None
                if token.module.may_restart:
                    token.module.restart(
                        token.module.generation, DeviceError(), self.clock.deadline()
                    )
            elif other == "closes" and len(token.did) == 1:
                closed = self.access.is_closed = True

        token.meanwhile = meanwhile
        found, failed = None, None
        try:
            with token.breaker.guard(self.clock.deadline(0.0)):
                found = (
                    type(self)
                    .make_recovery(self.access, self.clock.deadline())
                    .run("finding the key", lambda connection, _: connection)
                )
        except BackendError as error:
            failed = error
        finally:
            self.access.is_closed = False
        restarted = token.fake.finalized - finalized
        self.restarts += [self.clock.at] * restarted
        self.check(found, failed, closed=closed)

    def check(self, found: object, failed: BackendError | None, *, closed: bool) -> None:
        """What a call did is what the table allows."""
        did = self.token.did
        kinds = [kind for _, kind in did]
        assert (found is None) == (failed is not None)
        if found is not None:
            assert ("lend", "good") == did[-1]
            assert cast(Connection, found).is_alive
        logins = [what for what, _ in did].count("log in")
        assert logins <= 1, "each level is taken once"
        final = [n for n, kind in enumerate(kinds) if kind in ("pin", "refused")]
        assert all(n == len(kinds) - 1 for n in final), "recovered where it cannot help"
        if closed and failed is not None and final == []:
            assert isinstance(failed, SignerClosedError), "recovered for a key that is closed"
        lost = [kind for kind in kinds if ANSWERS[kind] is not None and is_lost(ANSWERS[kind]())]  # type: ignore[misc]
        if len(lost) == 1 and not final and not closed:
            assert found is not None or ("connect", lost[0]) in did, "one loss is mended"

    @rule(seconds=st.sampled_from([1.0, 11.0, 31.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes."""
        self.clock.passes(seconds)

    @precondition(lambda self: self.token.module.is_running)
    @rule()
    def session_lost_elsewhere(self) -> None:
        """The generation ends: another key's call restarted the module."""
        if self.token.module.may_restart:
            generation = self.token.module.generation
            self.token.module.restart(generation, DeviceError(), self.clock.deadline())
            self.restarts.append(self.clock.at)

    @invariant()
    def restarts_are_rare(self) -> None:
        """No two in 30 s, whatever fails."""
        pairs = zip(self.restarts, self.restarts[1:], strict=False)
        assert all(b - a >= RESTART_INTERVAL for a, b in pairs), "restarted twice in 30 s"


SETTINGS = settings(max_examples=100, stateful_step_count=25, deadline=None)
# For faults: the same examples in each run, and no more of them once one has failed.
THOROUGH = settings(
    SETTINGS, max_examples=2000, derandomize=True, database=None, phases=[Phase.generate],
    report_multiple_bugs=False, print_blob=False,
)  # fmt: skip


def test_recovery() -> None:
    """No answers of a token break a rule."""
    run_state_machine_as_test(Recovering, settings=SETTINGS)


class LogsInForEach(Recovery):
    """Fault: a new login at each failure."""

    def next_level(self, what: str, connection: Any, error: PKCS11Error) -> Any:
        self.level = recovery.Level.NONE
        return super().next_level(what, connection, error)


class RecoversTheClosed(Recovery):
    """Fault: recovery goes on for a key that was closed meanwhile."""

    def next_level(self, what: str, connection: Any, error: PKCS11Error) -> Any:
        self._access.is_closed = False
        return super().next_level(what, connection, error)


class KeepsTheDead(Recovery):
    """Fault: a connection whose generation is over is used again."""

    def next_level(self, what: str, connection: Any, error: PKCS11Error) -> Any:
        if not connection.is_alive:
            return connection
        return super().next_level(what, connection, error)


class MendsEverything(Recovery):
    """Fault: each error is taken for a loss, a refused PIN too."""

    def next_level(self, what: str, connection: Any, error: PKCS11Error) -> Any:
        error = error if is_lost(error) else DeviceError()
        return super().next_level(what, connection, error)


FAULTS = [LogsInForEach, RecoversTheClosed, KeepsTheDead, MendsEverything]


@pytest.mark.parametrize("faulty", FAULTS)
def test_faults_are_found(faulty: type[Recovery]) -> None:
    """The machine fails for each fault made by hand."""

    class Faulty(Recovering):
        make_recovery = faulty

    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(Faulty, settings=THOROUGH)
