"""A backend that keeps every promise; the faulty ones change one thing."""

from __future__ import annotations

import contextlib
import time
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from keystay import algorithms, jwk
from keystay.backends import BackendSignature, KeyDescription, hookimpl
from keystay.custody import Custody, Fact
from keystay.errors import BackendError, SignerClosedError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystay.backends import BackendContext, BackendKey, Deadline, SignRequest
    from keystay.key_uri import KeyURI

FAILS: set[str] = set()
PIN = "contract-pin-59302718"
HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


def generate(name: str) -> Any:
    if name == "P-384":
        return ec.generate_private_key(ec.SECP384R1())
    return rsa.generate_private_key(65537, 2048)


class Store:
    """What stands for the device: its keys, and how late it answers."""

    keys: ClassVar[dict[str, Any]] = {name: generate(name) for name in ("P-384", "RSA-2048")}
    latency: ClassVar[float] = 0.0

    @classmethod
    def swap(cls, name: str) -> None:
        cls.keys[name] = generate(name)

    @classmethod
    @contextlib.contextmanager
    def slow(cls, seconds: float) -> Iterator[None]:
        cls.latency = seconds
        try:
            yield
        finally:
            cls.latency = 0.0


class HonestKey:
    """A key somewhere else, for which a PIN is needed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.private_key = Store.keys[name]
        self.closed = False
        self.signed = 0

    def describe(self) -> KeyDescription:
        public_key = self.private_key.public_key()
        kty, curve, _ = jwk.key_kind(public_key)
        return KeyDescription(
            public_key, algorithms.for_key(kty, curve), self.key_id(), self.name, self.custody()
        )

    def key_id(self) -> str:
        return jwk.thumbprint(jwk.public_jwk(self.private_key.public_key()))

    def custody(self) -> Custody:
        facts = {"extractable": Fact(False, "reported")}
        return Custody("remote-service", "reported", "A test says so.", facts)

    def sign(self, request: SignRequest) -> BackendSignature:
        self.check_open()
        self.wait(request.deadline)
        self.signed += 1
        value = self.signature(request)
        encoding: Any = "der" if request.algorithm.kty == "EC" else "raw"
        return BackendSignature(value, encoding, self.key_id())

    def signature(self, request: SignRequest) -> bytes:
        return sign(self.private_key, request, self.digest(request))

    def digest(self, request: SignRequest) -> bytes:
        digest = request.digest or b""
        if len(digest) != request.algorithm.digest_size:
            raise BackendError("The digest has another length.")
        return digest

    def wait(self, deadline: Deadline) -> None:
        time.sleep(min(Store.latency, deadline.remaining))
        deadline.check("Signing")

    def health(self, deadline: Deadline) -> None:
        self.check_open()

    def close(self) -> None:
        self.closed = True

    def check_open(self) -> None:
        if self.closed:
            raise SignerClosedError("The key is closed.")

    def __reduce__(self) -> Any:
        raise TypeError("not pickled")


def sign(private_key: Any, request: SignRequest, digest: bytes, **changes: Any) -> bytes:
    """Sign with `cryptography`; `salt` and `hashed` may be other than they should."""
    hashed = changes.get("hashed", HASHES[request.algorithm.name[2:]])
    prehashed = utils.Prehashed(hashed)
    if isinstance(private_key, ec.EllipticCurvePrivateKey):
        return private_key.sign(digest, ec.ECDSA(prehashed))
    pad: padding.AsymmetricPadding = padding.PKCS1v15()
    if request.algorithm.family == "RSASSA-PSS":
        pad = padding.PSS(padding.MGF1(hashed), changes.get("salt", hashed.digest_size))
    value: bytes = private_key.sign(digest, pad, prehashed)
    return value


def plugin(key: type[HonestKey]) -> ModuleType:
    """A backend that opens keys of a class."""

    @hookimpl
    def keystay_open_key(uri: KeyURI, context: BackendContext) -> BackendKey:
        return key(uri.path)

    module = ModuleType(key.__module__)
    module.api_version = 1  # type: ignore[attr-defined]
    module.keystay_open_key = keystay_open_key  # type: ignore[attr-defined]
    return module


BACKEND = plugin(HonestKey)
