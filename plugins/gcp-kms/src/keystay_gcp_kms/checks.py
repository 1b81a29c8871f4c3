"""The integrity checks Google asks its callers to make; each fails closed.

https://cloud.google.com/kms/docs/data-integrity-guidelines
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import google_crc32c

from keystay.errors import KeystayError
from keystay_gcp_kms.errors import TEXTS

if TYPE_CHECKING:
    from google.cloud.kms_v1 import AsymmetricSignResponse, PublicKey

__all__ = ["check_name", "check_public_key", "check_signature", "crc32c"]


def crc32c(data: bytes) -> int:
    """The CRC32C (Castagnoli, RFC 3720 §12.1) of some bytes, as Google wants it."""
    return int(google_crc32c.value(data))


def check_public_key(answer: PublicKey) -> None:
    """Demand that the PEM arrived as it was sent.

    Raises:
        BackendUnavailableError: It did not, or the checksum is missing.
    """
    _check("pem", "public key", answer.pem.encode(), answer.pem_crc32c)


def check_signature(answer: AsymmetricSignResponse, *, sent: str) -> None:
    """Demand that what was sent arrived, and that the signature did.

    Args:
        answer: Google's.
        sent: `digest` or `data`, whichever was sent along with its checksum.

    Raises:
        BackendUnavailableError: One of them did not, or a checksum is missing.
    """
    verified = answer.verified_digest_crc32c if sent == "digest" else answer.verified_data_crc32c
    if not verified:
        raise _corrupted(
            sent, f"Google did not confirm the checksum of the {sent} it was sent to sign."
        )
    _check("signature", "signature", answer.signature, answer.signature_crc32c)


def check_name(found: str, expected: str, what: str) -> None:
    """Demand that an answer is about the key version asked for.

    Raises:
        KeyChangedError: It is about another.
    """
    if found != expected:
        found = found or "no key version at all"
        raise TEXTS.error("name", what=what, found=found, expected=expected)


def _check(part: str, what: str, data: bytes, checksum: int | None) -> None:
    # proto-plus turns the Int64Value into an int, or None when it is missing.
    if checksum is None:
        raise _corrupted(part, f"Google sent the {what} without a checksum.")
    if crc32c(data) != checksum:
        raise _corrupted(part, f"The {what} does not fit the checksum Google sent with it.")


def _corrupted(part: str, problem: str) -> KeystayError:
    return TEXTS.error(f"crc-{part}", problem=problem)
