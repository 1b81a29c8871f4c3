"""A token in use, shared by every key and store of this process that works with it."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING

from pkcs11.exceptions import GeneralError, PKCS11Error, UserPinNotInitialized

from keystay.concurrency.forks import detect_fork, reset_after_fork
from keystay.concurrency.locks import DeadlineLock
from keystay.errors import BackendUnavailableError, KeyNotFoundError, LoginError
from keystay_pkcs11 import registry
from keystay_pkcs11.circuit import Circuit
from keystay_pkcs11.connection import Connection
from keystay_pkcs11.errors import Place, closed, is_lost, mapped, translate
from keystay_pkcs11.selection import TokenFacts, TokenQuery, select

if TYPE_CHECKING:
    from pkcs11 import Token as NativeToken

    from keystay.backends import Deadline
    from keystay_pkcs11.login import Credentials, TokenIdentity
    from keystay_pkcs11.module import Module
    from keystay_pkcs11.settings import Settings

__all__ = ["Token", "acquire"]

# Seconds between attempts to see a token; about 0.6 s in all.
_PAUSES = (0.02, 0.04, 0.08, 0.16, 0.32)


class Token:
    """One token.

    Attributes:
        module: Its module.
        facts: What it says of itself.
        place: For messages.
        users: Keys and stores that have it open.
        circuit: Open while it is known to be down.
        confirming: For signatures that want the PIN: were it wrong, it must be tried once.
    """

    def __init__(self, module: Module, facts: TokenFacts) -> None:
        self.module, self.facts = module, facts
        self.place = Place(module.path, facts.label or facts.serial)
        self.users = 0
        self.circuit = Circuit(self.place)
        self.confirming = DeadlineLock(f"connecting to {self.place}")
        self._lock = DeadlineLock(f"connecting to {self.place}")
        self._connection: Connection | None = None
        reset_after_fork(self._reset_after_fork)
        self._rw = False
        self._max_sessions = 1

    def __repr__(self) -> str:
        return f"<Token {self.facts} of {self.module.path}>"

    @property
    def identity(self) -> TokenIdentity:
        """What a refused PIN is remembered for."""
        return self.module.path, self.facts.label, self.facts.serial

    def allow(self, settings: Settings) -> None:
        """Take up a user's wishes; the most generous ones hold."""
        self._rw = self._rw or settings.rw
        self._max_sessions = max(self._max_sessions, settings.max_sessions)
        if (connection := self._connection) is not None:
            connection.allow(rw=self._rw, max_sessions=self._max_sessions)

    def connect(self, credentials: Credentials, deadline: Deadline) -> Connection:
        """The connection of the module's present epoch, logged in.

        One thread connects; the others wait for it, and for its login.

        Raises:
            LoginError, SecretError: As `Connection.log_in`.
            SignerClosedError: Nobody uses it any more.
            BackendUnavailableError: The module does not start, or the token is gone.
            PKCS11Error: The token fails.
        """
        self._check_used()
        epoch = self.module.start(deadline)
        connection = self._connection
        if connection is not None and connection.epoch == epoch:
            return connection
        with self._lock.held(deadline):
            connection = self._connection
            if connection is None or connection.epoch != epoch:
                try:
                    self._connection = connection = self._connect(credentials, deadline)
                finally:
                    self._check_used()
            return connection

    def log_in_again(
        self, connection: Connection, credentials: Credentials, deadline: Deadline
    ) -> None:
        """Hold the login again, if it was lost, and let go of sessions that may be dead.

        Raises:
            LoginError, SecretError, PKCS11Error: As `Connection.log_in`.
            SignerClosedError: Nobody uses it any more.
        """
        with self._lock.held(deadline):
            self._check_used()
            connection.pool.flush(deadline)
            connection.log_in(credentials, deadline)
            self._check_used(connection)

    def release(self) -> None:
        """One user less; the last one logs out and closes the sessions."""
        with registry.registry_lock():
            self.users -= 1
            last = not self.users
            if last:
                self.module.tokens.pop((self.facts.label, self.facts.serial), None)
        if last:
            self._disconnect()
        registry.release(self.module)

    def _reset_after_fork(self) -> None:
        """In a forked child the parent's login and sessions are not ours."""
        self._connection = None

    def connected_in(self, epoch: int) -> bool:
        """Whether it has a connection of that epoch of its module."""
        return self._connection is not None and self._connection.epoch == epoch

    def _check_used(self, connection: Connection | None = None) -> None:
        """Leave nothing behind, of `connection` either, once the last user has let go.

        Raises:
            SignerClosedError: It has.
        """
        if not self.users:
            self._disconnect()
            if connection is not None:
                connection.close()
            self.module.stop()
            raise closed(self.place)

    def _disconnect(self) -> None:
        detect_fork()
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _connect(self, credentials: Credentials, deadline: Deadline) -> Connection:
        for pause in (*_PAUSES, None):
            epoch = self.module.start(deadline)
            native = self._find(deadline)
            if native is not None:
                try:
                    return self._open(native, epoch, credentials, deadline)
                except (PKCS11Error, BackendUnavailableError, LoginError) as error:
                    if not self._is_being_written(error):
                        raise
                    if pause is None or not _look_again(self.module, epoch, pause, deadline):
                        raise
            elif pause is None or not _look_again(self.module, epoch, pause, deadline):
                self.module.give_up(epoch)
                break
        raise BackendUnavailableError(
            f"The {self.place} is not there any more.",
            cause="It was removed, or its daemon is down.",
            hint="Bring it back; it is found again by its label and serial.",
            code="token-gone",
        )

    def _find(self, deadline: Deadline) -> NativeToken | None:
        """The token as it is now; its slot may have another number than before."""
        found, _ = self.module.present_tokens(deadline)
        mine = (self.facts.label, self.facts.serial)
        return next((n for facts, n in found if (facts.label, facts.serial) == mine), None)

    def _open(
        self, native: NativeToken, epoch: int, credentials: Credentials, deadline: Deadline
    ) -> Connection:
        connection = Connection(
            self.module,
            native,
            epoch,
            self.place,
            self.identity,
            rw=self._rw,
            max_sessions=self._max_sessions,
        )
        try:
            connection.log_in(credentials, deadline)
        except BaseException:
            connection.close()
            raise
        self.module.confirm()
        return connection

    def _is_being_written(self, error: Exception) -> bool:
        """Whether this is SoftHSM, stumbling over a token file that another process writes to.

        To a wrong PIN it answers CKR_PIN_INCORRECT (SoftHSMv2 src/lib/slot_mgr/Token.cpp), so
        logging in again after CKR_GENERAL_ERROR, or after it saw a token without a PIN, spends no
        attempt. Of others that is not known.
        """
        softhsm = "softhsm" in self.facts.manufacturer.lower()
        return softhsm and isinstance(
            error.__cause__ or error, GeneralError | UserPinNotInitialized
        )


def acquire(query: TokenQuery, settings: Settings, deadline: Deadline) -> Token:
    """The token a URI means, not logged in yet; `Token.release` must follow.

    Raises:
        KeyNotFoundError: There is none.
        KeyAmbiguousError: There are several.
        ConfigurationError: The module cannot be loaded.
        BackendUnavailableError: It does not start, or fails.
    """
    module = registry.acquire(settings, deadline)
    try:
        epoch = module.epoch
        try:
            found, trouble = module.present_tokens(deadline)
        except PKCS11Error as error:
            # A signer opened earlier may have this module running on a connection that is dead.
            if not is_lost(error):
                raise translate(error, "listing the tokens", module.place) from error
            module.restart(epoch, error, deadline)
            module.start(deadline)
            with mapped("listing the tokens", module.place):
                found, trouble = module.present_tokens(deadline)
        for pause in (*_PAUSES, None):
            try:
                facts = select([facts for facts, _ in found], query, module.place, trouble)
                break
            except KeyNotFoundError:
                if pause is None or not _look_again(module, module.epoch, pause, deadline):
                    raise
            with mapped("listing the tokens", module.place):
                found, trouble = module.present_tokens(deadline)
        with registry.registry_lock():
            key = (facts.label, facts.serial)
            token = module.tokens.get(key)
            if token is None:
                token = module.tokens[key] = Token(module, facts)
            token.users += 1
    except BaseException:
        registry.release(module)
        raise
    token.allow(settings)
    return token


def _look_again(module: Module, epoch: int, pause: float, deadline: Deadline) -> bool:
    """Pause, more or less, and let the module start anew; False if it may not."""
    time.sleep(min(pause * random.uniform(0.5, 1.5), deadline.remaining))  # noqa: S311 - no secret
    return module.look_again(epoch, deadline)
