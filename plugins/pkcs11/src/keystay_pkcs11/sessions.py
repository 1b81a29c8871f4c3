"""A bounded pool of sessions on one token.

The pool's sessions are opened without a PIN: one login, held by a session of its own, counts for
the whole process (PKCS #11 v3.1, section 5.6). The last one returned is the first one lent, so few
are opened under light load.

A session is lent to one thread at a time, and leaves it in one of these ways:

| call      | when                                        | the session                            |
|-----------|---------------------------------------------|----------------------------------------|
| `release` | it was used                                 | idle; closed if the pool is            |
| `discard` | a call in it failed                         | closed                                 |
| `retire`  | a call hangs in it                          | closed by that call's end, not counted |
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from pkcs11.exceptions import PKCS11Error, SessionCount

from keystay.concurrency.clock import SYSTEM_CLOCK, Clock
from keystay_pkcs11.cryptoki import SignBuffer
from keystay_pkcs11.errors import TEXTS

if TYPE_CHECKING:
    from pkcs11 import Session as NativeSession

    from keystay.backends import Deadline
    from keystay.errors import KeystayError
    from keystay_pkcs11.errors import Place

__all__ = ["POLL_SECONDS", "Session", "SessionPool"]

_numbers = itertools.count(1)

_REGROW_SECONDS = 30.0
_LONGEST_WAIT = 1.0  # so that a pool that shrank notices when it may grow again
POLL_SECONDS = 0.05
"""Seconds between two looks whether other processes have closed a session: nothing notifies."""


class Session:
    """One session, used by one thread at a time.

    Attributes:
        native: python-pkcs11's session.
        handle: Its CK_SESSION_HANDLE.
        number: Unlike any other session's of this process.
        buffer: Where its signatures are written.
        is_lent: Whether a thread may use it.
    """

    __slots__ = ("buffer", "handle", "is_lent", "native", "number")

    def __init__(self, native: NativeSession) -> None:
        self.native = native
        self.handle: int = native.handle  # type: ignore[attr-defined]
        self.number = next(_numbers)
        self.buffer = SignBuffer()
        self.is_lent = False


class SessionPool:
    """Sessions to borrow.

    Args:
        open_session: Opens one more; may raise `SessionCount`.
        close_session: Closes one, waiting no longer than a deadline, if any; raises nothing.
        limit: How many may be open at once.
        place: For messages.
        clock: The machine's, or a test's.
    """

    def __init__(
        self,
        open_session: Callable[[Deadline], Session],
        close_session: Callable[[Session, Deadline | None], None],
        limit: int,
        place: Place,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._open_session, self._close_session = open_session, close_session
        self._limit, self._place, self._clock = limit, place, clock
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)
        self._idle: list[Session] = []
        self._open = 0
        self._closed = False
        self._shrunk_to = limit
        self._shrunk_until = 0.0

    @property
    def in_use(self) -> int:
        """Sessions lent, or being opened, now."""
        with self._lock:
            return self._open - len(self._idle)

    @property
    def has_none_but_one(self) -> bool:
        """Whether the session that is just being opened is the only one."""
        with self._lock:
            return self._open == 1

    @property
    def limit(self) -> int:
        """Sessions that may be open now: less for a while after the token ran out of them."""
        if self._clock.now() < self._shrunk_until:
            return min(self._limit, self._shrunk_to)
        return self._limit

    def grow_to(self, limit: int) -> None:
        """Let the pool grow to `limit`, if that is more than before."""
        with self._lock:
            self._limit = max(self._limit, limit)
            self._freed.notify_all()

    def acquire(self, deadline: Deadline) -> Session:
        """Borrow a session; waits for one until the deadline.

        Raises:
            BackendTimeoutError: None came free; says how many are in use.
            PKCS11Error: A new one could not be opened.
        """
        while True:
            with self._lock:
                if self._idle:
                    session = self._idle.pop()
                    session.is_lent = True
                    return session
                if self._open >= self.limit:
                    self._wait(deadline)
                    continue
                self._open += 1
            try:
                session = self._open_session(deadline)
            except SessionCount as error:
                self._shrink(deadline, error)
            except BaseException:
                self._forget_one()
                raise
            else:
                session.is_lent = True
                return session

    def release(self, session: Session) -> None:
        """Return a session, unless it is returned already."""
        if not session.is_lent:
            return
        session.is_lent = False
        with self._lock:
            if not self._closed:
                self._idle.append(session)
                self._freed.notify()
                return
        self._forget_one()
        self._close_session(session, None)

    def discard(self, session: Session, deadline: Deadline) -> None:
        """Close a session that is not to be used again."""
        self._close_session(session, deadline)
        self.retire(session)

    def retire(self, session: Session) -> None:
        """Leave a session to the call that hangs in it, and closes it in the end."""
        if session.is_lent:
            session.is_lent = False
            self._forget_one()

    def flush(self, deadline: Deadline) -> None:
        """Close the idle sessions: they may be dead."""
        for session in self._take_idle():
            self._close_session(session, deadline)

    def close(self) -> None:
        """Close every session that is not lent, and the others when they are returned."""
        self._closed = True
        for session in self._take_idle():
            self._close_session(session, None)

    def exhausted(self, deadline: Deadline) -> KeystayError:
        """The error for a deadline that passed without a session."""
        used, limit = self._open - len(self._idle), self.limit
        situation = "session-timeout" if used else "sessions-used-by-others"
        return TEXTS.error(
            situation, place=self._place, seconds=deadline.seconds, used=used, limit=limit
        )

    def _forget_one(self) -> None:
        with self._lock:
            self._open -= 1
            self._freed.notify()

    def _take_idle(self) -> list[Session]:
        with self._lock:
            idle, self._idle = self._idle, []
            self._open -= len(idle)
            self._freed.notify_all()
        return idle

    def _wait(self, deadline: Deadline) -> None:
        """Wait, lock held, until a session may be free."""
        self._clock.wait(self._freed, min(deadline.remaining, _LONGEST_WAIT))
        if not deadline.remaining and not self._idle:
            raise self.exhausted(deadline)

    def _shrink(self, deadline: Deadline, error: PKCS11Error) -> None:
        """The token has no more sessions: make do with those that are open, for a while."""
        with self._lock:
            self._open -= 1
            self._shrunk_to = max(1, self._open)
            self._shrunk_until = self._clock.now() + _REGROW_SECONDS
            has_none = not self._open
        if not deadline.remaining:
            raise self.exhausted(deadline) from error
        if has_none:
            self._clock.sleep(min(deadline.remaining, POLL_SECONDS))
