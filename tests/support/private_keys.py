"""A private key as programs would write it, to look for it where nobody may see it."""

from __future__ import annotations

import base64
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

__all__ = ["spellings"]


def spellings(private_key: Any) -> list[str]:
    """Its numbers in decimal, hexadecimal, Base64 and bytes, and the lines of its PEM file."""
    pem = private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    found = [line for line in pem.splitlines() if len(line) == 64]
    for secret in _secrets(private_key):
        number = int.from_bytes(secret)
        found += [str(number), f"{number:x}", f"{number:X}", secret.hex(), secret.decode("latin-1")]
        found += [repr(secret)[2:-1]]
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            found.append(encode(secret).decode().rstrip("="))
    return found


def _secrets(private_key: Any) -> list[bytes]:
    if isinstance(private_key, ed25519.Ed25519PrivateKey):
        return [private_key.private_bytes_raw()]
    numbers = private_key.private_numbers()
    if isinstance(private_key, rsa.RSAPrivateKey):
        values = [numbers.d, numbers.p, numbers.q]
    else:
        values = [numbers.private_value]
    return [value.to_bytes((value.bit_length() + 7) // 8) for value in values]
