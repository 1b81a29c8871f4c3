"""Verifies what an HSM attests of a key, where somebody supplies the roots to trust.

Google's attestation (formats CAVIUM_V1_COMPRESSED and CAVIUM_V2_COMPRESSED) is gzip; its last 256
bytes are an RSA signature (PKCS #1 v1.5, SHA-256) over the rest, made by the HSM partition whose
certificate comes along. The manufacturer signs that certificate, and Google does.
https://cloud.google.com/kms/docs/attest-key

Checked here: the chain up to a supplied root, the signature, and that the statement holds this
public key. Not read: the attributes in the statement, which the manufacturer's own parser explains.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
    from google.cloud import kms_v1

__all__ = ["AttestationInvalid", "load_roots", "verify"]

_SIGNATURE_SIZE = 256
_LARGEST = 1 << 20
_LONGEST_CHAIN = 5


class AttestationInvalid(Exception):  # noqa: N818 - a verdict
    """Why a statement proves nothing."""


def load_roots(pem: bytes) -> list[x509.Certificate]:
    """The certificates of a PEM file.

    Raises:
        ValueError: There is none, or one cannot be read.
    """
    return x509.load_pem_x509_certificates(pem)


def verify(
    attestation: kms_v1.KeyOperationAttestation,
    public_key: PublicKeyTypes,
    roots: Sequence[x509.Certificate],
    *,
    now: datetime | None = None,
) -> str:
    """Verify a statement about a key.

    Args:
        attestation: As Google returns it, with its certificate chains.
        public_key: The key that it has to be about.
        roots: The certificates that are trusted.
        now: The time at which the certificates have to be good.

    Returns:
        The subject of the root that vouches for it.

    Raises:
        AttestationInvalid: With the reason.
    """
    if not attestation.content:
        raise AttestationInvalid("there is none")
    text = _decompressed(attestation.content)
    if len(text) <= _SIGNATURE_SIZE:
        raise AttestationInvalid("it is too short to be signed")
    statement, signature = text[:-_SIGNATURE_SIZE], text[-_SIGNATURE_SIZE:]
    chains = attestation.cert_chains
    given = _certificates(
        (*chains.google_partition_certs, *chains.google_card_certs, *chains.cavium_certs)
    )
    signers = [c for c in given if _signed(c, statement, signature)]
    if not signers:
        raise AttestationInvalid(
            "no certificate that came along verifies its signature"
            if given
            else "no certificate came along"
        )
    if not any(encoding in statement for encoding in _encodings(public_key)):
        raise AttestationInvalid("it is about another key")
    moment = now or datetime.now(UTC)
    for signer in signers:
        root = _root_of(signer, given, roots, moment)
        if root is not None:
            return root.subject.rfc4514_string()
    raise AttestationInvalid(
        "its certificates do not lead to a root that is trusted, or are not good now"
    )


def _decompressed(content: bytes) -> bytes:
    try:
        stream = zlib.decompressobj(wbits=31)
        text = stream.decompress(content, _LARGEST)
    except zlib.error:
        raise AttestationInvalid("it is not gzip") from None
    if not stream.eof:
        raise AttestationInvalid("it is cut off, or too long")
    return text


def _certificates(pems: Iterable[str]) -> list[x509.Certificate]:
    found: list[x509.Certificate] = []
    for pem in pems:
        try:
            found += x509.load_pem_x509_certificates(pem.encode())
        except ValueError:
            raise AttestationInvalid("a certificate that came along cannot be read") from None
    return found


def _signed(certificate: x509.Certificate, statement: bytes, signature: bytes) -> bool:
    key = certificate.public_key()
    if not isinstance(key, RSAPublicKey):
        return False
    try:
        key.verify(signature, statement, PKCS1v15(), hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def _encodings(public_key: PublicKeyTypes) -> list[bytes]:
    """As CKA_MODULUS, or as in CKA_EC_POINT."""
    if isinstance(public_key, RSAPublicKey):
        return [public_key.public_numbers().n.to_bytes(public_key.key_size // 8, "big")]
    if isinstance(public_key, EllipticCurvePublicKey):
        numbers, size = public_key.public_numbers(), (public_key.key_size + 7) // 8
        return [numbers.x.to_bytes(size, "big") + numbers.y.to_bytes(size, "big")]
    return []


def _root_of(
    certificate: x509.Certificate,
    given: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    now: datetime,
    depth: int = 0,
) -> x509.Certificate | None:
    """The trusted certificate that a chain of good ones leads to, or None."""
    if depth > _LONGEST_CHAIN or not _is_good(certificate, now):
        return None
    for root in roots:
        if certificate == root or (_is_good(root, now) and _issued(certificate, root)):
            return root
    for issuer in given:
        if issuer != certificate and _issued(certificate, issuer):
            found = _root_of(issuer, given, roots, now, depth + 1)
            if found is not None:
                return found
    return None


def _is_good(certificate: x509.Certificate, now: datetime) -> bool:
    return certificate.not_valid_before_utc <= now <= certificate.not_valid_after_utc


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (InvalidSignature, TypeError, ValueError):
        return False
    return True
