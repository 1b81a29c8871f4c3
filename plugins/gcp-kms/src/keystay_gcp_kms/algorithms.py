"""What Google's fixed algorithms are to JWS.

A Google key version signs with one algorithm, chosen when it is made
(https://cloud.google.com/kms/docs/algorithms). The exceptions are the RAW ones, which pad and
sign whatever they get: over a DigestInfo they are RS256, RS384 and RS512. There is no way to
PS384 or ES512.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from keystay import algorithms
from keystay.errors import did_you_mean
from keystay_gcp_kms.errors import TEXTS

__all__ = ["CREATED_AS", "GcpAlgorithm", "algorithm_for_new", "find", "hint", "key_type_of"]

Sends = Literal["digest", "message", "digest-info"]


class GcpAlgorithm(NamedTuple):
    """One of Google's algorithms.

    Attributes:
        name: Google's name, such as `EC_SIGN_P384_SHA384`.
        key_type: `RSA-<bits>`, `P-256`, `P-384` or `Ed25519`.
        able: The JWS algorithms it can be.
        sends: What it signs, when the key is not external: the `digest`, the `message` itself,
            or a `digest-info` (RFC 8017 §9.2).
    """

    name: str
    key_type: str
    able: tuple[str, ...]
    sends: Sends


_RAW = ("RS384", "RS256", "RS512")
_FOUND = {
    a.name: a
    for a in (
        *(
            GcpAlgorithm(f"RSA_SIGN_{scheme}_{bits}_SHA{size}", f"RSA-{bits}", (jws,), "digest")
            for scheme, letters in (("PKCS1", "RS"), ("PSS", "PS"))
            for bits, size in ((2048, 256), (3072, 256), (4096, 256), (4096, 512))
            for jws in (f"{letters}{size}",)
        ),
        *(
            GcpAlgorithm(f"RSA_SIGN_RAW_PKCS1_{bits}", f"RSA-{bits}", _RAW, "digest-info")
            for bits in (2048, 3072, 4096)
        ),
        GcpAlgorithm("EC_SIGN_P256_SHA256", "P-256", ("ES256",), "digest"),
        GcpAlgorithm("EC_SIGN_P384_SHA384", "P-384", ("ES384",), "digest"),
        GcpAlgorithm("EC_SIGN_ED25519", "Ed25519", ("EdDSA",), "message"),
    )
}

CREATED_AS = {
    "P-256": "EC_SIGN_P256_SHA256",
    "P-384": "EC_SIGN_P384_SHA384",
    "RSA-2048": "RSA_SIGN_RAW_PKCS1_2048",
    "RSA-3072": "RSA_SIGN_RAW_PKCS1_3072",
    "RSA-4096": "RSA_SIGN_RAW_PKCS1_4096",
    "Ed25519": "EC_SIGN_ED25519",
}
"""The algorithm of new keys by key type: RSA is RAW, since only that can do RS384."""

_BETTER = (
    "Create another key: EC_SIGN_P384_SHA384 for ES384 (--type P-384), or "
    "RSA_SIGN_RAW_PKCS1_3072 for RS384, RS256 and RS512 (--type RSA-3072)"
)
_CREATE = "keystay key generate 'gcpkms://…/keyRings/RING/cryptoKeys/NEW' --type P-384"


def find(name: str, key: str) -> GcpAlgorithm:
    """Google's algorithm of that name.

    Args:
        name: As Google names it.
        key: Names the key in the error.

    Raises:
        KeyUnusableError: It is none that signs assertions.
    """
    if found := _FOUND.get(name):
        return found
    better = f"{_BETTER}: {_CREATE}"
    raise TEXTS.error("algorithm", name=key, algorithm=name, reason=_why_not(name), better=better)


def _why_not(name: str) -> str:
    for part, why in (
        ("SECP256K1", "SMART has no algorithm for the curve secp256k1."),
        ("HMAC", "A MAC key is shared with whoever verifies; SMART wants a signature."),
        ("DECRYPT", "The key was made to decrypt."),
        ("PQ_SIGN", "JWS has no registered algorithm for this post-quantum scheme yet."),
        ("ML_KEM", "The key was made to agree on keys (KEM)."),
        ("KEM_XWING", "The key was made to agree on keys (KEM)."),
        ("AES", "The key was made to encrypt."),
        ("SYMMETRIC_ENCRYPTION", "The key was made to encrypt."),
    ):
        if part in name:
            return why
    return "keystay does not know this algorithm."


def hint(algorithm: GcpAlgorithm) -> str:
    """The remedy when something else is asked of a key than its algorithm can do."""
    able = ", ".join(sorted(algorithm.able))
    return (
        f"Google fixes the algorithm when a key is made; this one is {algorithm.name}, which can "
        f"do {able} only. Configure that, if the server takes it. {_BETTER}: {_CREATE} "
        "Google has no algorithm for PS384 and ES512."
    )


def key_type_of(name: str) -> str:
    """The key type of an algorithm, or Google's name where keystay has none."""
    found = _FOUND.get(name)
    return found.key_type if found else name


def algorithm_for_new(key_type: str) -> str:
    """The algorithm to make a key of a type with.

    Raises:
        ConfigurationError: Google has none.
    """
    if name := CREATED_AS.get(key_type):
        return name
    curves = {a.curve for a in algorithms.ALGORITHMS.values()}
    known = f"Known: {', '.join(CREATED_AS)}."
    suggestion = known if key_type in curves else did_you_mean(key_type, CREATED_AS)
    raise TEXTS.error("key-type", key_type=key_type, suggestion=suggestion)
