"""What one start of a module gives us on one token: a login and sessions. Dies with the epoch."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from pkcs11 import TokenFlag
from pkcs11.exceptions import PKCS11Error

from keystay.backends import Deadline
from keystay.errors import BackendTimeoutError
from keystay_pkcs11.attributes import AttributeMapper
from keystay_pkcs11.errors import Place, is_lost
from keystay_pkcs11.login import Credentials, TokenIdentity, check_flags, log_in
from keystay_pkcs11.sessions import Session, SessionPool

if TYPE_CHECKING:
    from pkcs11 import Token as NativeToken

    from keystay_pkcs11.module import Module

__all__ = ["Connection"]

_CLOSE_SECONDS = 2.0


class Connection:
    """A login, held by one session, and a pool of sessions that inherit it.

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
        self._logged_in_here = False
        self.pool = SessionPool(self._open_session, self._close_session, max_sessions, place)

    @property
    def login_required(self) -> bool:
        """Whether the token has a login at all."""
        return bool(self.native.flags & TokenFlag.LOGIN_REQUIRED)

    @property
    def alive(self) -> bool:
        """Whether its handles still mean something."""
        return self.epoch == self.module.epoch and self.module.pid == os.getpid()

    def log_in(self, credentials: Credentials, deadline: Deadline) -> None:
        """Hold a login, anew if it was lost. The caller keeps other threads out.

        Raises:
            LoginError: The PIN is missing, refused or not tried.
            SecretError: Its reference cannot be resolved.
            PKCS11Error: The token fails.
        """
        gate, cryptoki = self.module.gate, self.module.cryptoki
        with gate.call(deadline):
            holder = self._live_holder(credentials.user_type)
            if not self.login_required or cryptoki.logged_in(holder.handle, credentials.user_type):
                return
            flags = self.native.slot.get_token().flags
        check_flags(flags, credentials.user_type, self._place)
        started = time.monotonic()
        if flags & TokenFlag.PROTECTED_AUTHENTICATION_PATH:
            secret = credentials.pin(self._place)  # without one, it is entered at the device
        else:
            secret = credentials.require_pin(self._place)
        self.waited = time.monotonic() - started
        deadline = Deadline(deadline.at + self.waited, deadline.seconds)
        with gate.call(deadline):
            self._logged_in_here = log_in(
                cryptoki,
                holder.handle,
                credentials.user_type,
                secret.reveal().encode() if secret is not None else None,
                self._identity,
                self._place,
            )

    def allow(self, *, rw: bool, max_sessions: int) -> None:
        """Let sessions opened from now on be read-write, and be more."""
        self._rw = self._rw or rw
        self.pool.allow(max_sessions)

    def open_session(self, deadline: Deadline, *, rw: bool) -> Session:
        """A session outside the pool; the caller closes it with `close_session`.

        Raises:
            PKCS11Error: The token fails.
        """
        with self.module.gate.call(deadline):
            return Session(self.native.open(rw=rw, attribute_mapper=self._mapper))

    def close_session(self, session: Session) -> None:
        """Close a session; whatever goes wrong, it is not used again."""
        self._close_session(session)

    def close(self) -> None:
        """Give back the sessions, and the login if it is ours."""
        self.pool.close()
        holder, self._holder = self._holder, None
        if holder is None or not self.alive:
            return
        with (
            suppress(PKCS11Error, BackendTimeoutError),
            self.module.gate.call(Deadline.after(_CLOSE_SECONDS)),
        ):
            try:
                if self._logged_in_here:
                    self.module.cryptoki.logout(holder.handle)
            finally:
                holder.native.close()

    def _live_holder(self, user_type: int) -> Session:
        if self._holder is not None:
            try:
                self.module.cryptoki.logged_in(self._holder.handle, user_type)
            except PKCS11Error as error:
                if not is_lost(error):
                    raise
                self._holder = None
        if self._holder is None:
            self._holder = Session(self.native.open(rw=self._rw, attribute_mapper=self._mapper))
        return self._holder

    def _open_session(self, deadline: Deadline) -> Session:
        return self.open_session(deadline, rw=self._rw)

    def _close_session(self, session: Session) -> None:
        if self.alive:
            with (
                suppress(PKCS11Error, BackendTimeoutError),
                self.module.gate.call(Deadline.after(_CLOSE_SECONDS)),
            ):
                session.native.close()
