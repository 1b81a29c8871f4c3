"""Small backends for the tests of the core: honest ones, and each kind of liar."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils

from keystay import algorithms, jwk, signatures
from keystay.backends import BackendSignature, Deadline, KeyDescription, SignRequest
from keystay.custody import Custody

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes

HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
PRIVATE_KEYS: dict[str, PrivateKeyTypes] = {
    "RSA-2048": rsa.generate_private_key(65537, 2048),
    "RSA-3072": rsa.generate_private_key(65537, 3072),
    "P-256": ec.generate_private_key(ec.SECP256R1()),
    "P-384": ec.generate_private_key(ec.SECP384R1()),
    "P-521": ec.generate_private_key(ec.SECP521R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}
CUSTODY = Custody("hardware", "asserted", "A test says so.")


@dataclass(repr=False)
class FakeKey:
    """A backend key that signs truly; ECDSA as DER, as clouds do.

    Attributes:
        private_key: Signs.
        key_id: What it calls the key.
        session: What it calls the session.
        calls: Every request it got.
        closed: How often it was closed.
        threads: Which thread made each call.
    """

    private_key: Any = field(default_factory=lambda: PRIVATE_KEYS["P-384"])
    key_id: str = "key-1"
    session: int = 0
    custody: Custody = CUSTODY
    able: tuple[str, ...] | None = None
    signs_here: bool = False
    brief: bool = False
    calls: list[SignRequest] = field(default_factory=list)
    closed: int = 0
    threads: list[int] = field(default_factory=list)

    def describe(self) -> KeyDescription:
        """As the private key is."""
        public_key = self.private_key.public_key()
        kty, curve, _ = jwk.key_kind(public_key)
        able = algorithms.for_key(kty, curve) if self.able is None else self.able
        return KeyDescription(
            public_key,
            able,
            "key-1",
            "the fake key",
            self.custody,
            self.signs_here,
            brief=self.brief,
        )

    def sign(self, request: SignRequest) -> BackendSignature:
        """Sign with `cryptography`."""
        self.calls.append(request)
        self.threads.append(threading.get_ident())
        name = request.algorithm.name
        if isinstance(self.private_key, ed25519.Ed25519PrivateKey):
            assert request.message is not None
            assert request.digest is None
            return BackendSignature(
                self.private_key.sign(request.message), "raw", self.key_id, session=self.session
            )
        hashed = HASHES[name[2:]]
        assert request.digest is not None
        prehashed = utils.Prehashed(hashed)
        if isinstance(self.private_key, ec.EllipticCurvePrivateKey):
            value = self.private_key.sign(request.digest, ec.ECDSA(prehashed))
            return BackendSignature(value, "der", self.key_id, session=self.session)
        pad: padding.AsymmetricPadding = padding.PKCS1v15()
        if name.startswith("PS"):
            pad = padding.PSS(padding.MGF1(hashed), request.algorithm.digest_size)
        value = self.private_key.sign(request.digest, pad, prehashed)
        return BackendSignature(value, "raw", self.key_id, session=self.session)

    def health(self, deadline: Deadline) -> None:
        """Always well."""

    def close(self) -> None:
        """Count."""
        self.closed += 1


class RawKey(FakeKey):
    """Returns r‖s, as PKCS#11 does."""

    def sign(self, request: SignRequest) -> BackendSignature:
        """Convert, and say so."""
        result = super().sign(request)
        if result.encoding == "der":
            raw = signatures.der_to_raw(result.value, request.algorithm)
            return result._replace(value=raw, encoding="raw")
        return result


@dataclass(repr=False)
class LyingKey(FakeKey):
    """Changes what it returns.

    Attributes:
        lie: Makes the lie of the true signature.
    """

    lie: Any = None

    def sign(self, request: SignRequest) -> BackendSignature:
        """Sign, then lie."""
        told: BackendSignature = self.lie(super().sign(request))
        return told


@dataclass(repr=False)
class RaisingKey(FakeKey):
    """Raises.

    Attributes:
        error: What it raises, from the method called `method`.
    """

    error: BaseException = field(default_factory=RuntimeError)
    method: str = "sign"

    def describe(self) -> KeyDescription:
        """Raise, if it is this one's turn."""
        self._raise("describe")
        return super().describe()

    def sign(self, request: SignRequest) -> BackendSignature:
        """Raise, if it is this one's turn."""
        self._raise("sign")
        return super().sign(request)

    def health(self, deadline: Deadline) -> None:
        """Raise, if it is this one's turn."""
        self._raise("health")

    def close(self) -> None:
        """Raise, if it is this one's turn."""
        super().close()
        self._raise("close")

    def _raise(self, method: str) -> None:
        if method == self.method:
            raise self.error


@dataclass(repr=False)
class LeasedKey(FakeKey):
    """Makes its users wait, as a session pool does.

    Attributes:
        wait: Seconds.
        deadlines: The deadline of each lease.
        leased: How many leases are out now, and were at most.
    """

    wait: float = 0.0
    deadlines: list[Deadline] = field(default_factory=list)
    leased: list[int] = field(default_factory=lambda: [0, 0])
    lock: threading.Lock = field(default_factory=threading.Lock)

    @contextmanager
    def lease(self, deadline: Deadline) -> Iterator[FakeKey]:
        """Wait, then give a session that is not this key itself."""
        self.deadlines.append(deadline)
        time.sleep(min(self.wait, deadline.remaining))
        deadline.check("Waiting for a session")
        with self.lock:
            self.leased[0] += 1
            self.leased[1] = max(self.leased)
        try:
            yield replace_session(self)
        finally:
            with self.lock:
                self.leased[0] -= 1


def replace_session(key: FakeKey) -> FakeKey:
    """A plain key that signs for `key` and records its calls there."""
    return FakeKey(key.private_key, key.key_id, key.session, calls=key.calls)


def lying(**changes: Any) -> LyingKey:
    """A key whose every signature has these fields changed."""
    return LyingKey(lie=lambda result: result._replace(**changes))


def custody_at(location: Any) -> Custody:
    """A custody at a place."""
    return replace(CUSTODY, location=location)
