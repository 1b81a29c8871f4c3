"""How a call recovers from a loss on its way to a token: level by level.

| level    | what is done                                       | how often in one call            |
|----------|----------------------------------------------------|----------------------------------|
| `KEY`    | the key is found again in the same session         | once, if its handle was lost     |
| `LOGIN`  | a new session; a new login if the old one is lost  | once                             |
| `MODULE` | the module is restarted, the token connected again | once, and whenever that may be   |

Each failure that recovery can mend leads to the next level. One that it cannot mend, such as a
refused PIN, ends the call, and so does a failure after the last level: that opens the token's
circuit breaker. A connection whose generation is over, because another thread has restarted the
module, is replaced without a level.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, TypeVar

from pkcs11.exceptions import PKCS11Error

from keystay.backends import Deadline
from keystay_pkcs11 import token as tokens
from keystay_pkcs11.errors import TEXTS, KeyVanishedError, ckr_name, is_lost, translate
from keystay_pkcs11.login import Credentials
from keystay_pkcs11.settings import Settings
from keystay_pkcs11.uri import TokenQuery

if TYPE_CHECKING:
    from keystay.backends import BackendContext
    from keystay.key_uri import KeyURI
    from keystay_pkcs11.sessions import Session
    from keystay_pkcs11.token import Connection, Token

__all__ = ["Level", "Recovery", "TokenAccess"]

_T = TypeVar("_T")


class TokenAccess:
    """A token in use by one key or store, which closes it.

    Attributes:
        token: The token, acquired.
        credentials: How to log in, now and after a loss.
        module_path: The module's path as the user wrote it.
        is_closed: Whether it was closed.
    """

    def __init__(self, token: Token, credentials: Credentials, module_path: str) -> None:
        self.token, self.credentials, self.module_path = token, credentials, module_path
        self.is_closed = False

    @classmethod
    def open(cls, uri: KeyURI, context: BackendContext, deadline: Deadline) -> TokenAccess:
        """The token a URI means; it is logged in to when first used.

        Raises:
            KeyURIError, ConfigurationError: The URI or the settings cannot be used.
            KeyNotFoundError, KeyAmbiguousError: No token, or several, match.
            BackendUnavailableError: The module does not start.
        """
        settings = Settings.read(uri, context.settings)
        credentials = Credentials(settings.pin_source, context.secrets, settings.user_type)
        token = tokens.acquire(TokenQuery.of(uri), settings, deadline)
        return cls(token, credentials, settings.module)

    def run(self, what: str, deadline: Deadline, action: Callable[[Connection, Session], _T]) -> _T:
        """As `Recovery.run`, unless the circuit breaker is open."""
        with self.token.breaker.guard(deadline):
            return Recovery(self, deadline).run(what, action)

    def check_open(self) -> None:
        """Nothing is recovered for a key that was closed meanwhile.

        Raises:
            SignerClosedError: It is closed.
        """
        if self.is_closed:
            raise TEXTS.error("closed-meanwhile", place=self.token.place)

    def close(self) -> None:
        """Release the token. Idempotent."""
        if not self.is_closed:
            self.is_closed = True
            self.token.release()


class Level(IntEnum):
    """What recovery has done last; see above."""

    NONE, KEY, LOGIN, MODULE = range(4)


class Recovery:
    """One call's.

    Attributes:
        deadline: When to give up; later by the time that a person took to type a PIN.
        level: The last one taken.
    """

    __slots__ = ("_access", "deadline", "level")

    def __init__(self, access: TokenAccess, deadline: Deadline) -> None:
        self._access, self.deadline = access, deadline
        self.level = Level.NONE

    def run(self, what: str, action: Callable[[Connection, Session], _T]) -> _T:
        """What an action does in a session; done again after each level.

        Args:
            what: For messages, such as `finding the key`.
            action: Must be safe to repeat.

        Raises:
            BackendError: It failed for good.
        """
        connection = self.connect()
        while True:
            try:
                return connection.lend(action, self.deadline)
            except PKCS11Error as error:
                connection = self.next_level(what, connection, error)

    def connect(self, what: str = "opening a session") -> Connection:
        """The present connection, logged in.

        Raises:
            SignerClosedError: The access is closed.
            BackendError: The token cannot be reached.
        """
        access, token = self._access, self._access.token
        module = token.module
        access.check_open()
        while True:
            generation = module.generation
            try:
                return self._logged_in(token.connect(access.credentials, self.deadline))
            except PKCS11Error as error:
                access.check_open()
                # If that generation is over, another thread has restarted the module.
                is_last = not module.may_restart or module.generation != generation
                if not is_lost(error) or (self.level is Level.MODULE and is_last):
                    raise translate(error, what, token.place) from error
                self.level = Level.MODULE
                module.restart(generation, error, self.deadline)

    def next_level(self, what: str, connection: Connection, error: PKCS11Error) -> Connection:
        """A connection that may work, after `error` on one that did not.

        Raises:
            SignerClosedError: The access was closed meanwhile, which explains the error.
            BackendError: The error is none that recovery mends, or recovery failed.
        """
        access, token = self._access, self._access.token
        access.check_open()
        if not is_lost(error):
            raise translate(error, what, token.place) from error
        if not connection.is_alive:
            return self.connect()
        if self.level < Level.LOGIN and ckr_name(error) != "CKR_CRYPTOKI_NOT_INITIALIZED":
            self.level = Level.LOGIN
            try:
                token.log_in_again(connection, access.credentials, self.deadline)
                return self._logged_in(connection)
            except PKCS11Error as deeper:
                if not is_lost(deeper):
                    raise translate(deeper, "opening a session", token.place) from deeper
                error = deeper
        is_last = self.level is Level.MODULE or isinstance(error, KeyVanishedError)
        if is_last and not token.module.may_restart:
            raise translate(error, what, token.place) from error
        self.level = Level.MODULE
        token.module.restart(connection.generation, error, self.deadline)
        return self.connect("connecting again")

    def _logged_in(self, connection: Connection) -> Connection:
        self.deadline = self.deadline.extended(connection.waited)
        connection.waited = 0.0
        return connection
