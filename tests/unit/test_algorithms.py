"""The algorithm table against RFC 7518 §3.1 and RFC 8037 §3.1."""

from __future__ import annotations

import hashlib

import pytest

from keystay import algorithms
from keystay.errors import AlgorithmError, KeyUnusableError

# name: family, kty, hash, curve, bytes of digest, of a coordinate, of a signature by a key of
# 3072 bits.
TABLE = {
    "RS256": ("RSASSA-PKCS1-v1_5", "RSA", "sha256", None, 32, 0, 384),
    "RS384": ("RSASSA-PKCS1-v1_5", "RSA", "sha384", None, 48, 0, 384),
    "RS512": ("RSASSA-PKCS1-v1_5", "RSA", "sha512", None, 64, 0, 384),
    "PS256": ("RSASSA-PSS", "RSA", "sha256", None, 32, 0, 384),
    "PS384": ("RSASSA-PSS", "RSA", "sha384", None, 48, 0, 384),
    "PS512": ("RSASSA-PSS", "RSA", "sha512", None, 64, 0, 384),
    "ES256": ("ECDSA", "EC", "sha256", "P-256", 32, 32, 64),
    "ES384": ("ECDSA", "EC", "sha384", "P-384", 48, 48, 96),
    "ES512": ("ECDSA", "EC", "sha512", "P-521", 64, 66, 132),
    "EdDSA": ("EdDSA", "OKP", None, "Ed25519", 0, 0, 64),
}


def test_the_table_is_complete() -> None:
    """There are these algorithms, and no `none` or HMAC."""
    assert TABLE.keys() == algorithms.ALGORITHMS.keys()


@pytest.mark.parametrize("name", TABLE)
def test_against_the_rfcs(name: str) -> None:
    """Scheme, key type, hash, curve and sizes are as the RFCs have them."""
    a = algorithms.get(name)
    assert name == a.name
    assert TABLE[name] == (
        a.family,
        a.kty,
        a.hash_name,
        a.curve,
        a.digest_size,
        a.coordinate_size,
        a.signature_size(3072),
    )


@pytest.mark.parametrize("name", TABLE)
def test_digest(name: str) -> None:
    """The digest is hashlib's; EdDSA signs the message itself."""
    hash_name = TABLE[name][2]
    expected = hashlib.new(hash_name, b"message").digest() if hash_name else None
    assert expected == algorithms.get(name).digest(b"message")


@pytest.mark.parametrize(("bits", "size"), [(2048, 256), (2049, 257), (3072, 384), (4096, 512)])
def test_rsa_signature_is_as_long_as_the_modulus(bits: int, size: int) -> None:
    """Also where the modulus is no whole number of bytes."""
    assert size == algorithms.get("PS256").signature_size(bits)


@pytest.mark.parametrize(
    ("kty", "curve", "expected"),
    [
        pytest.param("RSA", None, "RS384", id="RSA"),
        pytest.param("EC", "P-256", "ES256", id="P-256"),
        pytest.param("EC", "P-384", "ES384", id="P-384"),
        pytest.param("EC", "P-521", "ES512", id="P-521"),
        pytest.param("OKP", "Ed25519", "EdDSA", id="Ed25519"),
    ],
)
def test_default_by_key(kty: str, curve: str | None, expected: str) -> None:
    """The first algorithm for a key is SMART's, or the curve's only one."""
    assert expected == algorithms.for_key(kty, curve)[0]


def test_an_rsa_key_can_do_six() -> None:
    """Every RS and PS algorithm fits an RSA key."""
    assert {n for n, row in TABLE.items() if row[1] == "RSA"} == set(
        algorithms.for_key("RSA", None)
    )


@pytest.mark.parametrize(
    ("kty", "curve", "name"),
    [
        pytest.param("EC", "secp256k1", "secp256k1", id="secp256k1"),
        pytest.param("EC", "secp224r1", "secp224r1", id="P-224"),
        pytest.param("OKP", "Ed448", "Ed448", id="Ed448"),
        pytest.param("OKP", "P-256", "P-256", id="OKP on P-256"),
        pytest.param("EC", "Ed25519", "Ed25519", id="EC on Ed25519"),
        pytest.param("oct", None, "oct", id="symmetric"),
    ],
)
def test_keys_jws_does_not_know(kty: str, curve: str | None, name: str) -> None:
    """A key without an algorithm is refused by the name of its type."""
    with pytest.raises(KeyUnusableError) as caught:
        algorithms.for_key(kty, curve)
    assert ("key-curve-unsupported", True) == (caught.value.code, name in caught.value.message)


@pytest.mark.parametrize("name", ["none", "HS256", "es384", "ES256K", "", None, []])
def test_unknown_names(name: object) -> None:
    """An unknown name is refused with the known ones, whatever its type."""
    with pytest.raises(AlgorithmError) as caught:
        algorithms.get(name)  # type: ignore[arg-type]
    assert "algorithm-unknown" == caught.value.code
    assert all(known in (caught.value.hint or "") for known in TABLE)
