"""A token in use: one for all keys and stores of this process that work with it.

A *connection* is what one generation of the module gives on it: a login and a pool of sessions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from pkcs11 import TokenFlag
from pkcs11.exceptions import GeneralError, PKCS11Error, SessionCount, UserPinNotInitialized

from keystay.concurrency.clock import Deadline, backoff
from keystay.concurrency.forks import detect_fork, reset_after_fork
from keystay.concurrency.locks import DeadlineLock
from keystay.errors import BackendUnavailableError, KeyNotFoundError, LoginError
from keystay_pkcs11 import module as modules
from keystay_pkcs11.circuit_breaker import CircuitBreaker
from keystay_pkcs11.errors import TEXTS, Place, ckr_name, is_lost, translated
from keystay_pkcs11.login import choose_pin, log_in
from keystay_pkcs11.objects import AttributeMapper
from keystay_pkcs11.sessions import POLL_SECONDS, Session, SessionPool
from keystay_pkcs11.uri import TokenFacts, TokenQuery, select

if TYPE_CHECKING:
    from pkcs11 import Token as NativeToken

    from keystay_pkcs11.login import Credentials, TokenIdentity
    from keystay_pkcs11.module import Module
    from keystay_pkcs11.settings import Settings

    _Found = tuple[TokenFacts, NativeToken]

__all__ = ["Connection", "Token", "acquire", "present_tokens"]

_T = TypeVar("_T")

_MOST_LOOKS = 5  # for a token that is missing, in one call
_FIRST_PAUSE, _LONGEST_PAUSE = 0.03, 0.5  # between them, in seconds; about 0.7 s in all
_CLOSE_SECONDS = 2.0


class Connection:
    """A login, held by one session, and a pool of sessions that inherit it.

    A token that has one session only works too: the one that holds the login then signs as well.

    Attributes:
        module: The module.
        facts: What the token reports of itself now.
        native: python-pkcs11's token.
        generation: The module's generation this belongs to.
        pool: The sessions to work with.
        authenticating: For signatures that want the PIN: were it wrong, it must be tried once.
        waited: Seconds that getting hold of the PIN took: a person may have typed it.

    Args:
        token: The token.
        found: What it reports of itself now, and python-pkcs11's token.
        generation: The module's generation.
    """

    def __init__(self, token: Token, found: _Found, generation: int) -> None:
        self.module: Module = token.module
        (self.facts, self.native), self.generation = found, generation
        self.authenticating = DeadlineLock(f"connecting to {token.place}")
        self.waited = 0.0
        self._token = token
        self._mapper = AttributeMapper()
        self._holder: Session | None = None
        self._is_holder_lent = self._is_logged_in_here = False
        self._is_closed = self._is_stuck = False
        self.pool = SessionPool(
            self._open_for_pool,
            self.close_session,
            token.max_sessions,
            token.place,
            self.module.clock,
        )

    @property
    def is_alive(self) -> bool:
        """Whether its handles are still valid."""
        detect_fork()
        return self.generation == self.module.generation

    def log_in(self, credentials: Credentials, deadline: Deadline) -> None:
        """Log in, unless the login still holds. The caller keeps other threads out.

        Raises:
            LoginError: The PIN is missing, refused or not tried.
            SecretError: Its reference cannot be resolved.
            BackendTimeoutError: The token did not answer, or had no session to give.
            PKCS11Error: The token fails.
        """
        cryptoki, token, user_type = self.module.cryptoki, self._token, credentials.user_type

        def look() -> tuple[Session, TokenFlag | None]:
            """The session that holds the login, and the token's flags if it does not."""
            holder = self._live_holder(user_type)
            wants_login = self.native.flags & TokenFlag.LOGIN_REQUIRED
            if not wants_login or cryptoki.logged_in(holder.handle, user_type):
                return holder, None
            return holder, self.native.slot.get_token().flags

        holder, flags = self._when_free(lambda: self._call(look, deadline), deadline)
        if flags is None:
            return
        started = self.module.clock.now()
        pin = choose_pin(credentials, flags, token.identity, token.place)
        self.waited = self.module.clock.now() - started
        send = partial(cryptoki.login, holder.handle, user_type, pin)
        self._is_logged_in_here = self._call(
            partial(log_in, send, pin, token.identity, self.generation, token.place),
            deadline.extended(self.waited),
        )

    def lend(self, action: Callable[[Connection, Session], _T], deadline: Deadline) -> _T:
        """What an action does with a session of the pool, inside the module.

        Raises:
            BackendTimeoutError: No session came free in time, or the action did not return.
            PKCS11Error: The token failed; that session is not used again.
        """
        session = self.pool.acquire(deadline)
        try:
            return self.call(session, partial(action, self, session), deadline)
        except PKCS11Error:
            self.pool.discard(session, deadline)
            raise
        finally:
            self.pool.release(session)

    def call(self, session: Session, function: Callable[[], _T], deadline: Deadline) -> _T:
        """What a function returns that calls the module with a session of the pool.

        Raises:
            BackendTimeoutError: It did not return in time; the session is retired.
            PKCS11Error: The token failed.
        """
        return self.module.call(
            function,
            deadline,
            generation=self.generation,
            on_abandon=partial(self.pool.retire, session),
            late=lambda _: self.close_session(session),
        )

    def open_session(self, deadline: Deadline, *, rw: bool) -> Session:
        """A session outside the pool; the caller closes it.

        Raises:
            BackendTimeoutError: The token did not answer, or had no session to give.
            PKCS11Error: The token fails.
        """
        return self._when_free(lambda: self._open(deadline, rw=rw), deadline)

    def close_session(self, session: Session, deadline: Deadline | None = None) -> None:
        """Close a session; if that fails, it is not used again either.

        Not waited for longer than a moment, nor beyond the deadline of a caller who has one.
        """
        log_out = False
        if session is self._holder:
            self._holder, self._is_holder_lent = None, False
            log_out = self._is_closed and self._is_logged_in_here
        if not self.is_alive or self._is_stuck:
            return

        def close() -> None:
            try:
                if log_out:
                    self.module.cryptoki.logout(session.handle)
            finally:
                session.native.close()

        left = _CLOSE_SECONDS if deadline is None else min(_CLOSE_SECONDS, deadline.remaining)
        try:
            self._call(close, Deadline.after(left))
        except PKCS11Error:
            pass  # it is gone
        except BackendUnavailableError:
            # The others would not close either: do not wait for each.
            self._is_stuck = self._is_stuck or left == _CLOSE_SECONDS

    def close(self) -> None:
        """Close the sessions, and log out if the login is ours."""
        self._is_closed = True
        self._is_stuck = self._is_stuck or bool(self.module.workers.abandoned)
        self.pool.close()
        if self._holder is not None and not self._is_holder_lent:
            self.close_session(self._holder)

    def _call(
        self,
        function: Callable[[], _T],
        deadline: Deadline,
        late: Callable[[_T | None], object] | None = None,
    ) -> _T:
        return self.module.call(function, deadline, generation=self.generation, late=late)

    def _live_holder(self, user_type: int) -> Session:
        if self._holder is not None:
            try:
                self.module.cryptoki.logged_in(self._holder.handle, user_type)
            except PKCS11Error as error:
                if not is_lost(error):
                    raise
                self._holder, self._is_holder_lent = None, False
        if self._holder is None:
            self._holder = self._new_session(rw=self._token.rw)
        return self._holder

    def _open_for_pool(self, deadline: Deadline) -> Session:
        """One more session; the holder's where the token has no other to give."""
        try:
            return self._open(deadline, rw=self._token.rw)
        except SessionCount:
            if self._holder is None or self._is_holder_lent or not self.pool.has_none_but_one:
                raise
            self._is_holder_lent = True
            return self._holder

    def _open(self, deadline: Deadline, *, rw: bool) -> Session:
        def close_again(session: Session | None) -> None:
            if session is not None:
                self.close_session(session)

        return self._call(partial(self._new_session, rw=rw), deadline, close_again)

    def _new_session(self, *, rw: bool) -> Session:
        return Session(self.native.open(rw=rw, attribute_mapper=self._mapper))

    def _when_free(self, call: Callable[[], _T], deadline: Deadline) -> _T:
        """What a call returns as soon as the token has a session for it."""
        while True:
            try:
                return call()
            except SessionCount as error:
                if not deadline.remaining:
                    raise self.pool.exhausted(deadline) from error
                self.module.clock.sleep(min(deadline.remaining, POLL_SECONDS))


class Token:
    """One token.

    Attributes:
        module: Its module.
        facts: What it reports of itself.
        place: For messages.
        users: Keys and stores that have it open.
        breaker: Open while it is known to be down.
        connection: The last one, or None.
        rw: Whether sessions opened from now on are read-write.
        max_sessions: Sessions that sign at most.
    """

    def __init__(self, module: Module, facts: TokenFacts) -> None:
        self.module, self.facts = module, facts
        self.place = Place(module.path, facts.label or facts.serial)
        self.users = 0
        self.breaker = CircuitBreaker(self.place, module.clock)
        self.connection: Connection | None = None
        self.rw, self.max_sessions = False, 1
        self._lock = DeadlineLock(f"connecting to {self.place}")
        reset_after_fork(self._reset_after_fork)

    def __repr__(self) -> str:
        return f"<Token {self.facts} of {self.module.path}>"

    @property
    def identity(self) -> TokenIdentity:
        """What a refused PIN is remembered for."""
        return self.module.path, *self.facts.identity

    def extend(self, settings: Settings) -> None:
        """Take up what another user asks for; the most generous settings hold."""
        self.rw = self.rw or settings.rw
        self.max_sessions = max(self.max_sessions, settings.max_sessions)
        if (connection := self.connection) is not None:
            connection.pool.grow_to(self.max_sessions)

    def connect(self, credentials: Credentials, deadline: Deadline) -> Connection:
        """The connection of the module's present generation, logged in.

        One thread connects; the others wait for it, and for its login.

        Raises:
            LoginError, SecretError: As `Connection.log_in`.
            SignerClosedError: It has no users any more.
            BackendUnavailableError: The module does not start, or the token is gone.
            PKCS11Error: The token fails.
        """
        self._check_used()
        generation = self.module.start(deadline)
        connection = self.connection
        if connection is not None and connection.generation == generation:
            return connection
        with self._lock.held(deadline):
            connection = self.connection
            if connection is None or connection.generation != generation:
                try:
                    self.connection = connection = self._connect(credentials, deadline)
                finally:
                    self._check_used()
            return connection

    def log_in_again(
        self, connection: Connection, credentials: Credentials, deadline: Deadline
    ) -> None:
        """Log in again, if the login was lost, and close sessions that may be dead.

        Raises:
            LoginError, SecretError, PKCS11Error: As `Connection.log_in`.
            SignerClosedError: It has no users any more.
        """
        with self._lock.held(deadline):
            self._check_used()
            connection.pool.flush(deadline)
            connection.log_in(credentials, deadline)
            self._check_used(connection)

    def release(self) -> None:
        """One user less; the last one logs out and closes the sessions."""
        with modules.registry.lock:
            self.users -= 1
            is_last = not self.users
            if is_last:
                _tokens.pop(self.identity, None)
        if is_last:
            self._disconnect()
        modules.release(self.module)

    def _reset_after_fork(self) -> None:
        """In a forked child the parent's login and sessions are not ours."""
        self.connection = None

    def _check_used(self, connection: Connection | None = None) -> None:
        """Leave nothing behind, of `connection` either, once the last user has closed.

        Raises:
            SignerClosedError: It has.
        """
        if not self.users:
            self._disconnect()
            if connection is not None:
                connection.close()
            self.module.stop()
            raise TEXTS.error("closed-meanwhile", place=self.place)

    def _disconnect(self) -> None:
        detect_fork()
        connection, self.connection = self.connection, None
        self.module.mark_unused(self)
        if connection is not None:
            connection.close()

    def _connect(self, credentials: Credentials, deadline: Deadline) -> Connection:
        looks = 1
        while True:
            generation = self.module.start(deadline)
            found = self._find(deadline)
            if found is not None:
                try:
                    return self._open(found, generation, credentials, deadline)
                except (PKCS11Error, BackendUnavailableError, LoginError) as error:
                    if not self._is_being_written(error):
                        raise
                    if not _may_look_again(self.module, generation, looks, deadline):
                        raise
            elif not _may_look_again(self.module, generation, looks, deadline):
                self.module.mark_missing(generation)
                raise TEXTS.error("token-gone", place=self.place)
            looks += 1

    def _find(self, deadline: Deadline) -> _Found | None:
        """The token as it is now; its slot may have another number than before."""
        present, _ = present_tokens(self.module, deadline)
        return next((found for found in present if found[0].identity == self.facts.identity), None)

    def _open(
        self, found: _Found, generation: int, credentials: Credentials, deadline: Deadline
    ) -> Connection:
        connection = Connection(self, found, generation)
        try:
            connection.log_in(credentials, deadline)
        except BaseException:
            connection.close()
            raise
        self.module.mark_in_use(self, generation)
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


_tokens: dict[TokenIdentity, Token] = {}
"""Those in use; guarded by the module registry's lock."""


def acquire(query: TokenQuery, settings: Settings, deadline: Deadline) -> Token:
    """The token a URI means, not logged in yet; `Token.release` must follow.

    Raises:
        KeyNotFoundError: There is none.
        KeyAmbiguousError: There are several.
        ConfigurationError: The module cannot be loaded.
        BackendUnavailableError: It does not start, or fails.
    """
    module = modules.acquire(settings, deadline)
    try:
        facts = _choose(module, query, deadline)
        identity = (module.path, *facts.identity)
        with modules.registry.lock:
            token = _tokens.get(identity)
            if token is None:
                token = _tokens[identity] = Token(module, facts)
            token.users += 1
    except BaseException:
        modules.release(module)
        raise
    token.extend(settings)
    return token


def present_tokens(module: Module, deadline: Deadline) -> tuple[list[_Found], list[str]]:
    """The tokens there are, and what is wrong with slots that cannot be read.

    One broken slot does not hide the others.

    Raises:
        PKCS11Error: The slots cannot be listed.
    """

    def read() -> tuple[list[_Found], list[str]]:
        slots, unreadable = module.library.readable_slots()
        found = []
        for slot in slots:
            try:
                native = slot.get_token()
            except PKCS11Error as error:
                unreadable.append(f"slot {slot.slot_id}: {ckr_name(error)}")
            else:
                found.append((_facts(native, module), native))
        return found, unreadable

    return module.call(read, deadline)


def _choose(module: Module, query: TokenQuery, deadline: Deadline) -> TokenFacts:
    """The token meant; looked for again while it may appear."""
    generation, looks = module.generation, 1
    with translated("listing the tokens", module.place):
        try:
            found, unreadable = present_tokens(module, deadline)
        except PKCS11Error as error:
            # A signer opened earlier may have this module running on a connection that is dead.
            if not is_lost(error):
                raise
            module.restart(generation, error, deadline)
            module.start(deadline)
            found, unreadable = present_tokens(module, deadline)
        while True:
            try:
                return select([facts for facts, _ in found], query, module.place, unreadable)
            except KeyNotFoundError:
                if not _may_look_again(module, module.generation, looks, deadline):
                    raise
            looks += 1
            found, unreadable = present_tokens(module, deadline)


def _may_look_again(module: Module, generation: int, looks: int, deadline: Deadline) -> bool:
    """Pause, and have the module start again; False if a token stays missing."""
    if looks > _MOST_LOOKS:
        return False
    pause = backoff(looks, first=_FIRST_PAUSE, longest=_LONGEST_PAUSE)
    module.clock.sleep(min(pause, deadline.remaining))
    return module.reinitialise_if_idle(generation, deadline)


def _facts(token: NativeToken, module: Module) -> TokenFacts:
    slot, library = token.slot, module.library
    return TokenFacts(
        label=token.label,
        serial=token.serial.decode(errors="replace").rstrip("\0 "),
        model=token.model,
        manufacturer=token.manufacturer_id,
        slot_id=str(slot.slot_id),
        slot_description=slot.slot_description,
        slot_manufacturer=slot.manufacturer_id,
        library_description=library.library_description,
        library_manufacturer=library.manufacturer_id,
        library_version="{}.{}".format(*library.library_version),
        initialized=bool(token.flags & TokenFlag.TOKEN_INITIALIZED),
    )
