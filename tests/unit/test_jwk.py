"""JWK, JWK Set and thumbprint: the RFCs' own examples, and joserfc as the second opinion."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives.asymmetric import (
    dsa,
    ec,
    ed448,
    ed25519,
    rsa,
    x448,
    x25519,
)
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc.jwk import ECKey, KeySet, OKPKey, RSAKey

from keystay import JWKSet, jwk
from keystay.errors import JWKError, KeyUnusableError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

# RFC 7638 §3.1.
RFC_7638 = {
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJ"
    "ECPebWKRXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2Qvz"
    "qY368QQMicAtaSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0"
    "fM4lFd2NcRwr3XPksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    "e": "AQAB",
    "alg": "RS256",
    "kid": "2011-04-29",
}
# RFC 8037 A.1 to A.3.
RFC_8037_PRIVATE = {
    "kty": "OKP",
    "crv": "Ed25519",
    "d": "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
}
RFC_8037 = {name: value for name, value in RFC_8037_PRIVATE.items() if name != "d"}
# RFC 7517 A.1.
RFC_7517_EC = {
    "kty": "EC",
    "crv": "P-256",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
    "use": "enc",
    "kid": "1",
}
# RFC 7517 A.3.
RFC_7517_OCT = {"kty": "oct", "alg": "A128KW", "k": "GawgguFyGrWKav7AX4VKUg"}

CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1(), "P-521": ec.SECP521R1()}
KEYS: dict[str, Any] = {
    "RSA": rsa.generate_private_key(65537, 2048).public_key(),
    "RSA, e = 3": rsa.generate_private_key(3, 2048).public_key(),
    **{name: ec.generate_private_key(curve).public_key() for name, curve in CURVES.items()},
    "Ed25519": ed25519.Ed25519PrivateKey.generate().public_key(),
}


def joserfc_key(public_key: Any) -> Any:
    """The same key in joserfc."""
    if isinstance(public_key, rsa.RSAPublicKey):
        return RSAKey.import_key(public_key)
    if isinstance(public_key, ec.EllipticCurvePublicKey):
        return ECKey.import_key(public_key)
    return OKPKey.import_key(public_key)


def der(public_key: Any) -> bytes:
    """A public key as bytes, for comparison."""
    encoded: bytes = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return encoded


@dataclass
class FakeSigner:
    """What a JWK Set needs of a signer."""

    public_key: PublicKeyTypes
    kid: str
    algorithm: str


class TestThumbprint:
    """RFC 7638."""

    @pytest.mark.parametrize(
        ("key", "expected"),
        [
            pytest.param(RFC_7638, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs", id="RFC 7638"),
            pytest.param(RFC_8037, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", id="RFC 8037"),
            pytest.param(
                RFC_8037_PRIVATE, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k", id="of the pair"
            ),
        ],
    )
    def test_examples(self, key: dict[str, str], expected: str) -> None:
        """The thumbprints that the RFCs print."""
        assert expected == jwk.thumbprint(key)

    @pytest.mark.parametrize("name", KEYS)
    def test_joserfc_agrees(self, name: str) -> None:
        """joserfc computes the same."""
        assert joserfc_key(KEYS[name]).thumbprint() == jwk.thumbprint(jwk.public_jwk(KEYS[name]))

    def test_only_identity_counts(self) -> None:
        """Order and further members do not change it."""
        shuffled = {**dict(reversed(RFC_7638.items())), "use": "sig", "x5t": "…"}
        assert jwk.thumbprint(RFC_7638) == jwk.thumbprint(shuffled)

    @pytest.mark.parametrize(
        "key",
        [
            pytest.param({}, id="empty"),
            pytest.param({"kty": "RSA", "n": "AQAB"}, id="member missing"),
            pytest.param({"kty": "oct", "k": "AQAB"}, id="symmetric"),
            pytest.param({"kty": []}, id="kty is a list"),
            pytest.param({"kty": "RSA", "n": 1, "e": "AQAB"}, id="member is a number"),
            pytest.param({"kty": "RSA", "n": "AQ=B", "e": "AQAB"}, id="member is no base64url"),
            pytest.param({"kty": "RSA", "n": "", "e": "AQAB"}, id="member is empty"),
        ],
    )
    def test_refused(self, key: dict[str, Any]) -> None:
        """What has no thumbprint is a JWKError, whatever its types."""
        with pytest.raises(JWKError):
            jwk.thumbprint(key)


class TestPublicJWK:
    """Export and import."""

    @pytest.mark.parametrize("name", KEYS)
    def test_joserfc_exports_the_same(self, name: str) -> None:
        """Identity members are joserfc's, byte for byte."""
        ours = jwk.public_jwk(KEYS[name])
        theirs = joserfc_key(KEYS[name]).as_dict(private=False)
        identity = {"kty", "crv", "x", "y", "n", "e"}
        assert {m: v for m, v in theirs.items() if m in identity} == {
            m: v for m, v in ours.items() if m in identity
        }

    @pytest.mark.parametrize("name", KEYS)
    def test_joserfc_imports_ours(self, name: str) -> None:
        """joserfc reads our JWK as the same key."""
        ours = jwk.public_jwk(KEYS[name])
        kind: Any = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}[ours["kty"]]
        assert der(KEYS[name]) == der(kind.import_key(ours).public_key)

    @pytest.mark.parametrize("name", KEYS)
    def test_we_import_joserfcs(self, name: str) -> None:
        """We read joserfc's JWK as the same key."""
        theirs = joserfc_key(KEYS[name]).as_dict(private=False)
        assert der(KEYS[name]) == der(jwk.public_key_from_jwk(theirs))

    @pytest.mark.parametrize("name", KEYS)
    def test_metadata(self, name: str) -> None:
        """A JWK says it is for signatures; kid is the thumbprint or what is given."""
        plain = jwk.public_jwk(KEYS[name])
        assert ("sig", ["verify"]) == (plain["use"], plain["key_ops"])
        assert jwk.thumbprint(plain) == plain["kid"]
        assert "alg" not in plain
        named = jwk.public_jwk(KEYS[name], kid="k", algorithm="ES384")
        assert ("k", "ES384") == (named["kid"], named["alg"])

    @pytest.mark.parametrize(
        "key",
        [
            pytest.param(RFC_7517_EC, id="RFC 7517 A.1, EC"),
            pytest.param(RFC_7638, id="RFC 7517 A.1, RSA"),
            pytest.param(RFC_8037, id="RFC 8037 A.2"),
        ],
    )
    def test_examples(self, key: dict[str, str]) -> None:
        """The RFCs' public keys survive the way in and out."""
        again = jwk.public_jwk(jwk.public_key_from_jwk(key))
        identity = {"kty", "crv", "x", "y", "n", "e"}
        assert {m: v for m, v in key.items() if m in identity} == {
            m: v for m, v in again.items() if m in identity
        }

    @given(st.sampled_from(sorted(CURVES)), st.integers(1, 2**256 - 1))
    def test_round_trip_on_every_curve(self, name: str, scalar: int) -> None:
        """Any point survives; a coordinate keeps its leading zeros."""
        public_key = ec.derive_private_key(scalar % 2**250 + 1, CURVES[name]).public_key()
        ours = jwk.public_jwk(public_key)
        size = {"P-256": 43, "P-384": 64, "P-521": 88}[name]
        assert (size, size) == (len(ours["x"]), len(ours["y"]))
        assert der(public_key) == der(jwk.public_key_from_jwk(ours))

    def test_p521_leading_zeros(self) -> None:
        """A P-521 coordinate is 66 bytes however small it is, and shorter ones are refused."""
        short = next(
            public_key
            for scalar in range(1, 5000)
            if (public_key := ec.derive_private_key(scalar, CURVES["P-521"]).public_key())
            .public_numbers()
            .x.bit_length()
            <= 512
        )
        ours = jwk.public_jwk(short)
        assert ("AA", 88) == (ours["x"][:2], len(ours["x"]))
        assert der(short) == der(jwk.public_key_from_jwk(ours))
        assert joserfc_key(short).as_dict(private=False)["x"] == ours["x"]
        with pytest.raises(JWKError, match="66 bytes each"):
            jwk.public_key_from_jwk({**ours, "x": ours["x"][4:]})

    @given(st.binary(min_size=32, max_size=32))
    def test_round_trip_ed25519(self, seed: bytes) -> None:
        """Any Ed25519 key survives."""
        public_key = ed25519.Ed25519PrivateKey.from_private_bytes(seed).public_key()
        assert der(public_key) == der(jwk.public_key_from_jwk(jwk.public_jwk(public_key)))

    @pytest.mark.parametrize(
        ("public_key", "name", "code"),
        [
            pytest.param(
                ec.generate_private_key(ec.SECP256K1()).public_key(),
                "secp256k1",
                "key-curve-unsupported",
                id="secp256k1",
            ),
            pytest.param(
                ec.generate_private_key(ec.SECP224R1()).public_key(),
                "secp224r1",
                "key-curve-unsupported",
                id="P-224",
            ),
            pytest.param(
                ed448.Ed448PrivateKey.generate().public_key(),
                "Ed448",
                "key-curve-unsupported",
                id="Ed448",
            ),
            pytest.param(
                x25519.X25519PrivateKey.generate().public_key(),
                "X25519",
                "key-curve-unsupported",
                id="X25519",
            ),
            pytest.param(
                x448.X448PrivateKey.generate().public_key(),
                "X448",
                "key-curve-unsupported",
                id="X448",
            ),
            pytest.param(
                dsa.generate_private_key(2048).public_key(),
                "DSA",
                "key-curve-unsupported",
                id="DSA",
            ),
            pytest.param(
                rsa.generate_private_key(65537, 1024).public_key(),
                "1024 bits",
                "key-weak",
                id="RSA-1024",
            ),
        ],
    )
    def test_keys_that_cannot_sign(self, public_key: Any, name: str, code: str) -> None:
        """A weak key, or one of a kind that JWS does not know, is refused by its name."""
        with pytest.raises(KeyUnusableError) as caught:
            jwk.public_jwk(public_key)
        assert (code, True) == (caught.value.code, name in caught.value.message)


class TestImportRefuses:
    """JWKs that are no public key."""

    @pytest.mark.parametrize(
        "change",
        [
            pytest.param({"kty": None}, id="no kty"),
            pytest.param({"kty": ["EC"]}, id="kty is a list"),
            pytest.param({"kty": "oct"}, id="symmetric"),
            pytest.param({"crv": None}, id="no crv"),
            pytest.param({"crv": []}, id="crv is a list"),
            pytest.param({"crv": "secp256k1"}, id="unsupported curve"),
            pytest.param({"crv": "P-384"}, id="another curve"),
            pytest.param({"x": None}, id="no x"),
            pytest.param({"x": 1}, id="x is a number"),
            pytest.param({"x": ""}, id="empty x"),
            pytest.param({"x": RFC_7517_EC["x"] + "="}, id="padding"),
            pytest.param({"x": RFC_7517_EC["x"] + "\n"}, id="newline"),
            pytest.param({"x": "+" + RFC_7517_EC["x"][1:]}, id="plain base64"),
            pytest.param({"x": "A"}, id="one character"),
            pytest.param({"x": RFC_7517_EC["y"]}, id="not on the curve"),
            pytest.param({"x": RFC_7517_EC["x"] + "AA"}, id="too long"),
            pytest.param({"kty": "RSA", "n": "AQAB", "e": "AQ"}, id="RSA with e = 1"),
            pytest.param({"kty": "RSA", "n": RFC_7638["n"], "e": "AA"}, id="RSA with e = 0"),
            pytest.param({"kty": "RSA", "n": None, "e": "AQAB"}, id="RSA without n"),
            pytest.param({"kty": "OKP", "crv": "Ed25519", "x": "AQAB"}, id="short Ed25519"),
            pytest.param({"kty": "OKP", "crv": "X25519", "x": RFC_8037["x"]}, id="X25519"),
        ],
    )
    def test_malformed(self, change: dict[str, Any]) -> None:
        """Each fault is a JWKError."""
        with pytest.raises(JWKError):
            jwk.public_key_from_jwk({**RFC_7517_EC, **change})

    def test_weak(self) -> None:
        """An RSA key of 1024 bits is refused on the way in as well."""
        modulus = rsa.generate_private_key(65537, 1024).public_key().public_numbers().n
        n = base64.urlsafe_b64encode(modulus.to_bytes(128, "big")).rstrip(b"=").decode()
        with pytest.raises(KeyUnusableError, match="1024 bits"):
            jwk.public_key_from_jwk({"kty": "RSA", "n": n, "e": "AQAB"})

    @pytest.mark.parametrize("member", ["d", "p", "q", "dp", "dq", "qi", "oth", "k"])
    def test_private_members(self, member: str) -> None:
        """A private or symmetric member is refused by name; its value is not repeated."""
        for use in (jwk.public_key_from_jwk, lambda key: JWKSet([key])):
            with pytest.raises(JWKError) as caught:
                use({**RFC_7517_EC, member: "c2VjcmV0"})
            assert ("jwk-private", True) == (caught.value.code, f" {member}." in str(caught.value))
            assert "c2VjcmV0" not in str(caught.value)

    @given(
        st.dictionaries(
            st.sampled_from(["kty", "crv", "x", "y", "n", "e"]),
            st.one_of(
                st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519"]),
                st.text(max_size=8),
                st.none(),
                st.integers(),
                st.lists(st.integers(), max_size=2),
            ),
        )
    )
    @settings(max_examples=300)
    def test_nothing_else_is_raised(self, key: dict[str, Any]) -> None:
        """Whatever a server publishes, the error is ours."""
        for use in (jwk.public_key_from_jwk, jwk.thumbprint):
            try:
                result = use(key)
            except (JWKError, KeyUnusableError):
                result = "refused"
            assert result


class TestJWKSet:
    """The set to publish."""

    def test_from_signers(self) -> None:
        """One JWK for each signer, in order, with its kid and algorithm."""
        signers = [
            FakeSigner(KEYS["P-384"], "new", "ES384"),
            FakeSigner(KEYS["RSA"], "old", "RS384"),
        ]
        published = JWKSet.from_signers(signers)
        assert 2 == len(published)
        assert [("new", "ES384", "EC"), ("old", "RS384", "RSA")] == [
            (key["kid"], key["alg"], key["kty"]) for key in published
        ]
        assert published.to_dict() == json.loads(published.to_json())
        assert 1 < published.to_json(indent=2).count("\n")

    def test_joserfc_reads_it(self) -> None:
        """joserfc finds both keys by kid."""
        signers = [FakeSigner(KEYS[name], name, "x") for name in ("P-521", "RSA", "Ed25519")]
        theirs = KeySet.import_key_set(JWKSet.from_signers(signers).to_dict())  # type: ignore[arg-type]
        for signer in signers:
            assert der(signer.public_key) == der(theirs.get_by_kid(signer.kid).public_key)

    @pytest.mark.parametrize("kid", ["\ud800", "a\x1b[31m", "a\nb", "\u202e"])
    def test_kid_that_cannot_be_printed(self, kid: str) -> None:
        """It would break the report, or steer the terminal of who looks at it."""
        with pytest.raises(JWKError, match="cannot be printed") as caught:
            JWKSet(({**jwk.public_jwk(KEYS["P-384"]), "kid": kid},))
        assert str(caught.value).encode()

    @pytest.mark.parametrize("name", KEYS)
    def test_round_trip(self, name: str) -> None:
        """JSON and back gives an equal set."""
        published = JWKSet((jwk.public_jwk(KEYS[name]),))
        assert published == JWKSet.from_json(published.to_json())
        assert published == JWKSet.from_json(published.to_json().encode())

    def test_unknown_members_and_kinds_are_kept(self) -> None:
        """A set may hold keys and members that we do not know (RFC 7517 §5)."""
        text = '{"keys": [{"kty": "new", "kid": "1", "x5t#S256": "…"}], "more": 1}'
        assert [{"kty": "new", "kid": "1", "x5t#S256": "…"}] == list(JWKSet.from_json(text))

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("", id="empty"),
            pytest.param("{", id="not JSON"),
            pytest.param(b"\xff\xfe\xfd", id="not text"),
            pytest.param("[" * 100_000, id="nested too deep"),
            pytest.param("[]", id="a list"),
            pytest.param("null", id="null"),
            pytest.param("{}", id="no keys"),
            pytest.param('{"keys": {}}', id="keys is an object"),
            pytest.param('{"keys": [1]}', id="a key is a number"),
        ],
    )
    def test_from_json_refuses(self, text: str | bytes) -> None:
        """What is no JWK Set is a JWKError."""
        with pytest.raises(JWKError) as caught:
            JWKSet.from_json(text)
        assert "jwk-invalid" == caught.value.code

    @pytest.mark.parametrize(
        ("keys", "code"),
        [
            pytest.param([{"kty": "RSA"}], "jwk-kid-missing", id="no kid"),
            pytest.param([{"kty": "RSA", "kid": ""}], "jwk-kid-missing", id="empty kid"),
            pytest.param([{"kty": "RSA", "kid": 1}], "jwk-kid-missing", id="kid is a number"),
            pytest.param(
                [{"kid": "a"}, {"kid": "a"}], "jwk-kid-duplicate", id="the same kid twice"
            ),
            pytest.param([RFC_8037_PRIVATE | {"kid": "a"}], "jwk-private", id="private"),
            pytest.param([RFC_7517_OCT | {"kid": "a"}], "jwk-private", id="symmetric"),
        ],
    )
    def test_sets_that_are_refused(self, keys: list[dict[str, Any]], code: str) -> None:
        """kid is there and unique, and nothing is private: in Python and in JSON."""
        for make in (JWKSet, lambda ks: JWKSet.from_json(json.dumps({"keys": ks}))):
            with pytest.raises(JWKError) as caught:
                make(keys)
            assert code == caught.value.code

    def test_same_signer_twice(self) -> None:
        """The same key twice is a duplicate kid."""
        signer = FakeSigner(KEYS["P-256"], "a", "ES256")
        with pytest.raises(JWKError, match="'a' occurs twice"):
            JWKSet.from_signers([signer, signer])

    def test_to_dict_is_a_copy(self) -> None:
        """Changing what was handed out does not change the set."""
        published = JWKSet([RFC_7517_EC])
        published.to_dict()["keys"][0]["kid"] = "changed"
        assert "1" == next(iter(published))["kid"]
