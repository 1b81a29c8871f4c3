"""An opened key on a token."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple

from pkcs11.exceptions import PKCS11Error, SessionClosed

from keystay.backends import BackendSignature, KeyDescription
from keystay.concurrency.clock import Deadline
from keystay.concurrency.forks import detect_fork
from keystay.errors import AlgorithmError, KeyChangedError, KeyNotFoundError, SignerClosedError
from keystay.jwk import key_kind
from keystay_pkcs11 import keys, token
from keystay_pkcs11.access import Access, Climb
from keystay_pkcs11.cryptoki import Mechanism
from keystay_pkcs11.custody import gather, judge
from keystay_pkcs11.errors import KeyVanishedError, is_lost_handle, mapped
from keystay_pkcs11.keys import KeyQuery
from keystay_pkcs11.login import Credentials, check_flags, refused_pins
from keystay_pkcs11.mechanisms import plans_for_key
from keystay_pkcs11.selection import TokenQuery
from keystay_pkcs11.settings import Settings
from keystay_pkcs11.slots import signing_mechanisms

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from keystay.backends import BackendContext, SigningKey, SignRequest
    from keystay.custody import Custody
    from keystay.key_uri import KeyURI
    from keystay_pkcs11.connection import Connection
    from keystay_pkcs11.keys import PrivateKey
    from keystay_pkcs11.sessions import Session

__all__ = ["Pkcs11Key", "open_access"]

_searches = itertools.count(1)


class _Binding(NamedTuple):
    """Where the key is in one connection; the number is that of the search that found it."""

    connection: Connection
    epoch: int
    handle: int
    number: int

    def is_as(self, other: _Binding) -> bool:
        """Whether it was found where it was before."""
        return self[:3] == other[:3]


@dataclass(frozen=True, slots=True)
class _Prepared:
    """How to make one algorithm's signature, as far as it can be known before."""

    data: Callable[[SignRequest], bytes]
    mechanism: Mechanism


def open_access(uri: KeyURI, context: BackendContext, deadline: Deadline) -> Access:
    """The way to the token a URI means; it logs in when first used.

    Raises:
        KeyURIError, ConfigurationError: The URI or the settings cannot be used.
        KeyNotFoundError, KeyAmbiguousError: No token, or several, match.
        BackendUnavailableError: The module does not start.
    """
    settings = Settings.read(uri, context.settings)
    credentials = Credentials(settings.pin_source, context.secrets, settings.user_type)
    found = token.acquire(TokenQuery.of(uri), settings, deadline)
    return Access(found, credentials, settings.module)


class Pkcs11Key:
    """A private key on a token.

    A PKCS#11 call that has begun cannot be interrupted. It is left alone in a thread of its own
    at the deadline, and its session with it; a module that computes in this process is called
    directly, and what it returns too late is not used.

    Args:
        access: The way to the token; the key closes it.
        query: Which key.
        deadline: When to give up finding it.

    Raises:
        BackendError: It cannot be found, or used, or the token cannot be reached.
    """

    def __init__(self, access: Access, query: KeyQuery, deadline: Deadline) -> None:
        self._access, self._query = access, query
        self._token, self._module = access.token, access.token.module
        self._closed = False
        self._public_key: PublicKeyTypes | None = None
        found, deadline = access.run("finding the key", deadline, self._look)
        private, public, self._binding = found
        self._public_key = public
        # From now on exactly this key, also if the URI said only "the one there is".
        self._query = KeyQuery(private.key_id or None, private.label or None)
        kty, curve, _ = key_kind(public)
        slot = self._binding.connection.native.slot
        with mapped("asking for mechanisms", self._token.place):
            numbers = self._module.call(lambda: signing_mechanisms(slot), deadline)
        if private.allowed_mechanisms:
            numbers &= frozenset(private.allowed_mechanisms)
        plans = plans_for_key(kty, curve, numbers)
        self._prepared: Mapping[str, _Prepared] = {
            name: _Prepared(plan.data, Mechanism(plan.mechanism, plan.parameter))
            for name, plan in plans.items()
        }
        self._confirm = private.flags.get("always_authenticate", False)
        facts = self._token.facts
        self._id = f"{facts.serial}/{private.key_id.hex() or private.label}"
        self._first = next((plan.mechanism for plan in plans.values()), None)
        self._flags = private.flags
        self._description = KeyDescription(
            public_key=public,
            algorithms=tuple(plans),
            key_id=self._id,
            label=private.label or private.key_id.hex(),
            custody=self.custody_now(deadline),
            created=private.created,
        )

    @classmethod
    def open(cls, uri: KeyURI, context: BackendContext) -> Pkcs11Key:
        """Open the key a URI names.

        Raises:
            KeyURIError, ConfigurationError, SecretError: What the user wrote cannot be used.
            LoginError: The PIN is missing, refused, or not tried because that could lock it.
            KeyNotFoundError, KeyAmbiguousError, KeyUnusableError: As they say.
            BackendUnavailableError: The module or the token fails.
        """
        deadline = Deadline.after(context.timeout)
        query = KeyQuery(uri.attributes.get("id"), uri.attribute("object"))
        access = open_access(uri, context, deadline)
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
        """Where the key is, by what the token of now says.

        Raises:
            BackendError: It does not say.
        """
        native, module = self._binding.connection.native, self._module
        with mapped("asking where the key is", self._token.place):
            evidence = module.call(
                lambda: gather(native, module.path, module.library, self._first), deadline
            )
        return judge(evidence, self._flags)

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
        found, _ = self._access.run("finding the key", deadline, self._look_again)
        if not found[2].is_as(self._binding):
            self._binding = found[2]

    def close(self) -> None:
        """Let go of the key; the last user of the token logs out. Idempotent."""
        if not self._closed:
            self._closed = True
            self._access.close()

    def bound(self, deadline: Deadline) -> _Binding:
        """Where the key is in the connection of now."""
        detect_fork()
        binding = self._binding
        if binding.epoch == self._module.epoch and not self._closed:
            return binding
        return self.bind(deadline)

    def bind(self, deadline: Deadline) -> _Binding:
        """Find the key again."""
        self._check_open()
        found, _ = self._access.attempt("finding the key", deadline, self._look_again)
        self._binding = found[2]
        return self._binding

    def _check_open(self) -> None:
        if self._closed:
            raise SignerClosedError(
                f"The key {self._description.label!r} is closed.",
                hint="Open it again, or close it later.",
            )

    def prepared(self, algorithm: str) -> _Prepared:
        """How to make an algorithm's signature.

        Raises:
            AlgorithmError: The token cannot, with this key.
        """
        try:
            return self._prepared[algorithm]
        except KeyError:
            raise AlgorithmError(
                f"The key {self._description.label!r} on {self._token.place} cannot sign with "
                f"{algorithm}.",
                cause="The key is of another type, or the token has no mechanism for it.",
                hint=f"It can do {', '.join(self._prepared) or 'none'}.",
            ) from None

    def _look(
        self, connection: Connection, session: Session
    ) -> tuple[PrivateKey, PublicKeyTypes, _Binding]:
        place = self._token.place
        private = keys.find(session, self._query, place)
        public = keys.public_key_of(session, private, place)
        if self._public_key is not None and public != self._public_key:
            raise KeyChangedError(
                f"The key {self._description.label!r} on {place} is another one than was opened.",
                cause="The token came back with a new key under the same label and id.",
                hint="Publish the new public key first, then open the signer again.",
            )
        binding = _Binding(connection, connection.epoch, private.handle, next(_searches))
        return private, public, binding

    def _look_again(
        self, connection: Connection, session: Session
    ) -> tuple[PrivateKey, PublicKeyTypes, _Binding]:
        try:
            return self._look(connection, session)
        except KeyNotFoundError as error:
            raise KeyVanishedError(error) from error

    def _signing(
        self,
        binding: _Binding,
        session: Session,
        prepared: _Prepared,
        data: bytes,
        deadline: Deadline,
    ) -> Callable[[], bytes]:
        """What makes one signature, inside the module; it raises PKCS11Error."""
        cryptoki, handle, buffer = self._module.cryptoki, session.handle, session.buffer
        if not self._confirm:
            return partial(cryptoki.sign, handle, prepared.mechanism, binding.handle, data, buffer)
        # The key wants the PIN each time (CKA_ALWAYS_AUTHENTICATE).
        token, connection = self._token, binding.connection
        place, credentials = token.place, self._access.credentials
        pin = credentials.require_pin(place).reveal().encode()

        def sign_confirmed() -> bytes:
            with token.confirming.held(deadline):
                if not connection.alive:  # the module was started anew while this one waited
                    raise SessionClosed
                flags = connection.native.slot.get_token().flags
                check_flags(flags, credentials.user_type, place)
                with refused_pins.trying(token.identity, pin, place):
                    return cryptoki.sign_confirmed(
                        handle, prepared.mechanism, binding.handle, data, buffer, pin
                    )

        return sign_confirmed


class _Lease:
    """A session held for one block, by one thread."""

    __slots__ = ("_binding", "_deadline", "_key", "_probing", "_session")

    _binding: _Binding

    def __init__(self, key: Pkcs11Key, deadline: Deadline) -> None:
        self._key, self._deadline = key, deadline
        self._session: Session | None = None
        self._probing = False

    def __enter__(self) -> _Lease:
        circuit = self._key._token.circuit
        self._probing = circuit.enter(self._deadline)
        try:
            self._take(self._deadline)
        except BaseException as error:
            circuit.ended(self._probing, error)
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
            self._binding.connection.pool.release(session)
        if self._probing:  # nothing was signed: who knows
            self._probing = False
            self._key._token.circuit.undecided()

    def sign(self, request: SignRequest) -> BackendSignature:
        """Sign in the session held; see `Pkcs11Key.sign`."""
        key = self._key
        if self._session is None:
            raise SignerClosedError(
                "The lease on the key is over.", hint="Sign inside the with block."
            )
        prepared = key.prepared(request.algorithm.name)
        data = prepared.data(request)
        circuit = key._token.circuit
        try:
            value = self._sign(prepared, data, request.deadline)
        except BaseException as error:
            circuit.ended(self._probing, error)
            self._probing = False
            raise
        if circuit.reason is not None:
            circuit.ended(self._probing)
            self._probing = False
        # What is found anew is to be verified anew, in each session.
        number = (self._binding.number << 32) + self._session.number
        return BackendSignature(value, "raw", key._id, None, number)

    def _sign(self, prepared: _Prepared, data: bytes, deadline: Deadline) -> bytes:
        """Sign; after a loss once more on each rung of the ladder."""
        key, climb = self._key, None
        while True:
            if deadline.expired:
                deadline.check("Waiting for the token")
            session, connection = self._session, self._binding.connection
            assert session is not None
            try:
                return connection.call(
                    key._signing(self._binding, session, prepared, data, deadline),
                    deadline,
                    on_abandon=self._retire,
                    late=connection.closes(session),
                )
            except PKCS11Error as error:
                again = climb is None and is_lost_handle(error) and self._find_again(deadline)
                climb = climb or Climb(key._access, "signing")
                if not again:
                    self._drop(deadline)
                    climb.up(connection, error, deadline)
                    key.bind(deadline)
                    self._take(deadline)

    def _find_again(self, deadline: Deadline) -> bool:
        """Find the key again in the session held: the lowest rung; False if it does not help."""
        key, session = self._key, self._session
        connection = self._binding.connection
        assert session is not None
        try:
            _, _, binding = connection.call(
                lambda: key._look(connection, session),
                deadline,
                on_abandon=self._retire,
                late=connection.closes(session),
            )
        except (PKCS11Error, KeyNotFoundError):
            return False  # it may be out of sight because nobody is logged in
        key._binding = self._binding = binding
        return True

    def _take(self, deadline: Deadline) -> None:
        key, climb = self._key, None
        binding = key.bound(deadline)
        while True:
            try:
                self._session = binding.connection.pool.acquire(deadline)
                self._binding = binding
                return
            except PKCS11Error as error:
                climb = climb or Climb(key._access, "opening a session")
                climb.up(binding.connection, error, deadline)
                binding = key.bind(deadline)

    def _drop(self, deadline: Deadline) -> None:
        """Let go of a session that failed."""
        session, self._session = self._session, None
        if session is not None:
            self._binding.connection.pool.discard(session, deadline)

    def _retire(self) -> None:
        """Leave the session to the call that hangs in it."""
        self._session = None
        self._binding.connection.pool.retire()
