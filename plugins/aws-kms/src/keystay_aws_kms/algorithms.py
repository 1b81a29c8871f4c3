"""JWS algorithms as KMS names them, and the key specs that can do them.

Written out, not computed: a wrong name would be a wrong signature. From the KMS developer guide,
"Key spec reference", and the API reference of Sign.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

__all__ = ["KEY_SPECS", "MAX_RAW_BYTES", "SIGNING", "KeySpec", "Signing", "able", "refusal"]

MAX_RAW_BYTES = 4096
"""Bytes of a message that Sign takes as RAW."""


@dataclass(frozen=True, slots=True)
class Signing:
    """How Sign makes one JWS algorithm's signature.

    Attributes:
        name: KMS's SigningAlgorithm.
        message_type: `DIGEST`, or `RAW` where KMS hashes itself.
        encoding: Of what comes back: DER for ECDSA, else JOSE's own.
    """

    name: str
    message_type: Literal["DIGEST", "RAW"] = "DIGEST"
    encoding: Literal["raw", "der"] = "raw"


SIGNING = {
    "RS256": Signing("RSASSA_PKCS1_V1_5_SHA_256"),
    "RS384": Signing("RSASSA_PKCS1_V1_5_SHA_384"),
    "RS512": Signing("RSASSA_PKCS1_V1_5_SHA_512"),
    "PS256": Signing("RSASSA_PSS_SHA_256"),
    "PS384": Signing("RSASSA_PSS_SHA_384"),
    "PS512": Signing("RSASSA_PSS_SHA_512"),
    "ES256": Signing("ECDSA_SHA_256", encoding="der"),
    "ES384": Signing("ECDSA_SHA_384", encoding="der"),
    "ES512": Signing("ECDSA_SHA_512", encoding="der"),
    # Pure Ed25519 (RFC 8032, 5.1); ED25519_PH_SHA_512 is Ed25519ph, which JWS does not know.
    "EdDSA": Signing("ED25519_SHA_512", "RAW"),
}
"""By JWS algorithm."""

_RSA = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")


@dataclass(frozen=True, slots=True)
class KeySpec:
    """A kind of KMS key that can sign assertions.

    Attributes:
        key_type: As `keystay key generate --type` says it.
        algorithms: JWS algorithms that it can do.
    """

    key_type: str
    algorithms: tuple[str, ...]


KEY_SPECS = {
    "RSA_2048": KeySpec("RSA-2048", _RSA),
    "RSA_3072": KeySpec("RSA-3072", _RSA),
    "RSA_4096": KeySpec("RSA-4096", _RSA),
    "ECC_NIST_P256": KeySpec("P-256", ("ES256",)),
    "ECC_NIST_P384": KeySpec("P-384", ("ES384",)),
    "ECC_NIST_P521": KeySpec("P-521", ("ES512",)),
    "ECC_NIST_EDWARDS25519": KeySpec("Ed25519", ("EdDSA",)),
}
"""By KMS's KeySpec."""

_REFUSED = {
    "ECC_SECG_P256K1": "is on the curve secp256k1, whose ES256K SMART servers do not know",
    "SYMMETRIC_DEFAULT": "is a symmetric encryption key",
    "SM2": "is an SM2 key, which JWS has no algorithm for",
}
_REFUSED_FAMILIES = {
    "HMAC_": "is an HMAC key: it has no public key to register",
    "ML_DSA_": "is an ML-DSA key, which SMART servers do not know",
    "ML_KEM_": "is a key-encapsulation key: it cannot sign",
}


def refusal(spec: str) -> str | None:
    """Why a key of this KeySpec cannot sign assertions; None if it can."""
    if spec in KEY_SPECS:
        return None
    if spec in _REFUSED:
        return _REFUSED[spec]
    for prefix, reason in _REFUSED_FAMILIES.items():
        if spec.startswith(prefix):
            return reason
    return "is of a kind that this version of keystay does not know"


def able(spec: str, signing_algorithms: Collection[str]) -> tuple[str, ...]:
    """JWS algorithms of a KeySpec among the SigningAlgorithms that KMS reports for the key."""
    return tuple(
        name for name in KEY_SPECS[spec].algorithms if SIGNING[name].name in signing_algorithms
    )
