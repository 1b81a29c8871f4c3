"""An opened PEM key. It is loaded once: checking an RSA key takes up to a third of a second."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils

from keystay.algorithms import ALGORITHMS, for_key
from keystay.backends import BackendSignature, KeyDescription
from keystay.concurrency.clock import Deadline
from keystay.concurrency.forks import hold_off_forks
from keystay.custody import Custody, Fact
from keystay.jwk import key_kind, public_jwk, thumbprint
from keystay_pem.pem_file import TEXTS, PrivateKey, load, path_of

if TYPE_CHECKING:
    from pathlib import Path

    from keystay.backends import BackendContext, SignRequest
    from keystay.key_uri import KeyURI

__all__ = ["PemKey"]

logger = logging.getLogger("keystay.backends.pem")

_HASHES = {"sha256": hashes.SHA256(), "sha384": hashes.SHA384(), "sha512": hashes.SHA512()}
# By algorithm, and by whether the digest is given: OpenSSL hashes a message itself.
_HASH: dict[tuple[str, bool], hashes.HashAlgorithm | utils.Prehashed] = {
    (a.name, given): utils.Prehashed(_HASHES[a.hash_name]) if given else _HASHES[a.hash_name]
    for a in ALGORITHMS.values()
    if a.hash_name
    for given in (False, True)
}
_ECDSA = {key: ec.ECDSA(hashed) for key, hashed in _HASH.items()}
_PADDING: dict[str, padding.AsymmetricPadding] = {
    a.name: padding.PSS(padding.MGF1(_HASHES[a.hash_name]), a.digest_size)
    if a.family == "RSASSA-PSS"
    else padding.PKCS1v15()
    for a in ALGORITHMS.values()
    if a.kty == "RSA" and a.hash_name
}

_warned: set[Path] = set()


class PemKey:
    """A private key from a PEM file, in this process."""

    def __init__(self, key: PrivateKey, path: Path) -> None:
        kty, curve, _ = key_kind(key.public_key())
        self._key: PrivateKey | None = key
        self._id = thumbprint(public_jwk(key.public_key()))
        self._description = KeyDescription(
            public_key=key.public_key(),
            algorithms=for_key(kty, curve),
            key_id=self._id,
            label=path.name,
            custody=Custody(
                "in-process",
                "reported",
                f"The private key was read from {path} into this process.",
                {"extractable": Fact(True, "reported")},
            ),
            signs_here=True,
            brief=kty != "RSA",
        )

    @classmethod
    def open(cls, uri: KeyURI, context: BackendContext) -> PemKey:
        """Load the key; warns once for each file that it is now in this process."""
        path = path_of(uri, context)
        with hold_off_forks(Deadline.after(context.timeout)):
            key = cls(load(uri, context), path)
        if path not in _warned:
            _warned.add(path)
            logger.warning(
                "The private key of %s is in this process's memory: whoever can read the memory "
                "or the file has the key. An HSM or KMS keeps it out.",
                path,
                extra={"event": "key-in-process"},
            )
        return key

    def describe(self) -> KeyDescription:
        """What is known about the key."""
        return self._description

    def sign(self, request: SignRequest) -> BackendSignature:
        """Sign; the deadline does not matter to a signature of a millisecond."""
        key, name = self._key, request.algorithm.name
        if key is None:
            raise TEXTS.error("closed", name=self._description.label)
        is_given = request.message is None
        data = cast(bytes, request.given_digest if is_given else request.message)
        with hold_off_forks(request.deadline):
            if isinstance(key, ec.EllipticCurvePrivateKey):
                value = key.sign(data, _ECDSA[name, is_given])
                return BackendSignature(value, "der", self._id)
            if isinstance(key, rsa.RSAPrivateKey):
                value = key.sign(data, _PADDING[name], _HASH[name, is_given])
            else:
                value = key.sign(data)
            return BackendSignature(value, "raw", self._id)

    def health(self, deadline: Deadline) -> None:
        """Good as long as the key is open."""
        if self._key is None:
            raise TEXTS.error("closed", name=self._description.label)

    def close(self) -> None:
        """Let go of the key."""
        self._key = None

    def __repr__(self) -> str:
        return f"<PemKey {self._description.label}>"
