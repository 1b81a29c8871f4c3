"""An opened key on a token."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from pkcs11.exceptions import PKCS11Error, SessionClosed

from keystay.backends import BackendSignature, KeyDescription
from keystay.concurrency.clock import Deadline
from keystay.errors import KeyNotFoundError
from keystay.jwk import key_kind
from keystay_pkcs11 import objects
from keystay_pkcs11.cryptoki import CKU_CONTEXT_SPECIFIC, Mechanism
from keystay_pkcs11.custody import assess_custody, gather
from keystay_pkcs11.errors import TEXTS, KeyVanishedError, is_lost_handle, translated
from keystay_pkcs11.login import check_flags, refused_pins
from keystay_pkcs11.mechanisms import Plan, plans_for_key, signing_mechanisms
from keystay_pkcs11.objects import KeyQuery
from keystay_pkcs11.recovery import Level, Recovery, TokenAccess

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from keystay.backends import BackendContext, SigningKey, SignRequest
    from keystay.custody import Custody
    from keystay.key_uri import KeyURI
    from keystay_pkcs11.objects import PrivateKey
    from keystay_pkcs11.sessions import Session
    from keystay_pkcs11.token import Connection

__all__ = ["Pkcs11Key"]

_searches = itertools.count(1)


class _Location(NamedTuple):
    """Where the key is in one connection; the number is that of the search that found it."""

    connection: Connection
    handle: int
    number: int


class Pkcs11Key:
    """A private key on a token.

    A PKCS#11 call that has begun cannot be interrupted. It is left alone in a thread of its own
    at the deadline, and its session with it; a module that computes in this process is called
    directly, and what it returns too late is not used.

    Args:
        access: Its token; the key closes it.
        query: Which key.
        deadline: When to give up finding it.

    Raises:
        BackendError: It cannot be found, or used, or the token cannot be reached.
    """

    def __init__(self, access: TokenAccess, query: KeyQuery, deadline: Deadline) -> None:
        self._access, self._query = access, query
        self._token, self._module = access.token, access.token.module
        self._public_key: PublicKeyTypes | None = None
        recovery = Recovery(access, deadline)
        with self._token.breaker.guard(deadline):
            private, public, self._location = recovery.run("finding the key", self._find)
        self._public_key = public
        # From now on exactly this key, also if the URI asked for "the only one".
        self._query = KeyQuery(private.key_id or None, private.label or None)
        kty, curve, _ = key_kind(public)
        slot = self._location.connection.native.slot
        with translated("asking for mechanisms", self._token.place):
            numbers = self._module.call(partial(signing_mechanisms, slot), recovery.deadline)
        if private.allowed_mechanisms:
            numbers &= frozenset(private.allowed_mechanisms)
        plans = plans_for_key(kty, curve, numbers)
        self._plans = {
            name: (plan, Mechanism(plan.mechanism, plan.parameter)) for name, plan in plans.items()
        }
        self._wants_pin = private.flags.get("always_authenticate", False)
        self._id = f"{self._token.facts.serial}/{private.key_id.hex() or private.label}"
        self._first = next((plan.mechanism for plan in plans.values()), None)
        self._flags = private.flags
        self._description = KeyDescription(
            public_key=public,
            algorithms=tuple(plans),
            key_id=self._id,
            label=private.label or private.key_id.hex(),
            custody=self.custody_now(recovery.deadline),
            created=private.created,
        )

    @classmethod
    def open(cls, uri: KeyURI, context: BackendContext) -> Pkcs11Key:
        """Open the key a URI names.

        Raises:
            KeyURIError, ConfigurationError, SecretError: What the user wrote cannot be used.
            LoginError: The PIN is missing, refused, or not tried because that could lock it.
            KeyNotFoundError, KeyAmbiguousError, KeyUnusableError: As their names say.
            BackendUnavailableError: The module or the token fails.
        """
        deadline = Deadline.after(context.timeout)
        query = KeyQuery(uri.attributes.get("id"), uri.attribute("object"))
        access = TokenAccess.open(uri, context, deadline)
        try:
            return cls(access, query, deadline)
        except BaseException:
            access.close()
            raise

    def __repr__(self) -> str:
        return f"<Pkcs11Key {self._description.label!r} on {self._token.place}>"

    def describe(self) -> KeyDescription:
        """What is known about the key; the same at every call."""
        return self._description

    def custody_now(self, deadline: Deadline) -> Custody:
        """Where the key is, by what the present token reports.

        Raises:
            BackendError: It fails.
        """
        connection, module = self._location.connection, self._module
        look = partial(gather, connection.facts, connection.native, module.path, self._first)
        with translated("asking where the key is", self._token.place):
            evidence = module.call(look, deadline)
        return assess_custody(evidence, self._flags)

    def lease(self, deadline: Deadline) -> AbstractContextManager[SigningKey]:
        """Hold a session for a block; waits for one until the deadline.

        The lease is for one thread.

        Raises:
            BackendTimeoutError: None came free in time.
            SignerClosedError: The key is closed.
            BackendError: The token cannot be reached.
        """
        return _Lease(self, deadline)

    def sign(self, request: SignRequest) -> BackendSignature:
        """Sign, in a session of the pool.

        Raises:
            AlgorithmError: The token cannot do this algorithm with this key.
            BackendTimeoutError: No session came free in time.
            KeyChangedError: After a loss another key was found in its place.
            BackendError: The token failed, also after recovery.
        """
        with _Lease(self, request.deadline) as lease:
            return lease.sign(request)

    def health(self, deadline: Deadline) -> None:
        """Look for the key on the token. Does not sign.

        Raises:
            BackendError: It could not sign now.
        """
        self._check_open()
        found = self._access.run("finding the key", deadline, self._find_again)
        if found[:2] != self._location[:2]:
            self._location = found

    def close(self) -> None:
        """Release the key; the last user of the token logs out. Idempotent."""
        self._access.close()

    def _check_open(self) -> None:
        if self._access.is_closed:
            raise TEXTS.error("key-closed", label=self._description.label)

    def _find(
        self, connection: Connection, session: Session
    ) -> tuple[PrivateKey, PublicKeyTypes, _Location]:
        place = self._token.place
        private = objects.find(session, self._query, place)
        public = objects.public_key_of(session, private, place)
        if self._public_key is not None and public != self._public_key:
            raise TEXTS.error("key-changed", label=self._description.label, place=place)
        return private, public, _Location(connection, private.handle, next(_searches))

    def _find_again(self, connection: Connection, session: Session) -> _Location:
        try:
            return self._find(connection, session)[2]
        except KeyNotFoundError as error:
            raise KeyVanishedError(error) from error

    def _locate(self, recovery: Recovery) -> _Location:
        """Where the key is in the present connection."""
        if self._access.is_closed or not self._location.connection.is_alive:
            self._search(recovery)
        return self._location

    def _search(self, recovery: Recovery) -> None:
        self._check_open()
        self._location = recovery.run("finding the key", self._find_again)

    def _plan(self, algorithm: str) -> tuple[Plan, Mechanism]:
        """How to make an algorithm's signature.

        Raises:
            AlgorithmError: The token cannot, with this key.
        """
        try:
            return self._plans[algorithm]
        except KeyError:
            label, able = self._description.label, ", ".join(self._plans) or "none"
            raise TEXTS.error(
                "algorithm", label=label, place=self._token.place, algorithm=algorithm, able=able
            ) from None

    def _authenticated(
        self, sign: Callable[..., bytes], location: _Location, session: Session, deadline: Deadline
    ) -> Callable[[], bytes]:
        """`sign` with the PIN, for a key that wants it each time (CKA_ALWAYS_AUTHENTICATE)."""
        token, connection = self._token, location.connection
        place, credentials = token.place, self._access.credentials
        pin = credentials.pin(place)
        log_in = partial(self._module.cryptoki.login, session.handle, CKU_CONTEXT_SPECIFIC, pin)

        def authenticated() -> bytes:
            with connection.authenticating.held(deadline):
                if not connection.is_alive:  # the module was restarted while this one waited
                    raise SessionClosed
                flags = connection.native.slot.get_token().flags
                check_flags(flags, credentials.user_type, place)
                with refused_pins.trying(token.identity, pin, place):
                    return sign(log_in)

        return authenticated


class _Lease:
    """A session held for one block, by one thread."""

    __slots__ = ("_deadline", "_is_probe", "_key", "_location", "_session")

    _location: _Location

    def __init__(self, key: Pkcs11Key, deadline: Deadline) -> None:
        self._key, self._deadline = key, deadline
        self._session: Session | None = None
        self._is_probe = False

    def __enter__(self) -> _Lease:
        breaker = self._key._token.breaker
        self._is_probe = breaker.allow_request(self._deadline)
        try:
            self._hold(Recovery(self._key._access, self._deadline))
        except BaseException as error:
            breaker.record(self._is_probe, error)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        session, self._session = self._session, None
        if session is not None:
            self._location.connection.pool.release(session)
        if self._is_probe:  # no signature was made
            self._key._token.breaker.cancel()

    def sign(self, request: SignRequest) -> BackendSignature:
        """Sign in the session held; see `Pkcs11Key.sign`."""
        key, breaker, deadline = self._key, self._key._token.breaker, request.deadline
        session = self._session
        if session is None or not session.is_lent:
            raise TEXTS.error("lease-over")
        plan, mechanism = key._plan(request.algorithm.name)
        data = plan.data(request)
        recovery = None
        try:
            while True:
                deadline.check("Waiting for the token")
                try:
                    make = self._signing(session, mechanism, data, deadline)
                    value = self._location.connection.call(session, make, deadline)
                    break
                except PKCS11Error as error:
                    recovery = recovery or Recovery(key._access, deadline)
                    session = self._recover(recovery, session, error)
        except BaseException as error:
            breaker.record(self._is_probe, error)
            self._is_probe = False
            raise
        breaker.record(self._is_probe)
        self._is_probe = False
        # What is found again is to be verified again, in each session.
        number = (self._location.number << 32) + session.number
        return BackendSignature(value, "raw", key._id, None, number)

    def _signing(
        self, session: Session, mechanism: Mechanism, data: bytes, deadline: Deadline
    ) -> Callable[[], bytes]:
        """What makes one signature, inside the module; it raises PKCS11Error."""
        key, location = self._key, self._location
        sign = partial(
            key._module.cryptoki.sign,
            session.handle,
            mechanism,
            location.handle,
            data,
            session.buffer,
        )
        return key._authenticated(sign, location, session, deadline) if key._wants_pin else sign

    def _recover(self, recovery: Recovery, session: Session, error: PKCS11Error) -> Session:
        """A session to sign in once more, after a failure.

        Raises:
            BackendError: There is no level left, or recovery failed.
        """
        key, connection = self._key, self._location.connection
        if recovery.level is Level.NONE and is_lost_handle(error):
            recovery.level = Level.KEY
            try:
                find = partial(key._find_again, connection, session)
                found = connection.call(session, find, recovery.deadline)
            except PKCS11Error:
                pass  # it may be out of sight because no user is logged in
            else:
                key._location = self._location = found
                return session
        connection.pool.discard(session, recovery.deadline)
        recovery.next_level("signing", connection, error)
        key._search(recovery)
        return self._hold(recovery)

    def _hold(self, recovery: Recovery) -> Session:
        """Borrow a session of the connection that the key is in."""
        while True:
            location = self._location = self._key._locate(recovery)
            try:
                self._session = location.connection.pool.acquire(recovery.deadline)
                return self._session
            except PKCS11Error as error:
                recovery.next_level("opening a session", location.connection, error)
                self._key._search(recovery)
