"""A bounded pool of sessions on one token.

Workers' sessions are opened without a PIN: the login of the one session that holds it is the
process's (PKCS #11 v3.1, section 5.6). The last one given back is the next one taken, so few
are opened under light load.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from pkcs11.exceptions import PKCS11Error, SessionCount

from keystay.errors import BackendTimeoutError
from keystay_pkcs11.cryptoki import SignBuffer

if TYPE_CHECKING:
    from pkcs11 import Session as NativeSession

    from keystay.backends import Deadline
    from keystay_pkcs11.errors import Place

__all__ = ["POLL_SECONDS", "Session", "SessionPool"]

_numbers = itertools.count(1)

_REGROW_SECONDS = 30.0
POLL_SECONDS = 0.05
"""Seconds between two looks if others have given a session back: nothing tells."""


class Session:
    """One session, used by one thread at a time.

    Attributes:
        native: python-pkcs11's session.
        handle: Its CK_SESSION_HANDLE.
        number: Unlike any other session's of this process.
        buffer: Where its signatures are written.
    """

    __slots__ = ("buffer", "handle", "native", "number")

    def __init__(self, native: NativeSession) -> None:
        self.native = native
        self.handle: int = native.handle  # type: ignore[attr-defined]
        self.number = next(_numbers)
        self.buffer = SignBuffer()


class SessionPool:
    """Sessions to borrow.

    Args:
        open_session: Opens one more; may raise `SessionCount`.
        close_session: Closes one, waiting no longer than a deadline, if any; raises nothing.
        limit: How many may be open at once.
        place: For messages.
    """

    def __init__(
        self,
        open_session: Callable[[Deadline], Session],
        close_session: Callable[[Session, Deadline | None], None],
        limit: int,
        place: Place,
    ) -> None:
        self._open_session, self._close_session = open_session, close_session
        self._limit, self._place = limit, place
        self._lock = threading.Lock()
        self._freed = threading.Condition(self._lock)
        self._idle: list[Session] = []
        self._open = 0
        self._waiting = 0
        self._closed = False
        self._shrunk_to: int | None = None
        self._shrunk_until = 0.0

    @property
    def in_use(self) -> int:
        """Sessions lent out, or being opened, now."""
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
        if self._shrunk_to is not None and time.monotonic() < self._shrunk_until:
            return min(self._limit, self._shrunk_to)
        return self._limit

    def allow(self, limit: int) -> None:
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
                    return self._idle.pop()
                if self._closed or self._open < self.limit:
                    self._open += 1
                else:
                    self._wait(deadline)
                    continue
            try:
                return self._open_session(deadline)
            except SessionCount as error:
                self._shrink(deadline, error)
            except BaseException:
                self._forget()
                raise

    def release(self, session: Session) -> None:
        """Give a session back."""
        with self._lock:
            if not self._closed:
                self._idle.append(session)
                if self._waiting:
                    self._freed.notify()
                return
            self._open -= 1
        self._close_session(session, None)

    def discard(self, session: Session, deadline: Deadline) -> None:
        """Give back a session that is not to be used again."""
        self._close_session(session, deadline)
        self._forget()

    def retire(self) -> None:
        """Count out a session that a call hangs in; whoever lent it closes it in the end."""
        self._forget()

    def flush(self, deadline: Deadline) -> None:
        """Close the sessions nobody uses: they may be dead."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._open -= len(idle)
            self._freed.notify_all()
        for session in idle:
            self._close_session(session, deadline)

    def close(self) -> None:
        """Close every session that is not lent out, and the others when they come back."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
            self._open -= len(idle)
        for session in idle:
            self._close_session(session, None)

    def _forget(self) -> None:
        with self._lock:
            self._open -= 1
            self._freed.notify()

    def _wait(self, deadline: Deadline) -> None:
        """Wait, lock held, until a session may be free."""
        self._waiting += 1
        try:
            # Bounded, so that a pool that shrank notices when it may grow again.
            self._freed.wait(min(deadline.remaining, 1.0))
        finally:
            self._waiting -= 1
        if not deadline.remaining and not self._idle:
            raise self.exhausted(deadline)

    def _shrink(self, deadline: Deadline, error: PKCS11Error) -> None:
        """The token has no more sessions: make do with those that are open, for a while."""
        with self._lock:
            self._open -= 1
            self._shrunk_to = max(1, self._open)
            self._shrunk_until = time.monotonic() + _REGROW_SECONDS
            alone = not self._open
        if not deadline.remaining:
            raise self.exhausted(deadline) from error
        if alone:  # others have them all; nothing tells when they give one back
            time.sleep(min(deadline.remaining, POLL_SECONDS))

    def exhausted(self, deadline: Deadline) -> BackendTimeoutError:
        """The error for a deadline that passed without a session."""
        used, limit = self._open - len(self._idle), self.limit
        return BackendTimeoutError(
            f"No session on {self._place} came free within {deadline.seconds:g} s: {used} are in "
            f"use here, {limit} are allowed.",
            cause="More signatures are asked for at once than the token makes in that time."
            if used
            else "The token's sessions are used up by others (CKR_SESSION_COUNT).",
            hint="Raise max_sessions in [backends.pkcs11] if the token has more to give, sign "
            "less at once, or allow more time.",
            code="session-timeout",
        )
