"""One user's way to a token: connects, lends sessions, and recovers when they are lost.

Recovery climbs: a new session under the same or a new login, then a restart of the module. Each
step is taken once for a call, and none of them after a refused PIN.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from pkcs11.exceptions import PKCS11Error

from keystay.backends import Deadline
from keystay_pkcs11.errors import ckr_name, is_lost, mapped, translate

if TYPE_CHECKING:
    from keystay_pkcs11.connection import Connection
    from keystay_pkcs11.login import Credentials
    from keystay_pkcs11.sessions import Session
    from keystay_pkcs11.token import Token

__all__ = ["Access"]

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

    def connect(self, deadline: Deadline) -> Connection:
        """The connection of now, logged in.

        Raises:
            BackendError: It cannot be had.
        """
        try:
            return self.token.connect(self.credentials, deadline)
        except PKCS11Error as error:
            if not is_lost(error):
                raise translate(error, "opening a session", self.token.place) from error
            return self._restart(self.token.module.epoch, error, deadline)

    def recover(self, connection: Connection, error: PKCS11Error, deadline: Deadline) -> Connection:
        """A connection that may work, after `error` on one that did not.

        Raises:
            BackendError: The error is none that recovery mends, or recovery failed.
        """
        if not is_lost(error):
            raise translate(error, "the call", self.token.place) from error
        if not connection.alive:
            return self.connect(deadline)
        if ckr_name(error) != "CKR_CRYPTOKI_NOT_INITIALIZED":
            try:
                self.token.log_in_again(connection, self.credentials, deadline)
            except PKCS11Error as deeper:
                if not is_lost(deeper):
                    raise translate(deeper, "opening a session", self.token.place) from deeper
                error = deeper
            else:
                return connection
        return self._restart(connection.epoch, error, deadline)

    def run(
        self, what: str, deadline: Deadline, action: Callable[[Connection, Session], _T]
    ) -> tuple[_T, Deadline]:
        """Do something in a session, once more after each step of recovery.

        Args:
            what: For messages, such as `finding the key`.
            deadline: When to give up.
            action: Must be safe to repeat.

        Returns:
            The action's result, and the deadline, later by the time a person took to type a PIN.

        Raises:
            BackendError: It failed for good.
        """
        connection = self.connect(deadline)
        for step in (self.recover, self._restarted, None):
            deadline = Deadline(deadline.at + connection.waited, deadline.seconds)
            connection.waited = 0.0
            session = None
            try:
                session = connection.pool.acquire(deadline)
                with self.token.module.gate.call(deadline):
                    result = action(connection, session)
            except PKCS11Error as error:
                if session is not None:
                    connection.pool.discard(session)
                if step is None or not is_lost(error):
                    raise translate(error, what, self.token.place) from error
                connection = step(connection, error, deadline)
            except BaseException:
                if session is not None:
                    connection.pool.release(session)
                raise
            else:
                connection.pool.release(session)
                return result, deadline
        raise AssertionError("unreachable")  # pragma: no cover

    def close(self) -> None:
        """Let go of the token."""
        self.token.release()

    def _restarted(
        self, connection: Connection, error: PKCS11Error, deadline: Deadline
    ) -> Connection:
        return self._restart(connection.epoch, error, deadline)

    def _restart(self, epoch: int, error: PKCS11Error, deadline: Deadline) -> Connection:
        self.token.module.restart(epoch, error, deadline)
        with mapped("connecting again", self.token.place):
            return self.token.connect(self.credentials, deadline)
