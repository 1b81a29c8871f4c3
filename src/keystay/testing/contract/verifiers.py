"""Two libraries that verify a signature, neither of them keystay's own code."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keystay.algorithms import ALGORITHMS

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

try:
    import jwt
    from joserfc import jws
    from joserfc.jwk import ECKey, OKPKey, RSAKey
except ImportError as error:  # pragma: no cover
    raise ImportError(
        "keystay.testing.SignerContract verifies with PyJWT and joserfc: "
        "pip install 'keystay[testing]'"
    ) from error

_IMPORT: dict[str, Any] = {
    "EC": ECKey.import_key,
    "OKP": OKPKey.import_key,
    "RSA": RSAKey.import_key,
}

__all__ = ["verify_elsewhere", "verify_with_joserfc"]


def verify_elsewhere(
    public_key: PublicKeyTypes, algorithm: str, message: bytes, signature: bytes
) -> None:
    """Fail the test unless PyJWT and joserfc accept a signature.

    Args:
        public_key: The signer's.
        algorithm: The JWS algorithm.
        message: What was signed.
        signature: In JOSE's encoding.
    """
    known = jwt.algorithms.get_default_algorithms()[algorithm]
    if not known.verify(message, known.prepare_key(public_key), signature):
        pytest.fail(f"PyJWT refuses the {algorithm} signature of {len(message)} bytes")
    pem = public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    kty = ALGORITHMS[algorithm].kty
    _verify_with_joserfc(_IMPORT[kty](pem), algorithm, message, signature)


def verify_with_joserfc(
    public_jwk: dict[str, Any], algorithm: str, message: bytes, signature: bytes
) -> None:
    """Fail the test unless joserfc accepts a signature by a published JWK."""
    _verify_with_joserfc(_IMPORT[public_jwk["kty"]](public_jwk), algorithm, message, signature)


def _verify_with_joserfc(key: Any, algorithm: str, message: bytes, signature: bytes) -> None:
    with warnings.catch_warnings():
        # It warns of EdDSA's name (RFC 9864), which has nothing to do with the signature.
        warnings.simplefilter("ignore")
        model = jws.JWSRegistry(algorithms=[algorithm]).get_alg(algorithm)
    if not model.verify(message, signature, key):
        pytest.fail(f"joserfc refuses the {algorithm} signature of {len(message)} bytes")
