"""The session pool as a state machine: any order of borrowing, returning, losing and closing.

The model knows which session is with whom; that the machine bites is shown by four faults made by
hand.
"""

from __future__ import annotations

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
from pkcs11.exceptions import DeviceError, SessionCount

from keystay.backends import Deadline
from keystay.errors import BackendTimeoutError
from keystay_pkcs11.errors import Place
from keystay_pkcs11.sessions import Session, SessionPool
from tests.support.stepping import ManualClock


class Pool(RuleBasedStateMachine):
    """Users of one pool, on a token that has so many sessions and may fail.

    Attributes:
        lent: Sessions that users have.
        hanging: Sessions that calls hang in; their end closes them.
        open: Sessions that the token knows.
        room: How many it can have.
        limit: How many the pool may have.
    """

    make_pool: ClassVar[type[SessionPool]] = SessionPool

    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.lent: list[Session] = []
        self.hanging: list[Session] = []
        self.open: set[Session] = set()
        self.opened = 0
        self.room, self.limit = 4, 3
        self.fails = self.closed = False
        self.pool = type(self).make_pool(
            self.open_one, self.close_one, self.limit, Place("/m.so", "prod"), self.clock.clock
        )

    def open_one(self, deadline: Deadline) -> Session:
        """The token's C_OpenSession."""
        if self.fails:
            raise DeviceError
        if len(self.open) >= self.room:
            raise SessionCount
        self.opened += 1
        session = Session(cast(Any, SimpleNamespace(handle=self.opened)))
        self.open.add(session)
        return session

    def close_one(self, session: Session, deadline: Deadline | None) -> None:
        """The token's C_CloseSession."""
        assert session in self.open, "a session is closed once"
        assert session not in self.lent, "a session in use is closed"
        self.open.remove(session)

    def borrow(self, seconds: float) -> Session | None:
        """What a user gets in that time."""
        deadline = self.clock.deadline(seconds)
        try:
            session = self.pool.acquire(deadline)
        except BackendTimeoutError:
            assert not deadline.remaining, "gave up before the deadline"
            return None
        except DeviceError:
            assert self.fails
            return None
        assert session not in self.lent, "one session, two users"
        assert session in self.open, "a closed session is lent"
        self.lent.append(session)
        return session

    @rule()
    def come(self) -> None:
        """Another user, who does not wait."""
        self.borrow(0.0)

    @precondition(lambda self: self.lent)
    @rule(data=st.data())
    def come_and_wait(self, data: st.DataObject) -> None:
        """Another user, who waits until a session is returned, if he must."""
        returned = data.draw(st.sampled_from(self.lent))

        def meanwhile(seconds: float) -> None:
            self.clock.passes(seconds)
            if returned in self.lent:
                self.lent.remove(returned)
                self.pool.release(returned)

        self.clock.on_wait = meanwhile
        found = self.borrow(30.0)
        assert found or self.fails or self.closed, "a session came free and was not lent"

    @precondition(lambda self: self.lent)
    @rule(data=st.data(), way=st.sampled_from(["release", "release twice", "discard", "retire"]))
    def give_back(self, data: st.DataObject, way: str) -> None:
        """A user is done with a session, in one of the ways."""
        session = data.draw(st.sampled_from(self.lent))
        self.lent.remove(session)
        if way == "discard":
            self.pool.discard(session, self.clock.deadline())
            self.pool.release(session)  # as a `finally` does
            assert session not in self.open
        elif way == "retire":
            self.pool.retire(session)
            self.pool.release(session)
            self.hanging.append(session)
        else:
            self.pool.release(session)
            if way == "release twice":
                self.pool.release(session)

    @precondition(lambda self: self.hanging)
    @rule()
    def call_returns(self) -> None:
        """A call that hung is over, and closes its session."""
        self.close_one(self.hanging.pop(), None)

    @rule()
    def flush(self) -> None:
        """Sessions may be dead: the idle ones are closed."""
        self.pool.flush(self.clock.deadline())
        assert self.open == {*self.lent, *self.hanging}

    @rule(room=st.integers(0, 5), fails=st.booleans())
    def token_changes(self, room: int, fails: bool) -> None:
        """Other processes open and close sessions; the token fails, or works again."""
        self.room, self.fails = room, fails

    @rule(limit=st.integers(1, 5))
    def grow(self, limit: int) -> None:
        """Another key allows more."""
        self.pool.grow_to(limit)
        self.limit = max(self.limit, limit)

    @rule(seconds=st.sampled_from([0.5, 31.0]))
    def pass_time(self, seconds: float) -> None:
        """Time passes; after half a minute a pool that shrank may grow again."""
        self.clock.passes(seconds)
        if seconds > 30:
            assert self.limit == self.pool.limit

    @precondition(lambda self: not self.closed)
    @rule()
    def close(self) -> None:
        """The last key is closed."""
        self.pool.close()
        self.closed = True

    @invariant()
    def counts(self) -> None:
        """It knows what it has lent, and lends no more than it may."""
        assert len(self.lent) == self.pool.in_use
        if not self.closed:
            assert len(self.open) - len(self.hanging) <= self.limit

    @invariant()
    def nothing_is_left(self) -> None:
        """A pool that is closed has no session idle."""
        if self.closed:
            assert self.open == {*self.lent, *self.hanging}


SETTINGS = settings(max_examples=100, stateful_step_count=40, deadline=None)
# For faults: the same examples in each run, and no more of them once one has failed.
THOROUGH = settings(
    SETTINGS, max_examples=2000, derandomize=True, database=None, phases=[Phase.generate],
    report_multiple_bugs=False, print_blob=False,
)  # fmt: skip


def test_session_pool() -> None:
    """No order of events breaks a rule."""
    run_state_machine_as_test(Pool, settings=SETTINGS)


class LostPlace(SessionPool):
    """Fault: a session that is discarded keeps its place."""

    def discard(self, session: Session, deadline: Deadline) -> None:
        session.is_lent = False
        self._close_session(session, deadline)


class ReturnedTwice(SessionPool):
    """Fault: a session that is returned twice is lent to two users."""

    def release(self, session: Session) -> None:
        session.is_lent = True
        super().release(session)


class Overbooked(SessionPool):
    """Fault: the limit is forgotten after the token once had no session left."""

    def _shrink(self, deadline: Deadline, error: SessionCount) -> None:  # type: ignore[override]
        self._limit = 99
        super()._shrink(deadline, error)


class KeptAfterClose(SessionPool):
    """Fault: a session returned after the end stays open."""

    def close(self) -> None:
        super().close()
        self._closed = False


FAULTS = [LostPlace, ReturnedTwice, Overbooked, KeptAfterClose]


@pytest.mark.parametrize("faulty", FAULTS)
def test_faults_are_found(faulty: type[SessionPool]) -> None:
    """The machine fails for each fault made by hand."""

    class Faulty(Pool):
        make_pool = faulty

    with pytest.raises((AssertionError, ExceptionGroup)):
        run_state_machine_as_test(Faulty, settings=THOROUGH)
