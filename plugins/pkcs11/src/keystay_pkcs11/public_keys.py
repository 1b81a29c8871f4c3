"""Public keys from the attributes of PKCS#11 objects.

EC parameters come as an OID or, for Ed25519, as a curve's name; points come as a DER OCTET
STRING, as a BIT STRING or raw. Which it is, the curve's size tells: 0x04 begins both an OCTET
STRING and an uncompressed point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from pkcs11 import Attribute
from pkcs11.mechanisms import KeyType

from keystay.errors import KeyUnusableError
from keystay_pkcs11.attributes import PUBLIC_KEY_INFO, read

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
    from pkcs11 import Object

__all__ = [
    "ec_public_key",
    "from_certificate",
    "from_private_key",
    "from_public_key",
    "key_type_name",
    "may_belong",
]

_OID, _PRINTABLE_STRING, _OCTET_STRING, _BIT_STRING = 0x06, 0x13, 0x04, 0x03
_ED25519_OIDS = ("1.3.101.112", "1.3.6.1.4.1.11591.15.1")
_NAMES: dict[str, type[ec.EllipticCurve]] = {
    "secp256r1": ec.SECP256R1,
    "prime256v1": ec.SECP256R1,
    "P-256": ec.SECP256R1,
    "secp384r1": ec.SECP384R1,
    "P-384": ec.SECP384R1,
    "secp521r1": ec.SECP521R1,
    "P-521": ec.SECP521R1,
}
_ED25519_NAMES = ("edwards25519", "Ed25519", "curve25519")
_JWK_NAMES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}


def from_public_key(item: Object) -> PublicKeyTypes | None:
    """What a CKO_PUBLIC_KEY object holds; None if it is incomplete or of another kind.

    Raises:
        KeyUnusableError: Its curve is none that `cryptography` knows.
    """
    return _from_attributes(item, read(item, Attribute.KEY_TYPE, -1))


def from_certificate(item: Object) -> PublicKeyTypes | None:
    """The public key in an X.509 certificate object; None if it cannot be read."""
    value = read(item, Attribute.VALUE)
    if not value:
        return None
    try:
        return cast("PublicKeyTypes", x509.load_der_x509_certificate(value).public_key())
    except (ValueError, UnsupportedAlgorithm):
        return None


def from_private_key(item: Object, key_type: int) -> PublicKeyTypes | None:
    """What a private key tells of its public key; None if nothing.

    Raises:
        KeyUnusableError: Its curve is none that `cryptography` knows.
    """
    found = _from_attributes(item, key_type)
    info = read(item, PUBLIC_KEY_INFO) if found is None else None
    if not info:
        return found
    try:
        return load_der_public_key(info)
    except (ValueError, UnsupportedAlgorithm):
        return None


def may_belong(public: PublicKeyTypes, private: Object, key_type: int) -> bool:
    """Whether a public key found beside a private key can be its other half.

    Objects of several keys may share an id. The type and, for RSA, the modulus tell.
    """
    if isinstance(public, rsa.RSAPublicKey):
        modulus = read(private, Attribute.MODULUS)
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
        return _JWK_NAMES.get(public.curve.name, public.curve.name)
    return type(public).__name__.strip("_").removesuffix("PublicKey")


def _from_attributes(item: Object, key_type: int) -> PublicKeyTypes | None:
    try:
        if key_type == KeyType.RSA:
            modulus, exponent = read(item, Attribute.MODULUS), read(item, Attribute.PUBLIC_EXPONENT)
            if not modulus or not exponent:
                return None
            return rsa.RSAPublicNumbers(
                int.from_bytes(exponent, "big"), int.from_bytes(modulus, "big")
            ).public_key()
        if key_type in (KeyType.EC, KeyType.EC_EDWARDS):
            parameters, point = read(item, Attribute.EC_PARAMS), read(item, Attribute.EC_POINT)
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
        if name in _NAMES:
            return _NAMES[name]()
    raise KeyUnusableError(
        f"A key on the curve {name} cannot sign assertions.",
        cause="JWS knows P-256, P-384, P-521 and Ed25519 (RFC 7518, RFC 8037).",
        hint="Use a P-384 or RSA-3072 key: SMART servers know ES384 or RS384.",
        code="key-curve-unsupported",
    )


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
