"""Client assertions: exactly SMART's, fresh each time, and never mixed up."""

from __future__ import annotations

import base64
import json
import math
import pickle
import re
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jwt as joserfc_jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from keystay import ClientAssertion, Signer, assertion
from keystay.assertion import decode_unverified
from keystay.errors import ConfigurationError, SignerClosedError
from tests.unit.fakes import PRIVATE_KEYS, FakeKey, LeasedKey, lying

AUDIENCE = "https://ehr.example.org/oauth2/token"
SIGNER = Signer(FakeKey(), kid="key-2026")
# Signs fast: for the tests that build by the thousand.
FAST = Signer(FakeKey(PRIVATE_KEYS["Ed25519"], signs_here=True))

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40)


def build(audience: str = AUDIENCE, **options: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Header and claims of a new assertion."""
    options.setdefault("client_id", "my-client")
    options.setdefault("signer", SIGNER)
    return decode_unverified(ClientAssertion(**options).build(audience))


class TestContent:
    """Header and claims (FACTS §1.8)."""

    def test_exactly(self) -> None:
        """These members, and no other: no nbf, no iat unless asked."""
        before = int(time.time())
        header, claims = build()
        after = int(time.time())
        assert {"alg": "ES384", "kid": "key-2026", "typ": "JWT"} == header
        assert {"iss", "sub", "aud", "exp", "jti"} == claims.keys()
        assert ("my-client", "my-client", AUDIENCE) == (claims["iss"], claims["sub"], claims["aud"])
        assert type(claims["exp"]) is int
        assert before + 240 <= claims["exp"] <= after + 240

    def test_compact(self) -> None:
        """Three parts of base64url without padding; JSON without spaces."""
        text = ClientAssertion(client_id="my-client", signer=SIGNER).build(AUDIENCE)
        assert re.fullmatch(r"[\w-]+\.[\w-]+\.[\w-]+", text, re.ASCII)
        assert 128 == len(text.split(".")[2])
        for part in text.split(".")[:2]:
            raw = base64.urlsafe_b64decode(part + "==").decode()
            assert raw == json.dumps(json.loads(raw), separators=(",", ":"))

    @pytest.mark.parametrize("lifetime", [1, 60, 240, 290, 300])
    def test_lifetime(self, lifetime: int) -> None:
        """From stamping to exp, in whole seconds."""
        now = time.time()
        _, claims = build(lifetime=lifetime)
        assert -1 < claims["exp"] - (now + lifetime) <= 1

    @pytest.mark.parametrize("lifetime", [0, -1, 301, 3600, 240.0, "240", True, None, math.nan])
    def test_lifetime_out_of_bounds(self, lifetime: Any) -> None:
        """More than SMART allows, or no whole seconds."""
        with pytest.raises(ConfigurationError, match="lifetime"):
            build(lifetime=lifetime)

    @pytest.mark.parametrize("lifetime", [1, 240, 290, 295, 300])
    def test_issued_at(self, lifetime: int) -> None:
        """In the past when asked for; exp is never more than 300 s after it (Epic)."""
        now = time.time()
        _, claims = build(issued_at=True, lifetime=lifetime)
        assert claims["exp"] - claims["iat"] <= 300
        assert claims["iat"] <= now
        assert min(10, 300 - lifetime) == claims["exp"] - lifetime - claims["iat"]
        assert "nbf" not in claims

    def test_jti(self) -> None:
        """10,000 of them are unique, short enough, and of at least 128 bits."""
        maker = ClientAssertion(client_id="my-client", signer=FAST)
        values = [decode_unverified(maker.build(AUDIENCE))[1]["jti"] for _ in range(10_000)]
        assert 10_000 == len(set(values))
        assert {32} == {len(value) for value in values}
        assert 24 == len(base64.urlsafe_b64decode(values[0]))
        # Six words of 32 bits each, all drawn anew: among 60,000 hardly one occurs twice.
        raw = [base64.urlsafe_b64decode(value) for value in values]
        words = {value[place : place + 4] for value in raw for place in range(0, 24, 4)}
        assert 59_990 < len(words)
        # Every bit of the 192 is set in about half of them: none is constant.
        everything = [int.from_bytes(value, "big") for value in raw]
        shares = [sum(number >> bit & 1 for number in everything) / 10_000 for bit in range(192)]
        assert 0.4 < min(shares) < max(shares) < 0.6

    def test_jku(self) -> None:
        """Sent when given, as given."""
        assert "https://me.example.org/jwks" == build(jku="https://me.example.org/jwks")[0]["jku"]
        assert "jku" not in build()[0]

    def test_extras(self) -> None:
        """Further members and claims, of any JSON type, stand beside ours."""
        header, claims = build(
            extra_headers={"x5t#S256": "abc", "n": 1},
            extra_claims={"extensions": {"hl7-b2b": {"version": "1", "list": [1, None, True]}}},
        )
        assert {"alg", "kid", "typ", "x5t#S256", "n"} == header.keys()
        assert {"hl7-b2b": {"version": "1", "list": [1, None, True]}} == claims["extensions"]
        assert {"iss", "sub", "aud", "exp", "jti", "extensions"} == claims.keys()

    @pytest.mark.parametrize("name", ["alg", "kid", "typ", "jku", "crit", "b64"])
    def test_reserved_headers(self, name: str) -> None:
        """What keystay sets is not replaced by accident."""
        with pytest.raises(ConfigurationError, match=f"header member '{name}'") as caught:
            build(extra_headers={"fine": 1, name: "x"})
        assert "assertion-member-reserved" == caught.value.code

    @pytest.mark.parametrize("name", ["iss", "sub", "aud", "exp", "jti", "iat", "nbf"])
    def test_reserved_claims(self, name: str) -> None:
        """Neither are claims, nbf included."""
        with pytest.raises(ConfigurationError, match=f"claim '{name}'") as caught:
            build(extra_claims={name: "x"})
        assert "assertion-member-reserved" == caught.value.code

    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(b"bytes", id="bytes"),
            pytest.param({1, 2}, id="set"),
            pytest.param(math.nan, id="not a number"),
            pytest.param(math.inf, id="infinity"),
            pytest.param("\ud800", id="half a surrogate pair"),
            pytest.param({("a",): 1}, id="tuple as a name"),
        ],
    )
    def test_extras_that_are_no_json(self, value: Any) -> None:
        """What JSON cannot hold is refused: NaN would make a document no server reads."""
        for argument in ("extra_headers", "extra_claims"):
            options: dict[str, Any] = {argument: {"x": value}}
            with pytest.raises(ConfigurationError, match="cannot be written as JSON"):
                build(**options)

    def test_extras_are_copied(self) -> None:
        """Changing the dictionaries afterwards changes nothing."""
        extra = {"a": 1}
        maker = ClientAssertion(
            client_id="c", signer=SIGNER, extra_headers=extra, extra_claims=extra
        )
        extra["exp"] = extra["alg"] = 0
        header, claims = decode_unverified(maker.build(AUDIENCE))
        assert ("ES384", True) == (header["alg"], claims["exp"] > 0)

    @given(texts, texts)
    def test_any_text(self, client_id: str, audience: str) -> None:
        """Quotes, backslashes, control characters, any script: they arrive as they are."""
        _, claims = build(audience, client_id=client_id, signer=FAST)
        assert (client_id, client_id, audience) == (claims["iss"], claims["sub"], claims["aud"])

    @pytest.mark.parametrize(
        "client_id",
        [
            pytest.param("M" * 5000, id="macaroon of 5 KB"),
            pytest.param('a","exp":9999999999,"x":"', id="injection"),
            pytest.param("Krankenhaus/Übergabe \u202e 🏥", id="not ASCII"),
        ],
    )
    def test_strange_client_ids(self, client_id: str) -> None:
        """They neither break the JSON nor get out of it, and PyJWT reads them."""
        token = ClientAssertion(client_id=client_id, signer=SIGNER).build(AUDIENCE)
        key: Any = SIGNER.public_key
        claims = jwt.decode(token, key, algorithms=["ES384"], audience=AUDIENCE)
        assert client_id == claims["iss"] == claims["sub"]
        assert claims["exp"] < time.time() + 300

    @pytest.mark.parametrize("client_id", ["", None, 7, b"bytes"])
    def test_no_client_id(self, client_id: Any) -> None:
        """An empty one, or one of another type."""
        with pytest.raises(ConfigurationError, match="client_id"):
            build(client_id=client_id)

    @pytest.mark.parametrize("audience", ["", None, [AUDIENCE], 7])
    def test_no_audience(self, audience: Any) -> None:
        """aud is one string: a list would be another token's door."""
        with pytest.raises(ConfigurationError, match="audience"):
            build(audience)

    def test_key_and_algorithm_are_the_signers(self) -> None:
        """alg and kid come from the signer; the kid is the thumbprint unless given."""
        signer = Signer(FakeKey(PRIVATE_KEYS["RSA-2048"]), algorithm="PS256")
        header, _ = build(signer=signer)
        assert {"alg": "PS256", "kid": signer.kid, "typ": "JWT"} == header


class TestVerifiedByOthers:
    """PyJWT and joserfc accept it, for every kind of key."""

    @pytest.mark.parametrize("kind", ["RSA-2048", "P-256", "P-384", "P-521", "Ed25519"])
    @pytest.mark.filterwarnings("ignore:EdDSA is deprecated via RFC 9864")
    def test_both(self, kind: str) -> None:
        """With their own checks of audience and expiry."""
        signer = Signer(FakeKey(PRIVATE_KEYS[kind]))
        token = ClientAssertion(client_id="my-client", signer=signer, issued_at=True).build(
            AUDIENCE
        )
        key: Any = signer.public_key
        claims = jwt.decode(
            token,
            key,
            algorithms=[signer.algorithm],
            audience=AUDIENCE,
            issuer="my-client",
            options={"require": ["exp", "iat", "aud", "iss", "sub", "jti"]},
        )
        theirs: Any = {"R": RSAKey, "P": ECKey, "E": OKPKey}[kind[0]]
        decoded = joserfc_jwt.decode(token, theirs.import_key(key), algorithms=[signer.algorithm])
        joserfc_jwt.JWTClaimsRegistry(
            aud={"essential": True, "value": AUDIENCE}, exp={"essential": True}
        ).validate(decoded.claims)
        assert claims == decoded.claims


class TestFresh:
    """Promise 6."""

    def test_stamped_after_waiting_for_the_signer(self) -> None:
        """Two seconds in the queue are not taken from the lifetime."""
        signer = Signer(LeasedKey(wait=2.0))
        asked = time.time()
        _, claims = build(signer=signer, lifetime=60)
        assert asked + 2 + 60 - 1 <= claims["exp"] <= time.time() + 60

    def test_each_is_new(self) -> None:
        """The same object makes another jti and, later, another exp."""
        maker = ClientAssertion(client_id="my-client", signer=SIGNER)
        first = decode_unverified(maker.build(AUDIENCE))[1]
        time.sleep(1.1)
        second = decode_unverified(maker.build(AUDIENCE))[1]
        assert first["jti"] != second["jti"]
        assert first["exp"] < second["exp"]

    def test_audiences_never_mix(self) -> None:
        """Eight threads alternate between audiences on one object: each gets its own."""
        maker = ClientAssertion(client_id="my-client", signer=FAST, extra_claims={"x": "y"})
        barrier = threading.Barrier(8)

        def work(number: int) -> list[tuple[str, str]]:
            barrier.wait()
            pairs = []
            for turn in range(400):
                audience = f"https://as-{(number + turn) % 2}.example.org/token"
                token = maker.build(audience)
                pairs.append((audience, decode_unverified(token)[1]["aud"]))
            return pairs

        interval = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)  # threads change places as often as they can
        try:
            with ThreadPoolExecutor(8) as pool:
                pairs = [pair for result in pool.map(work, range(8)) for pair in result]
        finally:
            sys.setswitchinterval(interval)
        assert [] == [pair for pair in pairs if pair[0] != pair[1]]
        assert 3200 == len(pairs)

    async def test_async(self) -> None:
        """Under asyncio and trio the same, of its own."""
        maker = ClientAssertion(client_id="my-client", signer=SIGNER)
        header, claims = decode_unverified(await maker.build_async(AUDIENCE))
        assert ({"alg": "ES384", "kid": "key-2026", "typ": "JWT"}, AUDIENCE) == (
            header,
            claims["aud"],
        )


class TestErrors:
    """What goes wrong below comes through."""

    def test_bad_signature(self) -> None:
        """No assertion with a bad signature is returned."""
        from keystay.errors import SignatureInvalidError

        maker = ClientAssertion(client_id="c", signer=Signer(lying(value=b"x")))
        with pytest.raises(SignatureInvalidError):
            maker.build(AUDIENCE)

    def test_closed_signer(self) -> None:
        """Nor one after the signer was closed."""
        signer = Signer(FakeKey())
        maker = ClientAssertion(client_id="c", signer=signer)
        signer.close()
        with pytest.raises(SignerClosedError):
            maker.build(AUDIENCE)

    def test_timeout_passes_through(self) -> None:
        """The seconds given are the signature's."""
        key = LeasedKey()
        ClientAssertion(client_id="c", signer=Signer(key)).build(AUDIENCE, timeout=4)
        assert [4] == [deadline.seconds for deadline in key.deadlines]

    def test_shown(self) -> None:
        """repr tells client and signer, and pickle refuses."""
        maker = ClientAssertion(client_id="c", signer=SIGNER)
        assert f"<ClientAssertion client_id='c' signer={SIGNER!r}>" == repr(maker)
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(maker)


def part(value: Any) -> str:
    """A part of a compact JWS."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


class TestDecode:
    """decode_unverified."""

    def test_reads_pyjwts(self) -> None:
        """Header and claims of a JWT made elsewhere."""
        token = jwt.encode({"iss": "me"}, "k" * 32, algorithm="HS256", headers={"kid": "1"})
        assert ({"alg": "HS256", "kid": "1", "typ": "JWT"}, {"iss": "me"}) == (
            decode_unverified(token)
        )

    @pytest.mark.parametrize(
        "text",
        [
            pytest.param("", id="empty"),
            pytest.param("..", id="three empty parts"),
            pytest.param("junk", id="one part"),
            pytest.param(f"{part({})}.{part({})}", id="two parts"),
            pytest.param(f"{part({})}.{part({})}.a.b.c", id="five parts: encrypted"),
            pytest.param(f"{part(1)}.{part({})}.a", id="header is a number"),
            pytest.param(f"{part({})}.{part([])}.a", id="claims are a list"),
            pytest.param("bm90IGpzb24.bm90IGpzb24.a", id="no JSON"),
            pytest.param("_w._w.a", id="no text"),
            pytest.param("ü.ü.ü", id="no base64"),
            pytest.param(
                base64.urlsafe_b64encode(b"[" * 100_000).decode() + "." + part({}) + ".a",
                id="nested too deep",
            ),
        ],
    )
    def test_refuses(self, text: str) -> None:
        """What is no compact JWS is one error of ours, which does not repeat it."""
        with pytest.raises(ConfigurationError, match="not a compact JWS") as caught:
            decode_unverified(text)
        assert "This is not a compact JWS. [configuration-invalid]" == str(caught.value)

    @given(
        st.text(st.characters(codec="utf-8"), max_size=40)
        | st.from_regex(r"[\w-]*\.[\w-]*\.[\w-]*")
    )
    @settings(max_examples=200)
    def test_nothing_else_is_raised(self, text: str) -> None:
        """Any text is read or refused."""
        try:
            header, claims = decode_unverified(text)
        except ConfigurationError:
            header = claims = {}
        assert (dict, dict) == (type(header), type(claims))


def test_limits_are_smarts() -> None:
    """240 s by default leaves a minute for clocks; 300 is the limit."""
    assert (240, 300) == (assertion.DEFAULT_LIFETIME, assertion.MAX_LIFETIME)
