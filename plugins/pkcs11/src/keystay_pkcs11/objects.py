"""Objects on a token: a private key, the public key that goes with it, and their attributes.

Attributes are read as tokens really give them: absent, sensitive, misspelt, in odd encodings. EC
parameters come as an OID or, for Ed25519, as a curve's name; points come as a DER OCTET STRING, as
a BIT STRING or raw. Which it is, the curve's size decides: 0x04 begins both an OCTET STRING and an
uncompressed point.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING, Any, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute, ObjectClass
from pkcs11.attributes import AttributeMapper as _StrictMapper
from pkcs11.exceptions import (
    AttributeSensitive,
    AttributeTypeInvalid,
    AttributeValueInvalid,
    FunctionFailed,
    GeneralError,
)
from pkcs11.mechanisms import KeyType

from keystay.custody import Fact
from keystay_pkcs11.cryptoki import find_objects
from keystay_pkcs11.errors import TEXTS

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
    from pkcs11 import Object

    from keystay_pkcs11.errors import Place
    from keystay_pkcs11.sessions import Session

__all__ = [
    "AttributeMapper", "KeyQuery", "PrivateKey", "ec_public_key", "find", "find_all",
    "key_type_name", "public_key_of",
]  # fmt: skip

_SIGNING_TYPES = (KeyType.RSA, KeyType.EC, KeyType.EC_EDWARDS)
_MOST_LISTED = 20
_PUBLIC_KEY_INFO = 0x129
"""CKA_PUBLIC_KEY_INFO (PKCS #11 v2.40): DER SubjectPublicKeyInfo; python-pkcs11 lacks it."""

_ALLOWED_MECHANISMS = int(Attribute.ALLOWED_MECHANISMS)

_ABSENT = (
    AttributeTypeInvalid,
    AttributeSensitive,
    AttributeValueInvalid,
    FunctionFailed,  # python-pkcs11's for CK_UNAVAILABLE_INFORMATION with CKR_OK
    NotImplementedError,
    ValueError,
    struct.error,
)


# What the token reports of a key, and how our reports call it.
_FLAGS = {
    "sensitive": Attribute.SENSITIVE,
    "extractable": Attribute.EXTRACTABLE,
    "always_sensitive": Attribute.ALWAYS_SENSITIVE,
    "never_extractable": Attribute.NEVER_EXTRACTABLE,
    "local": Attribute.LOCAL,
    "sign": Attribute.SIGN,
    "always_authenticate": Attribute.ALWAYS_AUTHENTICATE,
}


_OID, _PRINTABLE_STRING, _OCTET_STRING, _BIT_STRING = 0x06, 0x13, 0x04, 0x03
_ED25519_OIDS = ("1.3.101.112", "1.3.6.1.4.1.11591.15.1")
_CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
_CURVES_BY_NAME: dict[str, ec.EllipticCurve] = {
    **_CURVES, **{curve.name: curve for curve in _CURVES.values()}, "prime256v1": ec.SECP256R1(),
}  # fmt: skip
_ED25519_NAMES = ("edwards25519", "Ed25519", "curve25519")
_NAME_OF = {curve.name: name for name, curve in _CURVES.items()}


class AttributeMapper(_StrictMapper):
    """python-pkcs11's, made to survive vendor key types and labels that are not UTF-8."""

    def __init__(self) -> None:
        super().__init__()
        types: dict[Any, Any] = self.attribute_types
        types[Attribute.LABEL] = (str.encode, lambda raw: raw.decode(errors="replace"))
        types[Attribute.KEY_TYPE] = (_pack_number, lambda raw: _known(KeyType, raw))
        types[Attribute.CLASS] = (_pack_number, lambda raw: _known(ObjectClass, raw))
        types[_PUBLIC_KEY_INFO] = (bytes, bytes)
        types[_ALLOWED_MECHANISMS] = (
            lambda numbers: struct.pack(f"@{len(numbers)}L", *numbers),
            lambda raw: struct.unpack(f"@{len(raw) // struct.calcsize('@L')}L", raw),
        )


def _read(item: Object, attribute: int, default: Any = None) -> Any:
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


@dataclass(frozen=True, slots=True)
class KeyQuery:
    """Which private key: by CKA_ID, CKA_LABEL, both, or (neither) the only one that signs."""

    key_id: bytes | None = None
    label: str | None = None

    @property
    def template(self) -> dict[Attribute, Any]:
        """The search template for private keys."""
        template: dict[Attribute, Any] = {Attribute.CLASS: ObjectClass.PRIVATE_KEY}
        if self.key_id is not None:
            template[Attribute.ID] = self.key_id
        if self.label is not None:
            template[Attribute.LABEL] = self.label
        return template

    def __str__(self) -> str:
        parts = [] if self.label is None else [f"label {self.label!r}"]
        parts += [] if self.key_id is None else [f"id {self.key_id.hex()}"]
        return " and ".join(parts)


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A private key object.

    Attributes:
        native: python-pkcs11's object, of the session it was found in.
        handle: CK_OBJECT_HANDLE, good in every session of this process with the token.
        key_id: CKA_ID, or empty.
        label: CKA_LABEL, or empty.
        key_type: CKK number.
        flags: `sensitive`, `extractable`, …; those the token gives.
        allowed_mechanisms: CKA_ALLOWED_MECHANISMS; empty for no restriction.
        created: CKA_START_DATE, or None.
    """

    native: Object = field(repr=False)
    handle: int
    key_id: bytes
    label: str
    key_type: int
    flags: dict[str, bool]
    allowed_mechanisms: tuple[int, ...] = ()
    created: Fact | None = None

    @property
    def type_name(self) -> str:
        """The key type's name, such as `RSA`."""
        return getattr(self.key_type, "name", None) or f"{self.key_type:#x}"

    def __str__(self) -> str:
        signs = "" if self.flags.get("sign", True) else ", not for signing"
        return f"label {self.label!r}, id {self.key_id.hex() or 'none'}, {self.type_name}{signs}"


def find_all(session: Session, query: KeyQuery) -> list[PrivateKey]:
    """Every private key that matches.

    Raises:
        PKCS11Error: The token fails.
    """
    return [_describe(native) for native in find_objects(session.native, query.template)]


def find(session: Session, query: KeyQuery, place: Place) -> PrivateKey:
    """The one private key meant.

    Raises:
        KeyNotFoundError: None matches; lists what is there.
        KeyAmbiguousError: Several do; lists them.
        KeyUnusableError: It may not sign.
        PKCS11Error: The token fails.
    """
    named = query.key_id is not None or query.label is not None
    found = find_all(session, query)
    if not named:
        found = [k for k in found if k.flags.get("sign", True) and k.key_type in _SIGNING_TYPES]
    if not found:
        there = find_all(session, KeyQuery())
        wanted = f"with {query}" if named else "that signs"
        raise TEXTS.error("no-key", place=place, wanted=wanted, keys=_listing(there))
    if len(found) > 1:
        situation = "several-keys" if named else "key-not-named"
        keys = _listing(found)
        raise TEXTS.error(situation, place=place, count=len(found), query=query, keys=keys)
    (key,) = found
    if not key.flags.get("sign", True):
        raise TEXTS.error("not-for-signing", key=key, place=place)
    return key


def public_key_of(session: Session, key: PrivateKey, place: Place) -> PublicKeyTypes:
    """The public key that belongs to a private key.

    From the CKO_PUBLIC_KEY object of the same id, else a certificate's, else what the private
    key itself holds. Whether it really belongs, the first signature shows.

    Raises:
        KeyNotFoundError: There is none; says how to add it.
        KeyUnusableError: It is of a kind that JWS cannot use.
        PKCS11Error: The token fails.
    """
    same: dict[Attribute, Any] = (
        {Attribute.ID: key.key_id} if key.key_id else {Attribute.LABEL: key.label}
    )
    if key.key_id or key.label:
        for wanted, convert in (
            (ObjectClass.PUBLIC_KEY, _from_public_key),
            (ObjectClass.CERTIFICATE, _from_certificate),
        ):
            for item in find_objects(session.native, {Attribute.CLASS: wanted, **same}):
                public = convert(item)
                if public is not None and _may_belong(public, key.native, key.key_type):
                    return public
    public = _from_private_key(key.native, key.key_type)
    if public is not None:
        return public
    key_id, label = key.key_id.hex() or "ID", key.label or "LABEL"
    raise TEXTS.error("no-public-key", place=place, key=key, key_id=key_id, label=label)


def _describe(native: Object) -> PrivateKey:
    flags = {name: _read(native, attribute) for name, attribute in _FLAGS.items()}
    return PrivateKey(
        native=native,
        handle=native.handle or 0,
        key_id=_read(native, Attribute.ID, b""),
        label=_read(native, Attribute.LABEL, ""),
        key_type=_read(native, Attribute.KEY_TYPE, -1),
        flags={name: value for name, value in flags.items() if value is not None},
        allowed_mechanisms=tuple(_read(native, _ALLOWED_MECHANISMS, ())),
        created=_created(native),
    )


def _created(native: Object) -> Fact | None:
    """The first day of a key's use, if noted: the key was made then, or before.

    The token reports a note of its user's, which is no more than asserted.
    """
    try:
        day = _read(native, Attribute.START_DATE)
    except GeneralError:  # SoftHSM 2.6 decrypts a date that it stored in the clear
        return None
    return Fact(day.isoformat(), "asserted") if isinstance(day, date) else None


def _listing(keys: Sequence[PrivateKey]) -> str:
    shown = "; ".join(str(key) for key in keys[:_MOST_LISTED]) or "none"
    more = len(keys) - _MOST_LISTED
    return f"{shown}; and {more} more" if more > 0 else shown


def _from_public_key(item: Object) -> PublicKeyTypes | None:
    """What a CKO_PUBLIC_KEY object holds; None if it is incomplete or of another kind.

    Raises:
        KeyUnusableError: Its curve is none that `cryptography` knows.
    """
    return _from_attributes(item, _read(item, Attribute.KEY_TYPE, -1))


def _from_certificate(item: Object) -> PublicKeyTypes | None:
    """The public key in an X.509 certificate object; None if it cannot be read."""
    try:
        certificate = x509.load_der_x509_certificate(_read(item, Attribute.VALUE, b""))
        return cast("PublicKeyTypes", certificate.public_key())
    except (ValueError, UnsupportedAlgorithm):
        return None


def _from_private_key(item: Object, key_type: int) -> PublicKeyTypes | None:
    """The public key, from a private key's attributes; None if they do not hold it.

    Raises:
        KeyUnusableError: Its curve is none that `cryptography` knows.
    """
    if (found := _from_attributes(item, key_type)) is not None:
        return found
    try:
        return load_der_public_key(_read(item, _PUBLIC_KEY_INFO, b""))
    except (ValueError, UnsupportedAlgorithm):
        return None


def _may_belong(public: PublicKeyTypes, private: Object, key_type: int) -> bool:
    """Whether a public key found beside a private key can be its other half.

    Objects of several keys may share an id. The type and, for RSA, the modulus distinguish them.
    """
    if isinstance(public, rsa.RSAPublicKey):
        modulus = _read(private, Attribute.MODULUS)
        return key_type == KeyType.RSA and (
            not modulus or int.from_bytes(modulus, "big") == public.public_numbers().n
        )
    if isinstance(public, ec.EllipticCurvePublicKey):
        return key_type == KeyType.EC
    return key_type not in (KeyType.RSA, KeyType.EC)


def ec_public_key(parameters: bytes, point: bytes) -> PublicKeyTypes:
    """A public key from CKA_EC_PARAMS and CKA_EC_POINT.

    Args:
        parameters: DER OBJECT IDENTIFIER, or PrintableString with the curve's name.
        point: The point: DER OCTET STRING, BIT STRING or raw.

    Raises:
        KeyUnusableError: The curve is unknown.
        ValueError: The point is not on it.
    """
    curve = _curve(parameters)
    if curve is None:
        return ed25519.Ed25519PublicKey.from_public_bytes(_unwrap(point, (32,)))
    size = (curve.key_size + 7) // 8
    return ec.EllipticCurvePublicKey.from_encoded_point(
        curve, _unwrap(point, (2 * size + 1, size + 1))
    )


def key_type_name(public: PublicKeyTypes) -> str:
    """`RSA-<bits>`, `P-256`, `P-384`, `P-521`, `Ed25519`, or another curve's own name."""
    if isinstance(public, rsa.RSAPublicKey):
        return f"RSA-{public.key_size}"
    if isinstance(public, ec.EllipticCurvePublicKey):
        return _NAME_OF.get(public.curve.name, public.curve.name)
    return type(public).__name__.strip("_").removesuffix("PublicKey")


def _from_attributes(item: Object, key_type: int) -> PublicKeyTypes | None:
    try:
        if key_type == KeyType.RSA:
            modulus, exponent = (
                _read(item, Attribute.MODULUS),
                _read(item, Attribute.PUBLIC_EXPONENT),
            )
            if not modulus or not exponent:
                return None
            return rsa.RSAPublicNumbers(
                int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")
            ).public_key()
        if key_type in (KeyType.EC, KeyType.EC_EDWARDS):
            parameters, point = _read(item, Attribute.EC_PARAMS), _read(item, Attribute.EC_POINT)
            if not parameters or not point:
                return None
            return ec_public_key(parameters, point)
    except ValueError:
        return None
    return None


def _curve(parameters: bytes) -> ec.EllipticCurve | None:
    """The curve; None for Ed25519."""
    name = "unknown"
    tag, content = _content(parameters)
    if tag == _OID:
        name = _dotted(content)
        if name in _ED25519_OIDS:
            return None
        try:
            return ec.get_curve_for_oid(x509.ObjectIdentifier(name))()
        except (LookupError, ValueError):
            pass
    elif tag == _PRINTABLE_STRING:
        name = content.decode("ascii", errors="replace")
        if name in _ED25519_NAMES:
            return None
        if name in _CURVES_BY_NAME:
            return _CURVES_BY_NAME[name]
    raise TEXTS.error("curve", name=name)


def _unwrap(point: bytes, sizes: tuple[int, ...]) -> bytes:
    """The point itself, which has one of `sizes` bytes."""
    if len(point) in sizes:
        return point
    tag, content = _content(point)
    if tag == _OCTET_STRING and len(content) in sizes:
        return content
    if tag == _BIT_STRING and len(content) - 1 in sizes:
        return content[1:]
    raise ValueError("not a point of this curve")


def _content(der: bytes) -> tuple[int, bytes]:
    """Tag and content of a short DER value; -1 if it is none."""
    if len(der) < 2:
        return -1, b""
    if der[1] < 0x80:
        start, length = 2, der[1]
    elif der[1] == 0x81 and len(der) > 2:
        start, length = 3, der[2]
    else:
        return -1, b""
    return (der[0], der[start:]) if len(der) == start + length else (-1, b"")


def _dotted(content: bytes) -> str:
    """An OBJECT IDENTIFIER's content in dotted form."""
    arcs, value = [], 0
    for byte in content:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    if not arcs:
        return "unknown"
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))
