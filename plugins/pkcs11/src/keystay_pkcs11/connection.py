"""What one start of a module gives us on one token: a login and sessions. Dies with the epoch."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pkcs11 import TokenFlag
from pkcs11.exceptions import PKCS11Error, SessionCount

from keystay.concurrency.clock import Deadline
from keystay.concurrency.forks import detect_fork
from keystay.errors import BackendUnavailableError
from keystay_pkcs11.attributes import AttributeMapper
from keystay_pkcs11.errors import Place, is_lost
from keystay_pkcs11.login import (
    Credentials,
    TokenIdentity,
    check_flags,
    log_in,
    refused_pins,
    warn_if_low,
)
from keystay_pkcs11.sessions import POLL_SECONDS, Session, SessionPool

if TYPE_CHECKING:
    from pkcs11 import Token as NativeToken

    from keystay_pkcs11.module import Module

__all__ = ["Connection"]

_T = TypeVar("_T")

_CLOSE_SECONDS = 2.0


class Connection:
    """A login, held by one session, and a pool of sessions that inherit it.

    A token that has one session only works too: the one that holds the login then signs as well.

    Attributes:
        module: The module.
        native: python-pkcs11's token.
        epoch: The module's epoch this belongs to.
        pool: The sessions to work with.
        waited: Seconds that getting hold of the PIN took: a person may have typed it.

    Args:
        module: The module, started.
        native: The token.
        epoch: The module's epoch.
        place: For messages.
        identity: What a refused PIN is remembered for.
        rw: Whether sessions are read-write.
        max_sessions: Sessions of the pool.
    """

    def __init__(
        self,
        module: Module,
        native: NativeToken,
        epoch: int,
        place: Place,
        identity: TokenIdentity,
        *,
        rw: bool,
        max_sessions: int,
    ) -> None:
        self.module, self.native, self.epoch = module, native, epoch
        self.waited = 0.0
        self._place, self._identity = place, identity
        self._rw = rw
        self._mapper = AttributeMapper()
        self._holder: Session | None = None
        self._holder_lent = False
        self._logged_in_here = False
        self._closed = self._stuck = False
        self.pool = SessionPool(self._open_for_pool, self.close_session, max_sessions, place)

    @property
    def login_required(self) -> bool:
        """Whether the token has a login at all."""
        return bool(self.native.flags & TokenFlag.LOGIN_REQUIRED)

    @property
    def alive(self) -> bool:
        """Whether its handles still mean something."""
        detect_fork()
        return self.epoch == self.module.epoch

    def log_in(self, credentials: Credentials, deadline: Deadline) -> None:
        """Hold a login, anew if it was lost. The caller keeps other threads out.

        Raises:
            LoginError: The PIN is missing, refused or not tried.
            SecretError: Its reference cannot be resolved.
            BackendTimeoutError: The token did not answer, or had no session to give.
            PKCS11Error: The token fails.
        """
        module = self.module

        def look() -> tuple[Session, bool, TokenFlag]:
            holder = self._live_holder(credentials.user_type)
            done = not self.login_required or module.cryptoki.logged_in(
                holder.handle, credentials.user_type
            )
            return holder, done, self.native.flags if done else self.native.slot.get_token().flags

        holder, done, flags = self._when_free(lambda: self.call(look, deadline), deadline)
        if done:
            return
        check_flags(flags, credentials.user_type, self._place)
        started = time.monotonic()
        if flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH:
            secret = credentials.pin(self._place)  # without one, it is entered at the device
        else:
            secret = credentials.require_pin(self._place)
        self.waited = time.monotonic() - started
        deadline = deadline.extended(self.waited)
        pin = secret.reveal().encode() if secret is not None else None
        if pin is not None:
            refused_pins.check(self._identity, pin, self._place)
        warn_if_low(flags, credentials.user_type, self._place)
        self._logged_in_here = self.call(
            lambda: log_in(
                module.cryptoki,
                holder.handle,
                credentials.user_type,
                pin,
                self._identity,
                self._place,
            ),
            deadline,
        )

    def allow(self, *, rw: bool, max_sessions: int) -> None:
        """Let sessions opened from now on be read-write, and be more."""
        self._rw = self._rw or rw
        self.pool.allow(max_sessions)

    def call(
        self,
        function: Callable[[], _T],
        deadline: Deadline,
        *,
        on_abandon: Callable[[], object] | None = None,
        late: Callable[[_T | None], object] | None = None,
    ) -> _T:
        """As `Module.call`, with handles of this connection.

        Raises:
            BackendTimeoutError, PKCS11Error: As there.
        """
        return self.module.call(
            function, deadline, epoch=self.epoch, on_abandon=on_abandon, late=late
        )

    def lend(self, action: Callable[[Connection, Session], _T], deadline: Deadline) -> _T:
        """What an action does with a session of the pool, inside the module.

        Raises:
            BackendTimeoutError: No session came free in time, or the action did not return.
            PKCS11Error: The token failed; that session is not used again.
        """
        session: Session | None = self.pool.acquire(deadline)
        lent = session
        assert lent is not None

        def abandoned() -> None:
            nonlocal session
            session = None
            self.pool.retire()

        try:
            return self.call(
                lambda: action(self, lent),
                deadline,
                on_abandon=abandoned,
                late=self.closes(lent),
            )
        except PKCS11Error:
            if session is not None:
                session = None
                self.pool.discard(lent, deadline)
            raise
        finally:
            if session is not None:
                self.pool.release(session)

    def open_session(self, deadline: Deadline, *, rw: bool) -> Session:
        """A session outside the pool; the caller closes it with `close_session`.

        Raises:
            BackendTimeoutError: The token did not answer, or had no session to give.
            PKCS11Error: The token fails.
        """
        return self._when_free(lambda: self._open(deadline, rw=rw), deadline)

    def close_session(self, session: Session, deadline: Deadline | None = None) -> None:
        """Close a session; whatever goes wrong, it is not used again.

        Not waited for longer than a moment, nor beyond the deadline of a caller who has one.
        """
        log_out = False
        if session is self._holder:
            self._holder, self._holder_lent = None, False
            log_out = self._closed and self._logged_in_here
        if not self.alive or self._stuck:
            return

        def close() -> None:
            try:
                if log_out:
                    self.module.cryptoki.logout(session.handle)
            finally:
                session.native.close()

        left = _CLOSE_SECONDS if deadline is None else min(_CLOSE_SECONDS, deadline.remaining)
        try:
            self.call(close, Deadline.after(left))
        except PKCS11Error:
            pass  # it is gone
        except BackendUnavailableError:
            # The others would not close either: do not wait for each.
            self._stuck = self._stuck or left == _CLOSE_SECONDS

    def closes(self, session: Session) -> Callable[[object], None]:
        """What closes a session once the abandoned call in it is over after all."""
        return lambda _: self.close_session(session)

    def close(self) -> None:
        """Give back the sessions, and the login if it is ours."""
        self._closed = True
        self._stuck = self._stuck or bool(self.module.workers.abandoned)
        self.pool.close()
        if self._holder is not None and not self._holder_lent:
            self.close_session(self._holder)

    def _live_holder(self, user_type: int) -> Session:
        if self._holder is not None:
            try:
                self.module.cryptoki.logged_in(self._holder.handle, user_type)
            except PKCS11Error as error:
                if not is_lost(error):
                    raise
                self._holder, self._holder_lent = None, False
        if self._holder is None:
            self._holder = Session(self.native.open(rw=self._rw, attribute_mapper=self._mapper))
        return self._holder

    def _open_for_pool(self, deadline: Deadline) -> Session:
        """One more session; the holder's where the token has no other to give."""
        try:
            return self._open(deadline, rw=self._rw)
        except SessionCount:
            if self._holder is None or self._holder_lent or not self.pool.has_none_but_one:
                raise
            self._holder_lent = True
            return self._holder

    def _open(self, deadline: Deadline, *, rw: bool) -> Session:
        def open_one() -> Session:
            return Session(self.native.open(rw=rw, attribute_mapper=self._mapper))

        def close_again(session: Session | None) -> None:
            if session is not None:
                self.close_session(session)

        return self.call(open_one, deadline, late=close_again)

    def _when_free(self, call: Callable[[], _T], deadline: Deadline) -> _T:
        """What a call returns as soon as the token has a session for it."""
        while True:
            try:
                return call()
            except SessionCount as error:
                if not deadline.remaining:
                    raise self.pool.exhausted(deadline) from error
                time.sleep(min(deadline.remaining, POLL_SECONDS))
