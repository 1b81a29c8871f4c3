"""One user's way to a token: connects, lends sessions, and recovers when they are lost.

Recovery climbs a ladder: the key is found again, in a new session, under a new login, after a
restart of the module. A call takes each rung once, the last again whenever the module may restart,
and none of them after a refused PIN. What is lost after the last rung opens the token's circuit.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pkcs11.exceptions import PKCS11Error

from keystay.backends import Deadline
from keystay_pkcs11.errors import KeyVanishedError, ckr_name, closed, is_lost, translate

if TYPE_CHECKING:
    from keystay_pkcs11.connection import Connection
    from keystay_pkcs11.login import Credentials
    from keystay_pkcs11.sessions import Session
    from keystay_pkcs11.token import Token

__all__ = ["Access", "Climb"]

_T = TypeVar("_T")


class Access:
    """A token, and how to log in to it.

    Args:
        token: Acquired; released by `close`.
        credentials: How to log in, now and after a loss.
        module_path: The module's path as the user wrote it.

    Attributes:
        token: The token.
        credentials: How to log in.
        module_path: The module's path as the user wrote it.
    """

    def __init__(self, token: Token, credentials: Credentials, module_path: str) -> None:
        self.token = token
        self.module_path = module_path
        self.credentials = credentials
        self._closed = False

    def connect(self, deadline: Deadline) -> Connection:
        """The connection of now, logged in.

        Raises:
            SignerClosedError: It is closed.
            BackendError: It cannot be had.
        """
        return self._connect("opening a session", deadline)

    def restart(self, epoch: int, error: PKCS11Error, deadline: Deadline) -> Connection:
        """A connection to the module, started anew.

        Args:
            epoch: The module's epoch in which calls failed.
            error: How they failed.
            deadline: When to give up.

        Raises:
            BackendError: It cannot be had.
        """
        self.token.module.restart(epoch, error, deadline)
        return self._connect("connecting again", deadline, has_restarted=True)

    def run(
        self, what: str, deadline: Deadline, action: Callable[[Connection, Session], _T]
    ) -> tuple[_T, Deadline]:
        """Do something in a session, once more after each rung, unless the circuit is open.

        Args:
            what: For messages, such as `finding the key`.
            deadline: When to give up.
            action: Must be safe to repeat.

        Returns:
            The action's result, and the deadline, later by the time a person took to type a PIN.

        Raises:
            BackendError: It failed for good.
        """
        circuit = self.token.circuit
        probing = circuit.enter(deadline)
        try:
            found = self.attempt(what, deadline, action)
        except BaseException as error:
            circuit.ended(probing, error)
            raise
        circuit.ended(probing)
        return found

    def attempt(
        self, what: str, deadline: Deadline, action: Callable[[Connection, Session], _T]
    ) -> tuple[_T, Deadline]:
        """As `run`, whatever the circuit says: for the call that is already let through."""
        climb = Climb(self, what)
        connection = self.connect(deadline)
        while True:
            deadline = deadline.extended(connection.waited)
            connection.waited = 0.0
            try:
                return connection.lend(action, deadline), deadline
            except PKCS11Error as error:
                connection = climb.up(connection, error, deadline)

    def close(self) -> None:
        """Let go of the token."""
        self._closed = True
        self.token.release()

    def check_open(self) -> None:
        """Nothing is recovered for whoever has closed it meanwhile.

        Raises:
            SignerClosedError: It is closed.
        """
        if self._closed:
            raise closed(self.token.place)

    def _connect(self, what: str, deadline: Deadline, *, has_restarted: bool = False) -> Connection:
        module = self.token.module
        while True:
            self.check_open()
            epoch = module.epoch
            try:
                return self.token.connect(self.credentials, deadline)
            except PKCS11Error as error:
                is_last = has_restarted and (not module.may_restart or module.epoch != epoch)
                if not is_lost(error) or is_last:
                    raise translate(error, what, self.token.place) from error
                has_restarted = True  # by another thread, if that epoch is over
                module.restart(epoch, error, deadline)


class Climb:
    """The rungs that one call has left.

    Args:
        access: The way to the token.
        what: For messages, such as `signing`.
    """

    def __init__(self, access: Access, what: str) -> None:
        self._access, self._what = access, what
        self._has_logged_in = self._has_restarted = False

    def up(self, connection: Connection, error: PKCS11Error, deadline: Deadline) -> Connection:
        """A connection that may work, after `error` on one that did not.

        Raises:
            SignerClosedError: The access was closed meanwhile: no wonder then.
            BackendError: The error is none that recovery mends, or recovery failed.
        """
        access, token = self._access, self._access.token
        access.check_open()
        if not is_lost(error):
            raise translate(error, self._what, token.place) from error
        if not connection.alive:  # another thread has restarted the module since: no rung of ours
            return access.connect(deadline)
        if not self._has_logged_in and ckr_name(error) != "CKR_CRYPTOKI_NOT_INITIALIZED":
            self._has_logged_in = True
            try:
                token.log_in_again(connection, access.credentials, deadline)
            except PKCS11Error as deeper:
                if not is_lost(deeper):
                    raise translate(deeper, "opening a session", token.place) from deeper
                error = deeper
            else:
                return connection
        is_last = self._has_restarted or isinstance(error, KeyVanishedError)
        if is_last and not token.module.may_restart:
            raise translate(error, self._what, token.place) from error
        self._has_logged_in = self._has_restarted = True  # a restart logs in
        return access.restart(connection.epoch, error, deadline)
