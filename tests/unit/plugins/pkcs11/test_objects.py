"""EC parameters and points in every encoding that tokens use."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from keystay.errors import KeyUnusableError
from keystay_pkcs11.objects import ec_public_key, key_type_name

CURVES = {
    "P-256": (ec.SECP256R1(), "06082a8648ce3d030107", "secp256r1"),
    "P-384": (ec.SECP384R1(), "06052b81040022", "secp384r1"),
    "P-521": (ec.SECP521R1(), "06052b81040023", "secp521r1"),
}
ED25519 = {
    "OID": bytes.fromhex("06032b6570"),
    "GnuPG OID": bytes.fromhex("06092b06010401da470f01"),
    "name": b"\x13\x0cedwards25519",
}


def octet_string(content: bytes) -> bytes:
    """DER OCTET STRING."""
    length = bytes([len(content)]) if len(content) < 128 else bytes([0x81, len(content)])
    return b"\x04" + length + content


def bit_string(content: bytes) -> bytes:
    """DER BIT STRING without unused bits."""
    content = b"\0" + content
    length = bytes([len(content)]) if len(content) < 128 else bytes([0x81, len(content)])
    return b"\x03" + length + content


WRAPPINGS = {"octet string": octet_string, "bit string": bit_string, "raw": lambda point: point}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
@pytest.mark.parametrize("form", [PublicFormat.UncompressedPoint, PublicFormat.CompressedPoint])
@pytest.mark.parametrize(("curve", "oid", "name"), CURVES.values(), ids=CURVES)
def test_ec(curve: ec.EllipticCurve, oid: str, name: str, form: PublicFormat, wrap: object) -> None:
    """Every curve, by OID and by name, each point encoding."""
    assert callable(wrap)
    key = ec.generate_private_key(curve).public_key()
    point = wrap(key.public_bytes(Encoding.X962, form))

    assert key == ec_public_key(bytes.fromhex(oid), point)
    assert key == ec_public_key(b"\x13" + bytes([len(name)]) + name.encode(), point)


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=WRAPPINGS)
@pytest.mark.parametrize("parameters", ED25519.values(), ids=ED25519)
def test_ed25519(parameters: bytes, wrap: object) -> None:
    """Ed25519, by both OIDs and by name."""
    assert callable(wrap)
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    point = wrap(key.public_bytes(Encoding.Raw, PublicFormat.Raw))

    assert key == ec_public_key(parameters, point)


UNKNOWN = {
    "OID": (bytes.fromhex("06052a03040506"), "1.2.3.4.5.6"),
    "name": (b"\x13\x08curve448", "curve448"),
    "explicit": (b"\x30\x03\x02\x01\x01", "unknown"),
    "cut": (b"\x06\x05\x2b", "unknown"),
    "empty": (b"", "unknown"),
}


@pytest.mark.parametrize(("parameters", "name"), UNKNOWN.values(), ids=UNKNOWN)
def test_unknown_curve(parameters: bytes, name: str) -> None:
    """Another curve is named in the error."""
    with pytest.raises(KeyUnusableError, match=f"curve {name} "):
        ec_public_key(parameters, b"\x04" + bytes(64))


@pytest.mark.parametrize("point", [b"", b"\x04", b"\x04\x41", b"\x04" + bytes(63), bytes(200)])
def test_bad_point(point: bytes) -> None:
    """What is no point of the curve is no key."""
    with pytest.raises(ValueError, match="point"):
        ec_public_key(bytes.fromhex("06082a8648ce3d030107"), point)


NAMES: dict[str, PublicKeyTypes] = {
    "RSA-2048": rsa.generate_private_key(65537, 2048).public_key(),
    "P-384": ec.generate_private_key(ec.SECP384R1()).public_key(),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()).public_key(),
    "Ed25519": ed25519.Ed25519PrivateKey.generate().public_key(),
}


@pytest.mark.parametrize("name", NAMES)
def test_key_type_name(name: str) -> None:
    """Keys are called as `keystay key generate --type` calls them."""
    assert name == key_type_name(NAMES[name])
