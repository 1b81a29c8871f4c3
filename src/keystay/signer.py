"""A signer: an opened key, wherever it lives, behind one small face.

The core's share of a signature is here, once for all backends: pick and check the algorithm,
hash, hold the deadline, insist on the key that was opened, bring the signature into JOSE's
encoding and verify it before anybody sees it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

from keystay import algorithms, jwk, key_uri, signatures
from keystay.backends.port import (
    BackendContext,
    BackendKey,
    LeasesKey,
    SigningKey,
    SignRequest,
    TellsCustody,
)
from keystay.backends.registry import Registry, default_registry, unexpected
from keystay.backends.secrets import SecretResolver
from keystay.concurrency.clock import Deadline
from keystay.concurrency.forks import hold_off_forks
from keystay.concurrency.threads import WorkerThreads
from keystay.custody import minimum
from keystay.errors import (
    AlgorithmError,
    KeystayError,
    SignerClosedError,
)
from keystay.observers.dispatch import EVENTS_LOG, NOBODY, Observers
from keystay.observers.events import AssertionSigned, MessageSigned
from keystay.observers.opening import watch_opening
from keystay.observers.signing import About, SignatureWitness, Signed
from keystay.policy import Policy, Subject
from keystay.verification import SESSIONS_REMEMBERED, Verification, Verify

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from keystay.algorithms import Algorithm
    from keystay.backends.port import BackendSignature
    from keystay.custody import Custody, Fact
    from keystay.private_key import BackedPrivateKey

__all__ = ["DEFAULT_TIMEOUT", "Signer", "Verify", "open_signer"]

DEFAULT_TIMEOUT = 10.0
"""Seconds that opening a key, or one signature, may take."""

T = TypeVar("T")

_ASYNC_CALLS = 40  # of one signer at work at once; as many threads, which only sign_async needs


def open_signer(
    uri: str,
    *,
    algorithm: str | None = None,
    kid: str | None = None,
    secrets: Callable[[str, str], str | None] | None = None,
    backends: Mapping[str, Mapping[str, object]] | None = None,
    custody: str = "any",
    policy: Policy | None = None,
    enforce: bool = True,
    created: Fact | None = None,
    verify: Verify = "always",
    timeout: float = DEFAULT_TIMEOUT,
    base_dir: str | os.PathLike[str] | None = None,
    registry: Registry | None = None,
    observers: Observers = NOBODY,
) -> Signer:
    """Open the key a URI names.

    Args:
        uri: Key URI, such as `pkcs11:token=prod;object=epic?pin-source=file:/run/secrets/pin`.
        algorithm: JWS algorithm; default by key type: RS384, ES384 for P-384, a curve's own.
        kid: Key id; default is the RFC 7638 thumbprint of the public key.
        secrets: Called with a secret reference ("" when there is none) and a phrase saying
            what is asked for; returns the secret, or None to have the reference resolved.
        backends: Settings by URI scheme, as the `[backends.*]` tables of keystay.toml.
        custody: The least custody accepted: `any`, `out-of-process` or `hardware`.
        policy: What else is demanded of the key; looked at again after each reconnection.
        enforce: Whether a key that violates `custody` or `policy` is refused; without, they only
            say which algorithm comes first.
        created: When the key was made, for a backend that cannot say.
        verify: `always`, or `first` to check only the first signature of each backend session.
        timeout: Seconds for opening and for each signature.
        base_dir: Where relative paths in `uri` start; default the working directory.
        registry: Where to look for backends; default the installed ones.
        observers: Told of this opening, of each signature, and of the tokens got with it.

    Raises:
        KeyURIError: The URI is malformed.
        PolicyError: The key is not what `custody` and `policy` demand.
        AlgorithmError: The key cannot do `algorithm`.
        BackendError: What the backend reports; see `keystay.errors`.
    """
    parsed = key_uri.parse(uri)
    folder = Path(base_dir) if base_dir is not None else Path()
    context = BackendContext(
        settings=(backends or {}).get(parsed.scheme, {}),
        secrets=SecretResolver(secrets, base_dir=folder),
        timeout=timeout,
        base_dir=folder,
    )
    with watch_opening(observers, str(parsed), parsed.scheme) as tell:
        deadline = Deadline.after(timeout)
        with hold_off_forks(deadline, may_hang=True):
            key = (registry or default_registry()).open_key(parsed, context)
        try:
            with hold_off_forks(deadline):
                signer = Signer(
                    key,
                    algorithm=algorithm,
                    kid=kid,
                    custody=custody,
                    policy=policy,
                    enforce=enforce,
                    created=created,
                    verify=verify,
                    timeout=timeout,
                    name=str(parsed),
                    backend=parsed.scheme,
                    observers=observers,
                )
        except BaseException:
            with suppress(Exception):  # what went wrong first is what to report
                key.close()
            raise
        tell(signer)
        return signer


class Signer:
    """An opened key.

    Thread-safe. Use it as a context manager, or call `close()`.

    Args:
        key: What a backend opened; `open_signer` is the usual way here.
        algorithm: As for `open_signer`, and so on for the rest.
        kid: Key id.
        custody: The least custody accepted.
        policy: What else is demanded of the key.
        enforce: Whether a key that violates them is refused.
        created: When the key was made, for a backend that cannot say.
        verify: `always` or `first`.
        timeout: Seconds for each signature.
        name: What messages call the key; default the backend's label.
        backend: Scheme of its URI; for the policy and for observers.
        observers: As for `open_signer`.

    Raises:
        PolicyError, AlgorithmError, KeyUnusableError: As for `open_signer`.
    """

    def __init__(
        self,
        key: BackendKey,
        *,
        algorithm: str | None = None,
        kid: str | None = None,
        custody: str = "any",
        policy: Policy | None = None,
        enforce: bool = True,
        created: Fact | None = None,
        verify: Verify = "always",
        timeout: float = DEFAULT_TIMEOUT,
        name: str | None = None,
        backend: str = "",
        observers: Observers = NOBODY,
    ) -> None:
        signatures.load()
        self._key = key
        self._lease = key.lease if isinstance(key, LeasesKey) else None
        self._name = name or "the key"
        self._description = description = self._guarded(key.describe)
        self._name = name or description.label
        self._custody, self._created = description.custody, description.created or created
        self._policies = [Policy(custody=minimum(custody)), *([policy] if policy else [])]
        self._enforced = enforce
        self._backend = backend
        self._judged: set[int] = set()
        kty, curve, self._bits = jwk.key_kind(description.public_key)
        self._algorithms = tuple(
            n for n in algorithms.for_key(kty, curve) if n in description.algorithms
        )
        self._kind = f"RSA-{self._bits}" if kty == "RSA" else str(curve)
        self._algorithm = self._choose(algorithm)
        self._enforce(self.subject)
        self._kid = kid or jwk.thumbprint(jwk.public_jwk(description.public_key))
        self._what = f"A signature by {self._name}"
        self._verification = Verification(self._name, description, verify)
        self._timeout = timeout
        self._threads = WorkerThreads(self._name, most=_ASYNC_CALLS)
        self._closed = False
        self._watched = observers.watched
        self._witness = SignatureWitness(observers, description, backend=backend, kid=self._kid)
        if description.signs_here:
            self._probe()

    @property
    def public_key(self) -> PublicKeyTypes:
        """The public key, of the `cryptography` library."""
        return self._description.public_key

    @property
    def algorithm(self) -> str:
        """The JWS algorithm it signs with unless told otherwise."""
        return self._algorithm.name

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The JWS algorithms the key can do where it is, the preferred first."""
        return self._algorithms

    @property
    def permitted(self) -> tuple[str, ...]:
        """Those of `algorithms` that the policy allows."""
        return tuple(n for n in self._algorithms if all(p.allows(n) for p in self._policies))

    @property
    def kid(self) -> str:
        """The key id that goes into headers and JWK Sets."""
        return self._kid

    @property
    def custody(self) -> Custody:
        """Where the private key is while it signs, and how we know."""
        return self._custody

    @property
    def subject(self) -> Subject:
        """The key as a policy looks at it."""
        return self._subject(self._algorithm, self._custody)

    @property
    def key_type(self) -> str:
        """`RSA-<bits>`, `P-256`, `P-384`, `P-521` or `Ed25519`."""
        return self._kind

    @property
    def key_id(self) -> str:
        """The backend's own, unchanging id of the key."""
        return self._description.key_id

    @property
    def backend(self) -> str:
        """Scheme of the key URI it was opened with, or ""."""
        return self._backend

    @property
    def observers(self) -> Observers:
        """Who is told of its signatures."""
        return self._witness.observers

    def sign(
        self, message: bytes, algorithm: str | None = None, *, timeout: float | None = None
    ) -> bytes:
        """Sign a message.

        Args:
            message: The bytes to sign; hashed here as the algorithm says.
            algorithm: JWS algorithm; default the signer's.
            timeout: Seconds; default the signer's. A signature that comes later is not used.

        Returns:
            The signature in JOSE's encoding: r‖s for ECDSA (64, 96 or 132 bytes), plain octets
            for RSA and Ed25519.

        Raises:
            AlgorithmError: The key cannot do `algorithm`.
            SignatureInvalidError: What the backend returned does not verify.
            KeyChangedError: Another key signed than the one opened.
            SignerClosedError: After `close()`.
            BackendError: What the backend reports.
        """
        memoryview(message)  # a str is the caller's slip: TypeError here, not the backend's fault
        return self.sign_stamped(lambda: message, algorithm, timeout=timeout)[1]

    async def sign_async(
        self, message: bytes, algorithm: str | None = None, *, timeout: float | None = None
    ) -> bytes:
        """As `sign`, for asyncio and trio; see `sign_stamped_async`."""
        memoryview(message)
        return (await self.sign_stamped_async(lambda: message, algorithm, timeout=timeout))[1]

    def sign_stamped(
        self,
        stamp: Callable[[], bytes],
        algorithm: str | None = None,
        *,
        timeout: float | None = None,
        about: About | None = None,
    ) -> Signed:
        """Sign a message that is only made once the key is free to sign it.

        Args:
            stamp: Returns the message; called after any wait for a session, so that times
                inside the message are fresh.
            algorithm: As for `sign`.
            timeout: As for `sign`.
            about: Says for observers what the message is; None for what is no assertion.

        Returns:
            The message, its signature, and the backend's id of the request or None.

        Raises:
            KeystayError: As for `sign`.
        """
        self._check_open()
        chosen = self._algorithm if algorithm is None else self._permitted(algorithm)
        deadline = Deadline.after(self._timeout if timeout is None else timeout)
        if _event_of(about) in self._watched or EVENTS_LOG.isEnabledFor(logging.DEBUG):
            sign = partial(self._sign, None, chosen, deadline)
            return self._witness.watch(sign, stamp, chosen.name, about)
        return self._sign(None, chosen, deadline, stamp)

    async def sign_stamped_async(
        self,
        stamp: Callable[[], bytes],
        algorithm: str | None = None,
        *,
        timeout: float | None = None,
        about: About | None = None,
    ) -> Signed:
        """As `sign_stamped`, with the event loop free meanwhile.

        A key whose signature is over sooner than a hop to another thread pays for signs on the
        loop, after letting others have their turn; any other, and one that observers are told
        of, in a thread of the signer's own.
        The wait ends at the deadline, and at once when the task is cancelled.
        """
        deadline = Deadline.after(self._timeout if timeout is None else timeout)
        if self._description.brief and not self._witness.observers.calls_out(_event_of(about)):
            import anyio.lowlevel

            await anyio.lowlevel.checkpoint()
            return self.sign_stamped(stamp, algorithm, timeout=deadline.remaining, about=about)
        return await self._threads.call_with_deadline_async(
            lambda: self.sign_stamped(stamp, algorithm, timeout=deadline.remaining, about=about),
            deadline,
        )

    def sign_digest(
        self, digest: bytes, algorithm: str | None = None, *, timeout: float | None = None
    ) -> bytes:
        """Sign a message of which only the digest is known.

        Args:
            digest: The message's hash, of the length that the algorithm's hash has.
            algorithm: As for `sign`; not EdDSA, which signs the message itself.
            timeout: As for `sign`.

        Returns:
            As for `sign`.

        Raises:
            AlgorithmError: The algorithm takes no digest, or one of another length; or the
                backend needs the message.
            KeystayError: As for `sign`.
        """
        self._check_open()
        chosen = self._algorithm if algorithm is None else self._permitted(algorithm)
        if not chosen.digest_size:
            raise AlgorithmError(
                f"{chosen.name} signs messages, not digests.",
                hint="Hand the message over: signer.sign(message).",
                code="message-needed",
            )
        if len(digest) != chosen.digest_size:
            raise AlgorithmError(
                f"The digest for {chosen.name} has {len(digest)} bytes, "
                f"{chosen.digest_size} are due.",
                hint=f"Hash the message with {chosen.hash_name}, once.",
                code="digest-invalid",
            )
        deadline = Deadline.after(self._timeout if timeout is None else timeout)
        sign = partial(self._sign, bytes(digest), chosen, deadline)
        if MessageSigned in self._watched or EVENTS_LOG.isEnabledFor(logging.DEBUG):
            return self._witness.watch(sign, None, chosen.name, None)[1]
        return sign(None)[1]

    def as_private_key(self) -> BackedPrivateKey:
        """The key as the `cryptography` library's private keys look, for other libraries.

        Whatever they sign with it is signed by this signer, with its deadline and its checks.
        The private numbers stay where they are: asking for them is a `KeyUnusableError`.

        Returns:
            An `RSAPrivateKey`, `EllipticCurvePrivateKey` or `Ed25519PrivateKey`. It works as
            long as the signer is open.
        """
        from keystay.private_key import backed_private_key

        return backed_private_key(self)

    def health(self, *, timeout: float | None = None) -> None:
        """Return if the key could sign now; raise what is wrong otherwise. Does not sign.

        Raises:
            SignerClosedError: After `close()`.
            BackendError: What the backend reports.
        """
        self._check_open()
        deadline = Deadline.after(self._timeout if timeout is None else timeout)
        self._guarded(lambda: self._key.health(deadline))

    def close(self) -> None:
        """Release the key; idempotent."""
        if not self._closed:
            self._closed = True
            self._guarded(self._key.close)

    def __enter__(self) -> Signer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        state = ", closed" if self._closed else ""
        return (
            f"<Signer {self._name} {self._kind} {self.algorithm} kid={self._kid} "
            f"{self.custody.location}{state}>"
        )

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Signer is not pickled: pass the key URI and open it there")

    def _check_open(self) -> None:
        if self._closed:
            raise SignerClosedError(
                f"The signer for {self._name} is closed.",
                hint="Open a new one, or close it later.",
            )

    def _guarded(self, call: Callable[[], T]) -> T:
        """What a backend's method returns; what it raises is ours or becomes ours."""
        try:
            return call()
        except KeystayError:
            raise
        except Exception as error:
            raise unexpected(self._name, error) from error

    def _probe(self) -> None:
        """Verify one signature; nobody is told of it, for it signs nothing of anybody's."""
        probe, algorithm = os.urandom(32), self._algorithm
        _, value, _ = self._sign(None, algorithm, Deadline.after(self._timeout), lambda: probe)
        signatures.verify(self._description.public_key, algorithm, probe, value)

    def _choose(self, name: str | None) -> Algorithm:
        able, remedy = ", ".join(self._algorithms), self._description.algorithm_hint
        if name is None:
            if not self._algorithms:
                raise AlgorithmError(
                    f"The key {self._name} ({self._kind}) can sign with no JWS algorithm.",
                    cause="The device offers no signature mechanism that fits the key.",
                    hint=remedy or "Choose another key type, or ask the vendor for the mechanism.",
                )
            return algorithms.get(next(iter(self.permitted), self._algorithms[0]))
        chosen = algorithms.get(name)
        if name not in self._algorithms:
            raise AlgorithmError(
                f"The key {self._name} ({self._kind}) cannot sign with {name}.",
                hint=remedy
                or (
                    f"It can do {able}: configure one of these, or choose another key."
                    if able
                    else "It can do none that JWS knows: choose another key."
                ),
            )
        return chosen

    def _sign(
        self,
        digest: bytes | None,
        algorithm: Algorithm,
        deadline: Deadline,
        stamp: Callable[[], bytes] | None,
    ) -> Signed:
        """Sign a digest, or a message made by `stamp` once there is a session for it."""
        try:
            if self._lease is None:
                return self._sign_with(self._key, digest, algorithm, deadline, stamp)
            with self._lease(deadline) as key:
                return self._sign_with(key, digest, algorithm, deadline, stamp)
        except KeystayError:
            raise
        except Exception as error:
            raise unexpected(self._name, error) from error

    def _sign_with(
        self,
        key: SigningKey,
        digest: bytes | None,
        algorithm: Algorithm,
        deadline: Deadline,
        stamp: Callable[[], bytes] | None,
    ) -> Signed:
        message = b"" if stamp is None else stamp()
        request = SignRequest(algorithm, None if stamp is None else message, deadline, digest)
        result = key.sign(request)
        return message, self._checked(result, request), result.request_id

    def _checked(self, result: BackendSignature, request: SignRequest) -> bytes:
        """The signature as JOSE has it, in time, from the right key and good; or an error."""
        request.deadline.check(self._what)
        self._verification.check_key(result)
        if result.session not in self._judged:
            self._judge(result.session, request)
        return self._verification.accept(result, request)

    def _judge(self, session: int, request: SignRequest) -> None:
        """After a reconnection: what answers now has to be what the policy demands, too."""
        key, found = self._key, self._custody
        if any(policy.looks_at_custody for policy in self._policies):
            found = (
                key.custody_now(request.deadline)
                if isinstance(key, TellsCustody)
                else key.describe().custody
            )
        self._enforce(self._subject(request.algorithm, found))
        self._custody = found
        if len(self._judged) >= SESSIONS_REMEMBERED:
            self._judged.clear()
        self._judged.add(session)

    def _permitted(self, name: str) -> Algorithm:
        """Another algorithm than the signer's, if the key can do it and the policy allows it."""
        chosen = self._choose(name)
        self._enforce(self._subject(chosen, self._custody))
        return chosen

    def _enforce(self, subject: Subject) -> None:
        if self._enforced:
            for policy in self._policies:
                policy.enforce(subject)

    def _subject(self, algorithm: Algorithm, found: Custody) -> Subject:
        return Subject(
            self._name, self._backend, algorithm.name, algorithm.kty, self._bits, found,
            self._created,
        )  # fmt: skip


def _event_of(about: About | None) -> type[MessageSigned | AssertionSigned]:
    return MessageSigned if about is None else AssertionSigned
