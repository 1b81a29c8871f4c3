"""The JWS algorithms an assertion can be signed with (RFC 7518 §3, RFC 8037 §3.1).

Pure data: which hash, which kind of key, how long a signature is. No cryptography is
imported here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from keystay.errors import AlgorithmError, KeyUnusableError

__all__ = ["ALGORITHMS", "MIN_RSA_BITS", "Algorithm", "for_key", "get"]

MIN_RSA_BITS = 2048
"""Smallest RSA modulus allowed, in bits (RFC 7518 §3.3)."""

Family = Literal["RSASSA-PKCS1-v1_5", "RSASSA-PSS", "ECDSA", "EdDSA"]


@dataclass(frozen=True, slots=True)
class Algorithm:
    """One JWS algorithm.

    Attributes:
        name: The `alg` value, such as `RS384`.
        family: The signature scheme.
        kty: JWK key type: `RSA`, `EC` or `OKP`.
        hash: hashlib's constructor, or None where the scheme takes the message itself (EdDSA).
        curve: JWK `crv` the key must be on, or None for RSA.
        coordinate_size: Bytes of each of r and s (ECDSA), else 0.
    """

    name: str
    family: Family
    kty: Literal["RSA", "EC", "OKP"]
    hash: Callable[[bytes], hashlib._Hash] | None
    curve: str | None = None
    coordinate_size: int = 0

    @property
    def hash_name(self) -> str | None:
        """Hashlib's name of the hash, such as `sha384`; None for EdDSA."""
        return None if self.hash is None else self.hash(b"").name

    @property
    def digest_size(self) -> int:
        """Bytes of the digest; for PSS also the salt's length (RFC 7518 §3.5). 0 for EdDSA."""
        return 0 if self.hash is None else self.hash(b"").digest_size

    def digest(self, message: bytes) -> bytes | None:
        """Hash `message`, or None where the scheme signs the message itself."""
        return None if self.hash is None else self.hash(message).digest()

    def signature_size(self, key_bits: int) -> int:
        """Bytes of a JOSE signature by a key of `key_bits` (the modulus; ignored for EC, OKP)."""
        if self.kty == "RSA":
            return (key_bits + 7) // 8
        return 2 * self.coordinate_size if self.kty == "EC" else 64


ALGORITHMS: dict[str, Algorithm] = {
    a.name: a
    for a in (
        Algorithm("RS256", "RSASSA-PKCS1-v1_5", "RSA", hashlib.sha256),
        Algorithm("RS384", "RSASSA-PKCS1-v1_5", "RSA", hashlib.sha384),
        Algorithm("RS512", "RSASSA-PKCS1-v1_5", "RSA", hashlib.sha512),
        Algorithm("PS256", "RSASSA-PSS", "RSA", hashlib.sha256),
        Algorithm("PS384", "RSASSA-PSS", "RSA", hashlib.sha384),
        Algorithm("PS512", "RSASSA-PSS", "RSA", hashlib.sha512),
        Algorithm("ES256", "ECDSA", "EC", hashlib.sha256, "P-256", 32),
        Algorithm("ES384", "ECDSA", "EC", hashlib.sha384, "P-384", 48),
        Algorithm("ES512", "ECDSA", "EC", hashlib.sha512, "P-521", 66),
        Algorithm("EdDSA", "EdDSA", "OKP", None, "Ed25519"),
    )
}
"""Every algorithm keystay knows, by name."""

# What a key signs with when nobody says otherwise: SMART asks for RS384 and ES384
# (App Launch 2.2, client-confidential-asymmetric); other curves have but one algorithm.
_PREFERRED_RSA = ("RS384", "RS256", "RS512", "PS384", "PS256", "PS512")


def get(name: str) -> Algorithm:
    """The algorithm called `name`.

    Raises:
        AlgorithmError: There is none of that name.
    """
    try:
        return ALGORITHMS[name]
    except (KeyError, TypeError):
        raise AlgorithmError(
            f"{name!r} is not a signature algorithm keystay knows.",
            hint=f"Use one of {', '.join(ALGORITHMS)}. SMART servers know RS384 or ES384.",
            code="algorithm-unknown",
        ) from None


def for_key(kty: str, curve: str | None) -> tuple[str, ...]:
    """Names of the algorithms for a kind of key, the default first.

    Args:
        kty: JWK key type.
        curve: JWK `crv`, or None for RSA.

    Raises:
        KeyUnusableError: No JWS algorithm fits.
    """
    if kty == "RSA":
        return _PREFERRED_RSA
    names = tuple(a.name for a in ALGORITHMS.values() if a.kty == kty and a.curve == curve)
    if not names:
        raise KeyUnusableError(
            f"A key of type {curve or kty} cannot sign assertions.",
            cause="JWS knows P-256, P-384, P-521 and Ed25519 (RFC 7518, RFC 8037).",
            hint="Use a P-384 or RSA-3072 key: SMART servers know ES384 or RS384.",
            code="key-curve-unsupported",
        )
    return names
