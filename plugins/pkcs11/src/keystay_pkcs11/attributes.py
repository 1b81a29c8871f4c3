"""Attributes as tokens really give them: absent, sensitive, misspelt, in odd encodings."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from pkcs11 import Attribute, ObjectClass
from pkcs11.attributes import AttributeMapper as _StrictMapper
from pkcs11.exceptions import (
    AttributeSensitive,
    AttributeTypeInvalid,
    AttributeValueInvalid,
    FunctionFailed,
)
from pkcs11.mechanisms import KeyType

if TYPE_CHECKING:
    from pkcs11 import Object

__all__ = ["ALLOWED_MECHANISMS", "PUBLIC_KEY_INFO", "AttributeMapper", "read"]

PUBLIC_KEY_INFO = 0x129
"""CKA_PUBLIC_KEY_INFO (PKCS #11 v2.40): DER SubjectPublicKeyInfo; python-pkcs11 lacks it."""

ALLOWED_MECHANISMS = int(Attribute.ALLOWED_MECHANISMS)

_ABSENT = (
    AttributeTypeInvalid,
    AttributeSensitive,
    AttributeValueInvalid,
    FunctionFailed,  # python-pkcs11's for CK_UNAVAILABLE_INFORMATION with CKR_OK
    NotImplementedError,
    ValueError,
    struct.error,
)


class AttributeMapper(_StrictMapper):
    """python-pkcs11's, made to survive vendor key types and labels that are not UTF-8."""

    def __init__(self) -> None:
        super().__init__()
        types: dict[Any, Any] = self.attribute_types
        types[Attribute.LABEL] = (str.encode, lambda raw: raw.decode(errors="replace"))
        types[Attribute.KEY_TYPE] = (_pack_number, lambda raw: _known(KeyType, raw))
        types[Attribute.CLASS] = (_pack_number, lambda raw: _known(ObjectClass, raw))
        types[PUBLIC_KEY_INFO] = (bytes, bytes)
        types[ALLOWED_MECHANISMS] = (
            lambda numbers: struct.pack(f"@{len(numbers)}L", *numbers),
            lambda raw: struct.unpack(f"@{len(raw) // struct.calcsize('@L')}L", raw),
        )


def read(item: Object, attribute: int, default: Any = None) -> Any:
    """An attribute, or `default` where the token does not give it.

    Raises:
        PKCS11Error: The token or the session failed; not because of the attribute.
    """
    try:
        return item[attribute]  # type: ignore[index]
    except _ABSENT:
        return default


def _pack_number(value: int) -> bytes:
    return struct.pack("@L", int(value))


def _known(kind: type[KeyType] | type[ObjectClass], raw: bytes) -> int:
    number: int = struct.unpack("@L", raw)[0]
    try:
        return kind(number)
    except ValueError:
        return number
