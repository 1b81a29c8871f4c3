"""Every rule of the strict server, asked over a socket with assertions that PyJWT makes.

Each bad assertion differs from a good one in one thing, and is refused for exactly that reason.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest
from joserfc import jwk as joserfc_jwk
from joserfc import jwt as joserfc_jwt

from tests.support.assertions import ClientKey, good_claims, token_form

if TYPE_CHECKING:
    from collections.abc import Callable

    from keystay.testing import SmartTestServer

CLIENT = "client"
KEYS = {
    name: ClientKey.generate(name)
    for name in (
        "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
    )
}  # fmt: skip
KEY = KEYS["ES384"]


@pytest.fixture
def server(smart_server: SmartTestServer) -> SmartTestServer:
    """The strict server, which knows one client with a P-384 key."""
    smart_server.register(CLIENT, jwks=KEY.jwks)
    return smart_server


def ask(http: httpx.Client, server: SmartTestServer, assertion: str) -> httpx.Response:
    """Make a token request."""
    return http.post(server.token_endpoint, data=token_form(assertion))


def refused_for(http: httpx.Client, server: SmartTestServer, assertion: str) -> str | None:
    """Make a token request that must fail as `invalid_client`; return the logged reason."""
    response = ask(http, server, assertion)
    assert (401, "invalid_client") == (response.status_code, response.json()["error"])
    assert "www-authenticate" not in response.headers
    refusal = server.log.last_refusal
    assert refusal is not None
    assert response.json()["error_description"] == refusal.sentence
    return refusal.reason


def segment(value: Any) -> str:
    """Encode as base64url without padding."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


class TestAccepts:
    """What must pass."""

    @pytest.mark.parametrize("algorithm", KEYS)
    def test_every_algorithm(
        self, http: httpx.Client, smart_server: SmartTestServer, algorithm: str
    ) -> None:
        """A PyJWT assertion of each algorithm gives a token of five minutes."""
        key = KEYS[algorithm]
        smart_server.register(CLIENT, jwks=key.jwks)
        assertion = key.sign(good_claims(CLIENT, smart_server.token_endpoint))
        response = ask(http, smart_server, assertion)

        assert 200 == response.status_code, response.text
        grant = response.json()
        assert len(grant.pop("access_token")) >= 43
        expected = {"token_type": "bearer", "expires_in": 300, "scope": "system/Patient.rs"}
        assert expected == grant
        assert "no-store" == response.headers["cache-control"]

    def test_joserfc(self, http: httpx.Client, server: SmartTestServer) -> None:
        """An assertion by another library passes too."""
        key = joserfc_jwk.ECKey.generate_key("P-384", {"kid": "by-joserfc"})
        server.register(CLIENT, jwks={"keys": [key.as_dict(private=False)]})
        assertion = joserfc_jwt.encode(
            {"alg": "ES384", "kid": "by-joserfc", "typ": "JWT"},
            good_claims(CLIENT, server.token_endpoint),
            key,
            algorithms=["ES384"],
        )

        assert 200 == ask(http, server, assertion).status_code

    @pytest.mark.parametrize(
        "extra",
        [
            pytest.param({"iat": lambda: int(time.time()) - 10}, id="iat"),
            pytest.param({"iat": lambda: time.time() - 10.5}, id="fractional iat"),
            pytest.param({"nbf": lambda: int(time.time()) - 10}, id="nbf"),
            pytest.param({"jti": "j"}, id="shortest jti"),
            pytest.param({"jti": "j" * 151}, id="longest jti"),
            pytest.param({"extensions": {"hl7-b2b": {"purpose": "TREAT"}}}, id="extension"),
        ],
    )
    def test_optional_claims(
        self, http: httpx.Client, server: SmartTestServer, extra: dict[str, Any]
    ) -> None:
        """Claims beyond the required ones are welcome when they are right."""
        claims = good_claims(CLIENT, server.token_endpoint)
        claims |= {name: value() if callable(value) else value for name, value in extra.items()}

        assert 200 == ask(http, server, KEY.sign(claims)).status_code

    def test_longest_lifetime(self, http: httpx.Client, server: SmartTestServer) -> None:
        """Five minutes, to the second, are allowed."""
        claims = good_claims(CLIENT, server.token_endpoint) | {"exp": int(time.time()) + 300}

        assert 200 == ask(http, server, KEY.sign(claims)).status_code

    def test_long_client_id(self, http: httpx.Client, server: SmartTestServer) -> None:
        """A client id of 5 KB, as a macaroon is, passes."""
        client_id = "m" * 5000
        server.register(client_id, jwks=KEY.jwks)
        assertion = KEY.sign(good_claims(client_id, server.token_endpoint))

        assert 200 == ask(http, server, assertion).status_code

    def test_the_right_key_of_several(self, http: httpx.Client, server: SmartTestServer) -> None:
        """The key id chooses among keys, as during a rotation."""
        old, new = ClientKey.generate("ES384", "old"), ClientKey.generate("RS384", "new")
        server.register(CLIENT, jwks={"keys": [old.jwk, new.jwk]})
        for key in (old, new):
            assertion = key.sign(good_claims(CLIENT, server.token_endpoint))
            assert 200 == ask(http, server, assertion).status_code


class TestClaims:
    """Claims that are refused."""

    @pytest.mark.parametrize("name", ["iss", "sub", "aud", "exp", "jti"])
    def test_missing(self, http: httpx.Client, server: SmartTestServer, name: str) -> None:
        """Each required claim is missed."""
        claims = good_claims(CLIENT, server.token_endpoint)
        del claims[name]

        assert f"{name}-missing" == refused_for(http, server, KEY.sign(claims))

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            pytest.param({"iss": "other"}, "iss-sub-differ", id="iss"),
            pytest.param({"sub": "other"}, "iss-sub-differ", id="sub"),
            pytest.param({"iss": "x", "sub": "x"}, "client-unknown", id="unknown"),
            pytest.param({"iss": ""}, "iss-missing", id="empty iss"),
            pytest.param({"aud": "https://elsewhere.example/token"}, "aud-mismatch", id="aud"),
            pytest.param({"aud": lambda c: c["aud"] + "/"}, "aud-mismatch", id="aud slash"),
            pytest.param(
                {"aud": lambda c: c["aud"].replace("127.0.0.1", "localhost")},
                "aud-mismatch",
                id="aud other name",
            ),
            pytest.param({"aud": lambda c: [c["aud"]]}, "aud-not-a-string", id="aud list"),
            pytest.param(
                {"exp": lambda c: int(time.time()) - 1}, "exp-past", id="exp a second ago"
            ),
            pytest.param({"exp": lambda c: int(time.time())}, "exp-past", id="exp now"),
            pytest.param(
                {"exp": lambda c: int(time.time()) + 302}, "exp-too-far", id="exp 302 s ahead"
            ),
            pytest.param({"exp": lambda c: c["exp"] * 1000}, "exp-too-far", id="milliseconds"),
            pytest.param({"exp": lambda c: c["exp"] + 0.5}, "exp-not-an-integer", id="float"),
            pytest.param({"exp": lambda c: float(c["exp"])}, "exp-not-an-integer", id="round"),
            pytest.param({"exp": 10**400}, "exp-too-far", id="huge"),
            pytest.param({"exp": True}, "exp-not-an-integer", id="true"),
            pytest.param({"nbf": lambda c: int(time.time()) + 30}, "nbf-future", id="nbf"),
            pytest.param({"iat": lambda c: int(time.time()) + 30}, "iat-future", id="iat"),
            pytest.param({"nbf": "now"}, "nbf-not-a-number", id="nbf text"),
            pytest.param({"iat": True}, "iat-not-a-number", id="iat true"),
            pytest.param({"iat": lambda c: c["exp"] - 301}, "lifetime-too-long", id="lifetime"),
            pytest.param({"jti": ""}, "jti-length", id="empty jti"),
            pytest.param({"jti": "j" * 152}, "jti-length", id="long jti"),
            pytest.param({"jti": ["j"]}, "jti-not-a-string", id="jti list"),
            pytest.param({"jti": 7}, "jti-not-a-string", id="jti number"),
        ],
    )
    def test_refused(
        self,
        http: httpx.Client,
        server: SmartTestServer,
        changes: dict[str, Any | Callable[[Any], Any]],
        reason: str,
    ) -> None:
        """One wrong claim is refused for that claim."""
        claims = good_claims(CLIENT, server.token_endpoint)
        for name, value in changes.items():
            claims[name] = value(claims) if callable(value) else value

        assert reason == refused_for(http, server, _signed_as_is(claims))


class TestHeader:
    """Headers that are refused."""

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            pytest.param({"typ": None}, "typ", id="no typ"),
            pytest.param({"typ": "jwt"}, "typ", id="lower case typ"),
            pytest.param({"typ": "client-authentication+jwt"}, "typ", id="RFC 7523bis typ"),
            pytest.param({"alg": None}, "alg-unsupported", id="no alg"),
            pytest.param({"alg": "none"}, "alg-unsupported", id="none"),
            pytest.param({"alg": "HS256"}, "alg-unsupported", id="HS256"),
            pytest.param({"alg": ["ES384"]}, "alg-unsupported", id="alg list"),
            pytest.param({"alg": "es384"}, "alg-unsupported", id="lower case alg"),
            pytest.param({"crit": ["exp"], "exp": 1}, "crit", id="crit"),
            pytest.param({"crit": ["b64"], "b64": True}, "crit", id="b64"),
            pytest.param({"kid": None}, "kid-missing", id="no kid"),
            pytest.param({"kid": ""}, "kid-missing", id="empty kid"),
            pytest.param({"kid": 1}, "kid-missing", id="number kid"),
            pytest.param({"kid": "other"}, "kid-unknown", id="other kid"),
            pytest.param({"jku": "https://client.example/jwks"}, "jku-mismatch", id="jku"),
        ],
    )
    def test_refused(
        self,
        http: httpx.Client,
        server: SmartTestServer,
        changes: dict[str, Any],
        reason: str,
    ) -> None:
        """One wrong header member is refused for that member."""
        claims = good_claims(CLIENT, server.token_endpoint)

        assert reason == refused_for(http, server, _signed_as_is(claims, changes))

    def test_unadvertised_algorithm(self, http: httpx.Client, server: SmartTestServer) -> None:
        """What the server does not advertise, it does not accept."""
        server.authorization_server.algorithm_names = ("RS384",)
        advertised = http.get(server.smart_configuration_url).json()
        assertion = KEY.sign(good_claims(CLIENT, server.token_endpoint))

        assert ["RS384"] == advertised["token_endpoint_auth_signing_alg_values_supported"]
        assert "alg-unsupported" == refused_for(http, server, assertion)


class TestForm:
    """Things that are no JWT."""

    @pytest.mark.parametrize(
        ("spoil", "reason"),
        [
            pytest.param(lambda a: a.rpartition(".")[0], "segments", id="two segments"),
            pytest.param(lambda a: a + ".x", "segments", id="four segments"),
            pytest.param(lambda a: "x", "segments", id="one segment"),
            pytest.param(
                lambda a: "=." + a.partition(".")[2], "header-not-base64url", id="padding"
            ),
            pytest.param(
                lambda a: "." + a.partition(".")[2], "header-not-base64url", id="empty header"
            ),
            pytest.param(lambda a: a + "+", "signature-not-base64url", id="base64, not base64url"),
            pytest.param(lambda a: a + "\n", "signature-not-base64url", id="newline"),
            pytest.param(
                lambda a: a.rpartition(".")[0] + ".", "signature-not-base64url", id="no signature"
            ),
            pytest.param(
                lambda a: a.rpartition(".")[0] + ".AB",
                "signature-not-base64url",
                id="spare bits",
            ),
            pytest.param(
                lambda a: a.rpartition(".")[0] + ".A", "signature-not-base64url", id="one character"
            ),
            pytest.param(
                lambda a: segment(b"\xff") + "." + a.partition(".")[2],
                "header-not-json",
                id="no UTF-8",
            ),
            pytest.param(
                lambda a: segment([1]) + "." + a.partition(".")[2], "header-not-json", id="a list"
            ),
            pytest.param(
                lambda a: segment(b'{"alg":"ES384","alg":"none"}') + "." + a.partition(".")[2],
                "header-not-json",
                id="a name twice",
            ),
            pytest.param(
                lambda a: ".".join([a.split(".")[0], segment(b'{"exp":NaN}'), a.split(".")[2]]),
                "claims-not-json",
                id="NaN",
            ),
            pytest.param(
                lambda a: ".".join([a.split(".")[0], segment(b"[" * 20_000), a.split(".")[2]]),
                "claims-not-json",
                id="deeply nested",
            ),
        ],
    )
    def test_refused(
        self,
        http: httpx.Client,
        server: SmartTestServer,
        spoil: Callable[[str], str],
        reason: str,
    ) -> None:
        """A spoiled serialization is refused for what is spoiled."""
        assertion = KEY.sign(good_claims(CLIENT, server.token_endpoint))

        assert reason == refused_for(http, server, spoil(assertion))


class TestSignature:
    """Keys and signatures that are refused."""

    def test_changed_claims(self, http: httpx.Client, server: SmartTestServer) -> None:
        """Claims changed after signing are noticed."""
        claims = good_claims(CLIENT, server.token_endpoint)
        header, _, signature = KEY.sign(claims).split(".")
        forged = ".".join([header, segment(claims | {"scope": "all"}), signature])

        assert "signature-invalid" == refused_for(http, server, forged)

    def test_other_key(self, http: httpx.Client, server: SmartTestServer) -> None:
        """Another key under the registered key id is noticed."""
        other = ClientKey.generate("ES384", KEY.kid)
        assertion = other.sign(good_claims(CLIENT, server.token_endpoint))

        assert "signature-invalid" == refused_for(http, server, assertion)

    def test_der_signature(self, http: httpx.Client, server: SmartTestServer) -> None:
        """A signature in ASN.1 DER, the classic of cloud key services, is noticed."""
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        claims = good_claims(CLIENT, server.token_endpoint)
        signed, _, signature = KEY.sign(claims).rpartition(".")
        raw = base64.urlsafe_b64decode(signature + "==")
        der = encode_dss_signature(int.from_bytes(raw[:48], "big"), int.from_bytes(raw[48:], "big"))

        assert "signature-invalid" == refused_for(http, server, f"{signed}.{segment(der)}")

    def test_public_key_as_secret(self, http: httpx.Client, server: SmartTestServer) -> None:
        """The public key is no HMAC secret."""
        head = segment({"alg": "HS256", "typ": "JWT", "kid": KEY.kid})
        message = f"{head}.{segment(good_claims(CLIENT, server.token_endpoint))}"
        mac = hmac.digest(json.dumps(KEY.jwk).encode(), message.encode(), hashlib.sha256)

        assert "alg-unsupported" == refused_for(http, server, f"{message}.{segment(mac)}")

    @pytest.mark.parametrize(
        ("registered", "signing", "reason"),
        [
            pytest.param({}, "ES384", None, id="as it is"),
            pytest.param({"alg": None}, "ES384", None, id="key without alg"),
            pytest.param({"use": None, "key_ops": ["verify"]}, "ES384", None, id="key_ops"),
            pytest.param({"alg": "ES256"}, "ES384", "key-alg-mismatch", id="alg of the key"),
            pytest.param({"use": "enc"}, "ES384", "key-use", id="for encryption"),
            pytest.param({"key_ops": ["encrypt"]}, "ES384", "key-use", id="other key_ops"),
            pytest.param({}, "ES256", "key-type-mismatch", id="other curve"),
            pytest.param({}, "RS384", "key-type-mismatch", id="other type"),
            pytest.param({}, "EdDSA", "key-type-mismatch", id="other family"),
        ],
    )
    def test_registered_key(
        self,
        http: httpx.Client,
        server: SmartTestServer,
        registered: dict[str, Any],
        signing: str,
        reason: str | None,
    ) -> None:
        """The registered key must be of the type, curve, algorithm and use that is needed."""
        jwk = {name: value for name, value in (KEY.jwk | registered).items() if value is not None}
        server.register(CLIENT, jwks={"keys": [jwk]})
        assertion = KEYS[signing].sign(good_claims(CLIENT, server.token_endpoint))

        if reason is None:
            assert 200 == ask(http, server, assertion).status_code
        else:
            assert reason == refused_for(http, server, assertion)

    def test_ambiguous_key(self, http: httpx.Client, server: SmartTestServer) -> None:
        """Two keys with one id fail, though one of them is right."""
        server.register(CLIENT, jwks={"keys": [KEY.jwk, ClientKey.generate("ES384").jwk]})
        assertion = KEY.sign(good_claims(CLIENT, server.token_endpoint))

        assert "kid-ambiguous" == refused_for(http, server, assertion)


class TestReplay:
    """A `jti` works once."""

    def test_same_assertion(self, http: httpx.Client, server: SmartTestServer) -> None:
        """The same assertion is refused the second time."""
        assertion = KEY.sign(good_claims(CLIENT, server.token_endpoint))

        assert 200 == ask(http, server, assertion).status_code
        assert "jti-replayed" == refused_for(http, server, assertion)

    def test_same_jti(self, http: httpx.Client, server: SmartTestServer) -> None:
        """A new assertion with a used jti is refused."""
        claims = good_claims(CLIENT, server.token_endpoint)

        assert 200 == ask(http, server, KEY.sign(claims)).status_code
        assert "jti-replayed" == refused_for(http, server, KEY.sign(claims | {"x": 1}))

    def test_of_another_client(self, http: httpx.Client, server: SmartTestServer) -> None:
        """Clients have jti values of their own."""
        server.register("other", jwks=KEY.jwks)
        for client in (CLIENT, "other"):
            claims = good_claims(client, server.token_endpoint) | {"jti": "shared"}
            assert 200 == ask(http, server, KEY.sign(claims)).status_code

    def test_refused_assertion_keeps_its_jti(
        self, http: httpx.Client, server: SmartTestServer
    ) -> None:
        """An assertion that fails does not use up its jti: nobody else can burn it."""
        claims = good_claims(CLIENT, server.token_endpoint)
        forged = ClientKey.generate("ES384", KEY.kid).sign(claims)

        assert "signature-invalid" == refused_for(http, server, forged)
        assert 200 == ask(http, server, KEY.sign(claims)).status_code

    def test_at_the_same_time(self, server: SmartTestServer) -> None:
        """Of sixteen threads with one assertion, one succeeds."""
        assertion = KEY.sign(good_claims(CLIENT, server.token_endpoint))
        together = threading.Barrier(16)

        def race(_: int) -> int:
            with httpx.Client() as http:
                together.wait(10)
                return ask(http, server, assertion).status_code

        with ThreadPoolExecutor(16) as pool:
            assert [200, *[401] * 15] == sorted(pool.map(race, range(16)))


def _signed_as_is(claims: dict[str, Any], changes: dict[str, Any] | None = None) -> str:
    """Sign what PyJWT would not encode, with PyJWT's signature: a member of None is left out."""
    header = {"alg": KEY.algorithm, "typ": "JWT", "kid": KEY.kid} | (changes or {})
    kept = {name: value for name, value in header.items() if value is not None}
    message = f"{segment(kept)}.{segment(claims)}"
    private_key: Any = KEY.private_key
    signature = jwt.get_algorithm_by_name(KEY.algorithm).sign(message.encode(), private_key)
    return f"{message}.{segment(signature)}"
