"""A signer behind the interfaces of `cryptography`: what it signs, and what it refuses."""

from __future__ import annotations

import copy
import hashlib
import pickle
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keystay import Signer
from keystay.errors import (
    AlgorithmError,
    KeyChangedError,
    KeystayError,
    KeyUnusableError,
    SignatureInvalidError,
    SignerClosedError,
)
from tests.unit.fakes import PRIVATE_KEYS, FakeKey, LyingKey, RawKey, lying

MESSAGE = b"to be signed"
SHA = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
NO_DIGEST_INFO: Any = utils.NoDigestInfo
CURVE_HASH = {"P-256": "256", "P-384": "384", "P-521": "512"}


def backed(kind: str, **options: Any) -> Any:
    return Signer(FakeKey(PRIVATE_KEYS[kind]), **options).as_private_key()


@pytest.mark.parametrize("bits", SHA)
@pytest.mark.parametrize("prehashed", [False, True])
@pytest.mark.parametrize("pss", [False, True])
def test_rsa_signs(bits: str, prehashed: bool, pss: bool) -> None:
    """Both paddings, three hashes, of the message or of its digest."""
    key = backed("RSA-2048")
    assert isinstance(key, rsa.RSAPrivateKey)
    assert key.key_size == 2048
    hashed: Any = SHA[bits]
    pad: Any = padding.PKCS1v15()
    if pss:
        pad = padding.PSS(padding.MGF1(hashed), padding.PSS.DIGEST_LENGTH)
    data, how = MESSAGE, hashed
    if prehashed:
        data, how = hashlib.new(hashed.name, MESSAGE).digest(), utils.Prehashed(hashed)
    signature = key.sign(data, pad, how)
    key.public_key().verify(signature, MESSAGE, pad, hashed)


@pytest.mark.parametrize("backend", [FakeKey, RawKey])
@pytest.mark.parametrize("kind", CURVE_HASH)
@pytest.mark.parametrize("prehashed", [False, True])
def test_ec_signs_der(kind: str, prehashed: bool, backend: type[FakeKey]) -> None:
    """As `cryptography` returns it, whatever the backend returns."""
    key: Any = Signer(backend(PRIVATE_KEYS[kind])).as_private_key()
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    assert (key.key_size, key.curve.name) == (
        key.public_key().key_size,
        key.public_key().curve.name,
    )
    hashed: Any = SHA[CURVE_HASH[kind]]
    data, how = MESSAGE, hashed
    if prehashed:
        data, how = hashlib.new(hashed.name, MESSAGE).digest(), utils.Prehashed(hashed)
    for given in (data, bytearray(data), memoryview(data)):
        key.public_key().verify(key.sign(given, ec.ECDSA(how)), MESSAGE, ec.ECDSA(hashed))


def test_ed25519_signs() -> None:
    """Only whole messages."""
    key = backed("Ed25519")
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    key.public_key().verify(key.sign(MESSAGE), MESSAGE)


@pytest.mark.parametrize(
    ("pad", "algorithm", "message"),
    [
        (padding.PKCS1v15(), hashes.SHA1(), "sha1 is not one"),
        (padding.PKCS1v15(), utils.Prehashed(hashes.SHA224()), "sha224 is not one"),
        (padding.PKCS1v15(), NO_DIGEST_INFO(), "NoDigestInfo is not one"),
        (padding.PKCS1v15(), None, "NoneType is not one"),
        (padding.OAEP(padding.MGF1(SHA["256"]), SHA["256"], None), SHA["256"], "OAEP"),
        (padding.PSS(padding.MGF1(SHA["256"]), 48), SHA["384"], "MGF1 with sha384"),
        (padding.PSS(padding.MGF1(SHA["256"]), 20), SHA["256"], "salt of 20"),
        (padding.PSS(padding.MGF1(SHA["256"]), padding.PSS.MAX_LENGTH), SHA["256"], "MaxLength"),
        (padding.PSS(padding.MGF1(SHA["256"]), padding.PSS.AUTO), SHA["256"], "salt of Auto"),
    ],
)
def test_rsa_refuses(pad: Any, algorithm: Any, message: str) -> None:
    """What RS256 … PS512 are not."""
    with pytest.raises(AlgorithmError, match=message) as caught:
        backed("RSA-2048").sign(MESSAGE, pad, algorithm)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [
        (ec.ECDSA(hashes.SHA256()), "P-384 signs with sha384, not with sha256"),
        (ec.ECDSA(utils.Prehashed(hashes.SHA512())), "not with sha512"),
        (ec.ECDSA(hashes.SHA1()), "sha1 is not one"),
        (ec.ECDSA(hashes.SHA384(), deterministic_signing=True), "Deterministic"),
        (hashes.SHA384(), "SHA384 is not ECDSA"),
    ],
)
def test_ec_refuses(algorithm: Any, message: str) -> None:
    """What the curve's one algorithm is not."""
    with pytest.raises(AlgorithmError, match=message):
        backed("P-384").sign(MESSAGE, algorithm)


@pytest.mark.parametrize("kind", ["RSA-2048", "P-384", "Ed25519"])
def test_private_part_stays(kind: str) -> None:
    """Nothing that needs the numbers works, and the error says why."""
    key = backed(kind)
    attempts: list[Any] = [
        lambda: key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    ]
    if kind == "Ed25519":
        attempts.append(key.private_bytes_raw)
    else:
        attempts.append(key.private_numbers)
    if kind == "RSA-2048":
        attempts.append(lambda: key.decrypt(b"", padding.PKCS1v15()))
    if kind == "P-384":
        attempts.append(lambda: key.exchange(ec.ECDH(), key.public_key()))
    for attempt in attempts:
        with pytest.raises(KeyUnusableError, match="stays where it is") as caught:
            attempt()
        assert caught.value.code == "key-stays"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)
    assert copy.copy(key) is key
    assert copy.deepcopy(key) is key
    assert "Signer" in repr(key)


def test_signatures_are_checked() -> None:
    """What a signer does for each signature holds here too, of digests as well."""
    algorithm = ec.ECDSA(utils.Prehashed(hashes.SHA384()))
    for key, error in (
        (lying(key_id="another"), KeyChangedError),
        (lying(encoding="raw"), SignatureInvalidError),
        (LyingKey(lie=lambda result: result._replace(value=b"")), SignatureInvalidError),
    ):
        backed_key: Any = Signer(key).as_private_key()
        with pytest.raises(error):
            backed_key.sign(bytes(48), algorithm)


def test_digest_of_another_length() -> None:
    """It never reaches the backend."""
    key = FakeKey()
    backed_key: Any = Signer(key).as_private_key()
    with pytest.raises(AlgorithmError, match="47 bytes, 48 are due"):
        backed_key.sign(bytes(47), ec.ECDSA(utils.Prehashed(SHA["384"])))
    assert not key.calls


def test_digest_for_eddsa() -> None:
    """EdDSA signs the message."""
    with pytest.raises(AlgorithmError, match="messages, not digests"):
        Signer(FakeKey(PRIVATE_KEYS["Ed25519"])).sign_digest(bytes(64))


def test_closed_signer() -> None:
    """The key works as long as the signer is open."""
    signer = Signer(FakeKey())
    key: Any = signer.as_private_key()
    signer.close()
    with pytest.raises(SignerClosedError):
        key.sign(MESSAGE, ec.ECDSA(hashes.SHA384()))
    with pytest.raises(SignerClosedError):
        key.sign(bytes(48), ec.ECDSA(utils.Prehashed(hashes.SHA384())))


def test_algorithm_the_store_lacks() -> None:
    """A key without PSS says what it can do."""
    key: Any = Signer(FakeKey(PRIVATE_KEYS["RSA-2048"], able=("RS384",))).as_private_key()
    with pytest.raises(KeystayError, match="RS384"):
        key.sign(MESSAGE, padding.PKCS1v15(), hashes.SHA256())
