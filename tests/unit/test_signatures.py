"""DER ⇄ r‖s, DigestInfo and verification, against other implementations and against liars."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa, utils
from hypothesis import given
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OKPKey, RSAKey

from keystay import signatures
from keystay.algorithms import ALGORITHMS
from keystay.errors import AlgorithmError, SignatureInvalidError
from tests.support.assertions import ClientKey

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = {"ES256": 32, "ES384": 48, "ES512": 66}
HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
KEYS = {name: ClientKey.generate(name) for name in ALGORITHMS}
OTHERS = {name: ClientKey.generate(name) for name in ALGORITHMS}

ecdsa = st.sampled_from(sorted(SIZES))


@st.composite
def integers(draw: st.DrawFn, size: int) -> int:
    """An integer for a coordinate of `size` bytes, of any length: short ones are the trap."""
    return int.from_bytes(draw(st.binary(min_size=1, max_size=size)), "big") or 1


@st.composite
def raw_signatures(draw: st.DrawFn) -> tuple[str, int, int, bytes]:
    """An algorithm, r, s, and r‖s."""
    name = draw(ecdsa)
    size = SIZES[name]
    r, s = draw(integers(size)), draw(integers(size))
    return name, r, s, r.to_bytes(size, "big") + s.to_bytes(size, "big")


def der(*content: bytes, tag: int = 0x30) -> bytes:
    """A DER TLV with a short length."""
    body = b"".join(content)
    assert len(body) < 0x80
    return bytes((tag, len(body))) + body


def integer(body: bytes) -> bytes:
    """A DER INTEGER with this very content."""
    return der(body, tag=0x02)


class TestEncodings:
    """DER to r‖s and back."""

    @given(raw_signatures())
    def test_round_trip(self, case: tuple[str, int, int, bytes]) -> None:
        """r‖s survives the way to DER and back, on every curve."""
        name, _, _, raw = case
        assert raw == signatures.der_to_raw(signatures.raw_to_der(raw, name), name)

    @given(raw_signatures())
    def test_agrees_with_cryptography(self, case: tuple[str, int, int, bytes]) -> None:
        """Both directions give what `cryptography` gives."""
        name, r, s, raw = case
        assert utils.encode_dss_signature(r, s) == signatures.raw_to_der(raw, name)
        assert raw == signatures.der_to_raw(utils.encode_dss_signature(r, s), name)
        assert (r, s) == utils.decode_dss_signature(signatures.raw_to_der(raw, name))

    @given(raw_signatures(), st.data())
    def test_one_byte_mutated(self, case: tuple[str, int, int, bytes], data: st.DataObject) -> None:
        """A DER with a byte changed is refused, or is the one DER of some other signature."""
        name, _, _, raw = case
        encoded = bytearray(signatures.raw_to_der(raw, name))
        position = data.draw(st.integers(0, len(encoded) - 1))
        encoded[position] ^= data.draw(st.integers(1, 255))
        mutated = bytes(encoded)
        try:
            other = signatures.der_to_raw(mutated, name)
        except SignatureInvalidError:
            return
        assert (mutated, False) == (signatures.raw_to_der(other, name), raw == other)

    @given(raw_signatures())
    def test_truncated_anywhere(self, case: tuple[str, int, int, bytes]) -> None:
        """No beginning of a DER signature is one."""
        name, _, _, raw = case
        encoded = signatures.raw_to_der(raw, name)
        for length in range(len(encoded)):
            with pytest.raises(SignatureInvalidError):
                signatures.der_to_raw(encoded[:length], name)

    @given(raw_signatures(), st.binary(min_size=1, max_size=4))
    def test_bytes_outside(self, case: tuple[str, int, int, bytes], more: bytes) -> None:
        """Bytes before or after are refused."""
        name, _, _, raw = case
        encoded = signatures.raw_to_der(raw, name)
        with pytest.raises(SignatureInvalidError, match="bytes follow the signature"):
            signatures.der_to_raw(encoded + more, name)

    @given(st.binary(max_size=150), ecdsa)
    def test_any_bytes(self, data: bytes, name: str) -> None:
        """Arbitrary bytes are refused, or are the only DER of what they decode to."""
        try:
            raw = signatures.der_to_raw(data, name)
        except SignatureInvalidError:
            return
        assert data == signatures.raw_to_der(raw, name)

    @pytest.mark.parametrize(
        ("data", "why"),
        [
            pytest.param(b"", "SEQUENCE", id="nothing"),
            pytest.param(b"\x30", "SEQUENCE", id="a tag alone"),
            pytest.param(b"\x30\x00", "SEQUENCE", id="empty sequence"),
            pytest.param(der(integer(b"\1")), "SEQUENCE", id="r alone"),
            pytest.param(
                der(integer(b"\1"), integer(b"\1"), integer(b"\1")),
                "follow s",
                id="three integers",
            ),
            pytest.param(der(integer(b"\1"), integer(b"\1"), b"\0"), "follow s", id="byte inside"),
            pytest.param(der(integer(b"\1"), integer(b"\1"), tag=0x31), "SEQUENCE", id="a set"),
            pytest.param(der(integer(b"\1"), der(b"\1", tag=0x04)), "SEQUENCE", id="octets for s"),
            pytest.param(der(integer(b""), integer(b"\1")), "r is empty", id="empty r"),
            pytest.param(der(integer(b"\1"), integer(b"\0")), "s is zero", id="zero s"),
            pytest.param(der(integer(b"\0"), integer(b"\1")), "r is zero", id="zero r"),
            pytest.param(der(integer(b"\x80"), integer(b"\1")), "r is negative", id="negative r"),
            pytest.param(der(integer(b"\1"), integer(b"\xff")), "s is negative", id="negative s"),
            pytest.param(der(integer(b"\0\1"), integer(b"\1")), "needless", id="padded r"),
            pytest.param(der(integer(b"\0\0\x80"), integer(b"\1")), "needless", id="twice padded"),
            pytest.param(der(integer(b"\1" * 33), integer(b"\1")), "33 bytes", id="oversized r"),
            pytest.param(
                der(integer(b"\1"), integer(b"\0\x81" + b"\1" * 32)), "33 bytes", id="oversized s"
            ),
            pytest.param(b"\x30\x81\x06\2\1\1\2\1\1", "length", id="long form for a short length"),
            pytest.param(
                b"\x30\x81\x44" + (integer(b"\1" * 32) * 2), "length", id="long form for 68 bytes"
            ),
            pytest.param(b"\x30\x82\x00\x06\2\1\1\2\1\1", "length", id="two length bytes"),
            pytest.param(b"\x30\x80\2\1\1\2\1\1\0\0", "length", id="indefinite length"),
            pytest.param(b"\x30\x81", "length", id="length cut off"),
            pytest.param(b"\x30\x07\2\x81\x01\1\2\1\1", "length", id="long form inside"),
            pytest.param(b"\x30\x06\2\2\1\1\2\1", "cut short", id="r overlaps s"),
            pytest.param(b"\x30\xff" + b"\2\1\1" * 2, "length", id="reserved length"),
        ],
    )
    def test_refused_der(self, data: bytes, why: str) -> None:
        """Each way of not being DER is refused for its reason."""
        with pytest.raises(SignatureInvalidError, match=why) as caught:
            signatures.der_to_raw(data, "ES256")
        assert "signature-malformed" == caught.value.code

    def test_p521_needs_the_long_form(self) -> None:
        """A full-size P-521 signature has a two-byte length: 139 bytes in all."""
        raw = b"\xff" * 132
        encoded = signatures.raw_to_der(raw, "ES512")
        assert (b"\x30\x81", 141) == (encoded[:2], len(encoded))
        assert raw == signatures.der_to_raw(encoded, "ES512")

    @pytest.mark.parametrize(
        ("raw", "why"),
        [
            pytest.param(b"", "0 bytes", id="nothing"),
            pytest.param(b"\1" * 63, "63 bytes", id="short"),
            pytest.param(b"\1" * 65, "65 bytes", id="long"),
            pytest.param(b"\1" * 96, "96 bytes", id="of another curve"),
            pytest.param(b"\0" * 32 + b"\1" * 32, "r is zero", id="zero r"),
            pytest.param(b"\1" * 32 + b"\0" * 32, "s is zero", id="zero s"),
        ],
    )
    def test_refused_raw(self, raw: bytes, why: str) -> None:
        """r‖s of a wrong length or with a zero is refused."""
        with pytest.raises(SignatureInvalidError, match=why):
            signatures.raw_to_der(raw, "ES256")

    @pytest.mark.parametrize("name", sorted(ALGORITHMS.keys() - SIZES.keys()))
    @pytest.mark.parametrize("convert", [signatures.der_to_raw, signatures.raw_to_der])
    def test_other_families(self, name: str, convert: Callable[[bytes, str], bytes]) -> None:
        """Only ECDSA has the two encodings."""
        with pytest.raises(AlgorithmError, match="belongs to ES256"):
            convert(b"\1" * 64, name)


class TestDigestInfo:
    """The prefix that RSA mechanisms without a hash need."""

    @pytest.mark.parametrize("name", ["RS256", "RS384", "RS512"])
    def test_is_what_openssl_signs(self, name: str) -> None:
        """The padded block inside an RSA signature ends in our DigestInfo."""
        private_key = KEYS[name].private_key
        assert isinstance(private_key, rsa.RSAPrivateKey)
        signature = private_key.sign(b"message", padding.PKCS1v15(), HASHES[name[2:]])
        numbers = private_key.public_key().public_numbers()
        block = pow(int.from_bytes(signature, "big"), numbers.e, numbers.n).to_bytes(256, "big")
        digest = hashlib.new(f"sha{name[2:]}", b"message").digest()
        expected = signatures.digest_info(digest, name)
        assert b"\0\1" + b"\xff" * (253 - len(expected)) + b"\0" + expected == block

    @pytest.mark.parametrize("name", ["RS256", "RS384", "RS512"])
    def test_is_what_cryptography_recovers(self, name: str) -> None:
        """`cryptography`, asked for the padded data without a hash, gives the same."""
        private_key = KEYS[name].private_key
        assert isinstance(private_key, rsa.RSAPrivateKey)
        digest = hashlib.new(f"sha{name[2:]}", b"message").digest()
        signature = private_key.sign(b"message", padding.PKCS1v15(), HASHES[name[2:]])
        recovered = private_key.public_key().recover_data_from_signature(
            signature, padding.PKCS1v15(), None
        )
        assert recovered == signatures.digest_info(digest, name)

    def test_of_the_specification(self) -> None:
        """SHA-384's prefix is RFC 8017's."""
        assert bytes.fromhex("3041300d060960864801650304020205000430") + bytes(48) == (
            signatures.digest_info(bytes(48), "RS384")
        )

    @pytest.mark.parametrize("size", [0, 32, 47, 49, 64])
    def test_wrong_digest(self, size: int) -> None:
        """A digest of another hash is refused."""
        with pytest.raises(SignatureInvalidError, match=f"{size} bytes"):
            signatures.digest_info(bytes(size), "RS384")

    @pytest.mark.parametrize("name", ["PS384", "ES384", "EdDSA"])
    def test_other_families(self, name: str) -> None:
        """PSS, ECDSA and EdDSA have no DigestInfo."""
        with pytest.raises(AlgorithmError, match="DigestInfo belongs to"):
            signatures.digest_info(bytes(48), name)


def jws_parts(token: str) -> tuple[bytes, bytes]:
    """Signing input and signature of a compact JWS."""
    message, _, signature = token.rpartition(".")
    return message.encode(), base64.urlsafe_b64decode(signature + "=" * (-len(signature) % 4))


def signed(name: str) -> tuple[Any, bytes, bytes]:
    """Public key, message and PyJWT's signature."""
    message, signature = jws_parts(KEYS[name].sign({"iss": "me"}))
    public_key: Any = KEYS[name].private_key.public_key()
    return public_key, message, signature


@pytest.mark.parametrize("name", ALGORITHMS)
class TestVerify:
    """Verification, for every algorithm."""

    def test_signature_of_pyjwt(self, name: str) -> None:
        """PyJWT's signature verifies, by name or by algorithm."""
        public_key, message, signature = signed(name)
        assert None is signatures.verify(public_key, name, message, signature)  # type: ignore[func-returns-value]
        signatures.verify(public_key, ALGORITHMS[name], message, signature)

    @pytest.mark.filterwarnings("ignore:EdDSA is deprecated via RFC 9864")
    def test_signature_of_joserfc(self, name: str) -> None:
        """joserfc's signature verifies."""
        kind: Any = {"R": RSAKey, "P": RSAKey, "E": ECKey}[name[0]] if name != "EdDSA" else OKPKey
        key = kind.import_key(KEYS[name].private_key)
        token = jws.serialize_compact({"alg": name}, b"payload", key, algorithms=[name])
        message, signature = jws_parts(token)
        assert json.dumps({"alg": name}, separators=(",", ":")).encode() == base64.b64decode(
            message.split(b".")[0] + b"=="
        )
        signatures.verify(KEYS[name].private_key.public_key(), name, message, signature)

    def test_with_the_digest_alone(self, name: str) -> None:
        """A digest stands in for its message, where the scheme hashes."""
        public_key, message, signature = signed(name)
        digest = ALGORITHMS[name].digest(message)
        if digest is None:
            with pytest.raises(AlgorithmError, match="signs messages"):
                signatures.verify(public_key, name, None, signature, digest=digest)
            return
        signatures.verify(public_key, name, None, signature, digest=digest)
        for wrong in (digest[:-1], digest + b"\0", b""):
            with pytest.raises(SignatureInvalidError, match="digest has"):
                signatures.verify(public_key, name, None, signature, digest=wrong)
        with pytest.raises(SignatureInvalidError, match="neither"):
            signatures.verify(public_key, name, None, signature)

    def test_another_message(self, name: str) -> None:
        """One bit of the message changed, and it does not verify."""
        public_key, message, signature = signed(name)
        with pytest.raises(SignatureInvalidError, match="does not verify"):
            signatures.verify(public_key, name, message + b"\0", signature)

    def test_another_key(self, name: str) -> None:
        """Another key of the same kind does not verify it."""
        _, message, signature = signed(name)
        with pytest.raises(SignatureInvalidError, match="does not verify"):
            signatures.verify(OTHERS[name].private_key.public_key(), name, message, signature)

    def test_every_wrong_length(self, name: str) -> None:
        """Shorter, longer, empty, or padded: never an error of the library below."""
        public_key, message, signature = signed(name)
        for wrong in (
            b"",
            signature[:-1],
            signature[1:],
            signature + b"\0",
            b"\0" + signature,
            signature * 2,
            b"\xff" * len(signature),
            bytes(len(signature)),
        ):
            with pytest.raises(SignatureInvalidError):
                signatures.verify(public_key, name, message, wrong)

    def test_keys_of_every_other_kind(self, name: str) -> None:
        """A key of another kind or curve is refused as such, not as a bad signature."""
        _, message, signature = signed(name)
        ours = ALGORITHMS[name]
        for other, key in KEYS.items():
            theirs = ALGORITHMS[other]
            if (ours.kty, ours.curve) != (theirs.kty, theirs.curve):
                with pytest.raises(AlgorithmError, match="does not fit here"):
                    signatures.verify(key.private_key.public_key(), name, message, signature)


@pytest.mark.parametrize(
    "curve",
    [
        pytest.param(ec.SECP256K1(), id="secp256k1"),
        pytest.param(ec.BrainpoolP256R1(), id="brainpoolP256r1"),
    ],
)
def test_another_curve_of_the_same_size(curve: ec.EllipticCurve) -> None:
    """A good signature on another 256-bit curve is not ES256."""
    private_key = ec.generate_private_key(curve)
    signature = private_key.sign(b"message", ec.ECDSA(hashes.SHA256()))
    raw = signatures.der_to_raw(signature, "ES256")
    with pytest.raises(AlgorithmError, match=curve.name):
        signatures.verify(private_key.public_key(), "ES256", b"message", raw)


def test_pss_salt_is_as_long_as_the_hash() -> None:
    """A PSS signature with another salt length is refused (RFC 7518 §3.5)."""
    private_key = KEYS["PS384"].private_key
    assert isinstance(private_key, rsa.RSAPrivateKey)
    for salt, good in ((48, True), (20, False), (0, False), (padding.PSS.MAX_LENGTH, False)):
        pad = padding.PSS(padding.MGF1(hashes.SHA384()), salt)
        signature = private_key.sign(b"message", pad, hashes.SHA384())
        if good:
            signatures.verify(private_key.public_key(), "PS384", b"message", signature)
        else:
            with pytest.raises(SignatureInvalidError, match="does not verify"):
                signatures.verify(private_key.public_key(), "PS384", b"message", signature)


def test_der_is_not_a_jose_signature() -> None:
    """A DER signature is not accepted where r‖s is due."""
    private_key = KEYS["ES384"].private_key
    assert isinstance(private_key, ec.EllipticCurvePrivateKey)
    signature = private_key.sign(b"message", ec.ECDSA(hashes.SHA384()))
    with pytest.raises(SignatureInvalidError, match="r‖s has"):
        signatures.verify(private_key.public_key(), "ES384", b"message", signature)


def test_rfc_8037_example() -> None:
    """The Ed25519 signature of RFC 8037 A.4 verifies."""
    public_key = ed25519.Ed25519PublicKey.from_public_bytes(
        base64.urlsafe_b64decode("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo=")
    )
    message, signature = jws_parts(
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
        "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg"
    )
    assert b"Example of Ed25519 signing" == base64.urlsafe_b64decode(message.split(b".")[1] + b"==")
    signatures.verify(public_key, "EdDSA", message, signature)


def test_pyjwt_agrees_on_what_is_bad() -> None:
    """PyJWT refuses the signature that we refuse: with r and s exchanged."""
    token = KEYS["ES256"].sign({"iss": "me"})
    message, signature = jws_parts(token)
    swapped = signature[32:] + signature[:32]
    public_key: Any = KEYS["ES256"].private_key.public_key()
    with pytest.raises(SignatureInvalidError):
        signatures.verify(public_key, "ES256", message, swapped)
    bad = message.decode() + "." + base64.urlsafe_b64encode(swapped).rstrip(b"=").decode()
    with pytest.raises(jwt.InvalidSignatureError):
        jwt.decode(bad, public_key, algorithms=["ES256"])
