"""A private key's secrets as byte strings to look for, in every form that software gives them."""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator
from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

__all__ = ["Needle", "encode", "needles", "secrets_of"]

PrivateKey = RSAPrivateKey | EllipticCurvePrivateKey

_WINDOW = 16  # bytes: 128 bits that nothing else has, and parts of a number are found too
_TEXT_WINDOW = 24  # base64 characters: 144 bits


class Needle(NamedTuple):
    """Bytes to look for.

    Attributes:
        secret: The name of the number: `d`, `p`, `qinv`, …; `file` for a line of a PEM file.
        form: How it is written.
        value: The bytes.
    """

    secret: str
    form: str
    value: bytes

    def __repr__(self) -> str:
        return f"<Needle {self.secret}, {self.form}>"


def secrets_of(key: PrivateKey) -> dict[str, int]:
    """The numbers that must not be known."""
    if isinstance(key, RSAPrivateKey):
        n = key.private_numbers()
        return {"d": n.d, "p": n.p, "q": n.q, "dp": n.dmp1, "dq": n.dmq1, "qinv": n.iqmp}
    return {"d": key.private_numbers().private_value}


def needles(key: PrivateKey) -> list[Needle]:
    """Everything to look for."""
    found: dict[bytes, Needle] = {}
    for needle in (*_numbers(key), *_pem_lines(key)):
        found.setdefault(needle.value, needle)
    return list(found.values())


def encode(wanted: list[Needle]) -> bytes:
    """As search.c reads them."""
    return b"".join(bytes([len(n.value)]) + n.value for n in wanted)


def _numbers(key: PrivateKey) -> Iterator[Needle]:
    for name, number in secrets_of(key).items():
        size = (number.bit_length() + 7) // 8
        big = number.to_bytes(size, "big")
        for form, whole, window in (
            ("big-endian", big, _WINDOW),
            ("little-endian", big[::-1], _WINDOW),
            ("Python's 30-bit digits", _digits(number), _WINDOW),
            ("hexadecimal", big.hex().encode(), 2 * _WINDOW),
            ("hexadecimal, upper case", big.hex().upper().encode(), 2 * _WINDOW),
            *(
                (f"{form}, shifted by {shift}", convert(big[shift:]), _TEXT_WINDOW)
                for form, convert in (
                    ("base64", base64.b64encode),
                    ("base64url", base64.urlsafe_b64encode),
                )
                for shift in range(3)
            ),
        ):
            for part in _windows(whole, window):
                yield Needle(name, form, part)
        signed = big if big[0] < 0x80 else b"\0" + big
        yield Needle(name, "DER INTEGER", (_der_header(0x02, len(signed)) + signed)[:40])
        yield Needle(name, "DER OCTET STRING", (_der_header(0x04, size) + big)[:40])


def _windows(whole: bytes, window: int) -> Iterator[bytes]:
    """Start, middle and end; the very ends may be padding."""
    middle = (len(whole) - window) // 2
    for start in (0, middle, len(whole) - window - 4):
        yield whole[start : start + window]


def _digits(number: int) -> bytes:
    """As CPython keeps an int: 30 bits in each 32-bit digit, the least first."""
    digits = []
    while number:
        digits.append((number & (1 << 30) - 1).to_bytes(4, sys.byteorder))
        number >>= 30
    return b"".join(digits)


def _der_header(tag: int, length: int) -> bytes:
    if length < 0x80:
        return bytes([tag, length])
    size = (length.bit_length() + 7) // 8
    return bytes([tag, 0x80 | size]) + length.to_bytes(size, "big")


def _pem_lines(key: PrivateKey) -> Iterator[Needle]:
    """The parts of each PEM line that hold nothing but secret bytes."""
    spans = [n.to_bytes((n.bit_length() + 7) // 8, "big") for n in secrets_of(key).values()]
    for form, kind in (
        ("PKCS#8 PEM", PrivateFormat.PKCS8),
        ("traditional PEM", PrivateFormat.TraditionalOpenSSL),
    ):
        der = key.private_bytes(Encoding.DER, kind, NoEncryption())
        text = base64.b64encode(der)
        secret = bytearray(len(text))
        for span in spans:
            at = der.find(span)
            if at >= 0:  # base64 characters made of this span alone
                for i in range(-(-at // 3) * 4, (at + len(span)) // 3 * 4):
                    secret[i] = 1
        for start in range(0, len(text), 64):
            marks = bytes(secret[start : start + 64])
            first = marks.find(b"\1" * _TEXT_WINDOW)
            if first >= 0:
                part = text[start + first : start + first + _TEXT_WINDOW]
                yield Needle("file", form, part)
