"""Registering at the strict server: what is sent, what is made of the answer, what is refused."""

from __future__ import annotations

import copy
import json
import pickle
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import keystay
from keystay.errors import (
    ConfigurationError,
    DiscoveryError,
    JWKError,
    RegistrationResponseError,
    SecretError,
)
from keystay.jwk import thumbprint
from keystay.testing import Reply, Request, SmartTestServer
from tests.support.assertions import ClientKey
from tests.support.fixtures import watch_exchanges
from tests.support.registration import INITIAL, PATH, answer, register
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystay.signer import Signer

pytestmark = pytest.mark.usefixtures("no_environment")


@pytest.fixture
def server() -> Iterator[SmartTestServer]:
    """A strict server that demands an initial access token."""
    with SmartTestServer(initial_access_token=INITIAL) as running:
        watch_exchanges(running)
        yield running


@pytest.fixture
def bodies(server: SmartTestServer) -> list[dict[str, Any]]:
    """What the registration endpoint is sent, as it comes."""
    seen: list[dict[str, Any]] = []
    handle = server.registration_server.handle

    def noted(request: Request) -> Reply:
        if request.body:
            seen.append(json.loads(request.body))
        return handle(request)

    setattr(server.registration_server, "handle", noted)  # noqa: B010
    return seen


class TestRequest:
    """What is sent."""

    def test_defaults(
        self, server: SmartTestServer, pem_signer: Signer, bodies: list[dict[str, Any]]
    ) -> None:
        """The metadata of a Backend Services client, to the letter; the key public only."""
        register(server, pem_signer)
        assert [
            {
                "grant_types": ["client_credentials"],
                "response_types": [],
                "token_endpoint_auth_method": "private_key_jwt",
                "token_endpoint_auth_signing_alg": "ES384",
                "scope": "system/*.rs",
                "jwks": keystay.JWKSet.from_signers([pem_signer]).to_dict(),
            }
        ] == bodies
        event = server.log.events[-1]
        assert ("registration", "POST", PATH, 201) == (
            event.kind,
            event.method,
            event.path,
            event.status,
        )
        assert "application/json" == event.headers["content-type"]
        assert "Bearer [redacted]" == event.headers["authorization"]

    def test_more_metadata(
        self, server: SmartTestServer, pem_signer: Signer, bodies: list[dict[str, Any]]
    ) -> None:
        """Further members are sent as they are, and may replace a default."""
        extra = {"contacts": ["it@hospital.example"], "redirect_uris": [], "client_name": "b"}
        register(server, pem_signer, client_name="a", metadata=extra)
        assert extra == {name: bodies[0][name] for name in extra}

    @pytest.mark.parametrize(
        ("style", "sent"),
        [("auto", "system/Patient.read"), ("v2", "system/Patient.rs")],
        ids=["auto", "v2"],
    )
    def test_scope_style(
        self,
        server: SmartTestServer,
        pem_signer: Signer,
        bodies: list[dict[str, Any]],
        style: str,
        sent: str,
    ) -> None:
        """Registered in the version that tokens are asked for in."""
        document = httpx.get(server.smart_configuration_url).json()
        changed = {**document, "capabilities": ["permission-v1"]}
        server.script(server.smart_configuration_url, [Reply.json(changed)])
        register(server, pem_signer, scope="system/Patient.rs", scope_style=style)
        assert sent == bodies[0]["scope"]

    def test_endpoint_given(
        self, server: SmartTestServer, pem_signer: Signer, bodies: list[dict[str, Any]]
    ) -> None:
        """With the endpoint there is no discovery, and no base URL is needed."""
        endpoint = server.registration_server.endpoint
        register(server, pem_signer, base=None, registration_endpoint=endpoint)
        assert ["registration"] == [event.kind for event in server.log.events]

    def test_token_by_reference(
        self, server: SmartTestServer, pem_signer: Signer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """`env:` and `file:` name where the initial access token is."""
        monkeypatch.setenv("INITIAL_TOKEN", INITIAL)
        made = register(server, pem_signer, secrets=None, initial_token="env:INITIAL_TOKEN")
        assert made.client_id


REFUSED_HERE = {
    "no-place": ({"base": None}, ConfigurationError, "Neither"),
    "insecure-endpoint": (
        {"registration_endpoint": "http://ehr.example.org/reg"}, ConfigurationError, "not HTTPS",
    ),
    "insecure-loopback": ({"allow_insecure_loopback": False}, ConfigurationError, "plain HTTP"),
    "insecure-jwks": ({"jwks_uri": "http://x.example/jwks"}, ConfigurationError, "JWKS URL"),
    "no-key": ({"keys": []}, JWKError, "no key"),
    "keys-by-hand": ({"metadata": {"jwks": {}}}, ConfigurationError, "'jwks'"),
    "servers-own": ({"metadata": {"client_id": "me"}}, ConfigurationError, "'client_id'"),
    "not-json": ({"metadata": {"a": object()}}, ConfigurationError, "JSON"),
    "nan": ({"metadata": {"a": float("nan")}}, ConfigurationError, "JSON"),
    "scope": ({"scope": "system/Patient.sr"}, ConfigurationError, "scope"),
    "token-in-clear": (
        {"initial_token": INITIAL, "secrets": None}, SecretError, "not of a known form",
    ),
    "token-two-words": ({"secrets": lambda *_: "two words"}, SecretError, "one printable word"),
    "token-newline": ({"secrets": lambda *_: "a\r\nX-Evil: 1"}, SecretError, "printable word"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "kind", "said"), REFUSED_HERE.values(), ids=REFUSED_HERE)
def test_refused_before_anything_is_sent(
    server: SmartTestServer,
    pem_signer: Signer,
    changes: dict[str, Any],
    kind: type[keystay.KeystayError],
    said: str,
) -> None:
    """A slip costs no client at the server: it is found before."""
    with pytest.raises(kind, match=said) as caught:
        register(server, pem_signer, **changes)
    assert caught.value.hint
    assert [] == [event for event in server.log.events if event.kind == "registration"]


class TestDiscovery:
    """Where to register."""

    @pytest.mark.parametrize(
        ("advertised", "said"),
        [
            pytest.param(None, "does not offer", id="none"),
            pytest.param("http://ehr.example.org/reg", "not HTTPS", id="insecure"),
        ],
    )
    def test_not_offered(
        self, server: SmartTestServer, pem_signer: Signer, advertised: str | None, said: str
    ) -> None:
        """No endpoint, or one that is not secure, and what to do instead."""
        document = httpx.get(server.smart_configuration_url).json()
        document["registration_endpoint"] = advertised
        server.script(server.smart_configuration_url, [Reply.json(document)])
        with pytest.raises(DiscoveryError, match="registration_endpoint") as caught:
            register(server, pem_signer)
        assert "registration-not-offered" == caught.value.code
        assert said in (caught.value.cause or "")
        assert "keystay jwks" in (caught.value.hint or "")

    def test_relative(self, server: SmartTestServer, pem_signer: Signer) -> None:
        """Relative to the FHIR base URL, as SMART has it."""
        document = httpx.get(server.smart_configuration_url).json()
        document["registration_endpoint"] = "../oauth2/register"
        server.script(server.smart_configuration_url, [Reply.json(document)])
        assert register(server, pem_signer).client_id


class TestAnswer:
    """What is made of what the server says."""

    def test_shows_nothing_secret(self, server: SmartTestServer, pem_signer: Signer) -> None:
        """Neither repr nor pickle has the management token; `to_json` does, and comes back."""
        made = register(server, pem_signer)
        assert made.registration_access_token is not None
        WATCH.check(f"{made!r} {made} {[made]} {made.metadata}", "a repr")
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(made)
        with pytest.raises(TypeError, match="not pickled"):
            copy.deepcopy(made)
        back = keystay.Registration.from_json(made.to_json())
        assert made.to_json() == back.to_json()

    def test_differences(self, server: SmartTestServer, pem_signer: Signer) -> None:
        """Each member that was registered otherwise, or not mentioned; more is no difference."""
        answer(
            server,
            {
                "client_id": "c-1",
                "scope": "system/Patient.read",
                "grant_types": ["client_credentials"],
                "response_types": [],
                "token_endpoint_auth_method": "private_key_jwt",
                "token_endpoint_auth_signing_alg": "RS384",
                "contacts": ["b", "a"],
                "application_type": "web",
                "jwks": {"keys": [{"kid": "other\x1b[2J"}]},
            },
        )
        made = register(
            server, pem_signer, scope="system/Patient.rs", client_name="me",
            metadata={"contacts": ["a", "b"]},
        )  # fmt: skip
        assert [
            'client_name: asked for "me", not mentioned',
            'token_endpoint_auth_signing_alg: asked for "ES384", granted "RS384"',
            f'jwks: asked for ["{pem_signer.kid}"], granted ["other\\u001b[2J (no key)"]',
        ] == [str(difference) for difference in made.differences]
        assert "web" == made.metadata["application_type"]
        assert () == made.warnings

    def test_another_key_under_the_same_kid(
        self, server: SmartTestServer, pem_signer: Signer
    ) -> None:
        """A key is what it is, not what it is called."""
        other = {**ClientKey.generate("ES384").jwks["keys"][0], "kid": pem_signer.kid}
        answer(server, {"client_id": "c-1", "jwks": {"keys": [other]}})
        found = [d for d in register(server, pem_signer).differences if d.name == "jwks"]
        assert 1 == len(found)
        assert thumbprint(other) in str(found[0])

    @pytest.mark.parametrize("granted", ["system/Patient.r", "system/*.rs", "openid"])
    def test_scope_differs(self, server: SmartTestServer, pem_signer: Signer, granted: str) -> None:
        """Less, more, or something else."""
        answer(server, {"client_id": "c-1", "scope": granted})
        made = register(server, pem_signer, scope="system/Patient.rs")
        found = next(d for d in made.differences if d.name == "scope")
        assert ("system/Patient.rs", granted) == (found.asked, found.granted)

    def test_warnings(self, server: SmartTestServer, pem_signer: Signer) -> None:
        """What keeps the client from getting a token; a secret nobody asked for is not kept."""
        secret = WATCH.add("a client secret", "client-secret-0123456789")
        answer(
            server,
            {
                "client_id": "c-1",
                "client_secret": secret,
                "token_endpoint_auth_method": "client_secret_basic",
                "grant_types": ["authorization_code"],
            },
        )
        made = register(server, pem_signer)
        told = " ".join(made.warnings)
        for word in ("client_secret_basic", "authorization_code", "client secret"):
            assert word in told
        WATCH.check(f"{made!r} {dict(made.metadata)} {made.warnings} {made.to_json()}", "a result")

    @pytest.mark.parametrize(
        "document",
        [
            {}, {"client_id": ""}, {"client_id": 7}, {"client_id": "a\x1b[2J"}, {"client_id": None},
            {"client_id": "a\nb"},
        ],
        ids=["missing", "empty", "number", "escape", "null", "newline"],
    )  # fmt: skip
    def test_without_client_id(
        self, server: SmartTestServer, pem_signer: Signer, document: dict[str, Any]
    ) -> None:
        """A success without a usable client_id is none."""
        answer(server, document, headers={"X-Correlation-Id": "c-77"})
        with pytest.raises(RegistrationResponseError, match="client_id is missing") as caught:
            register(server, pem_signer)
        assert ("c-77", 4) == (caught.value.correlation_id, caught.value.exit_code)
        assert "console" in (caught.value.hint or "")

    @pytest.mark.parametrize("status", [200, 201])
    def test_success(self, server: SmartTestServer, pem_signer: Signer, status: int) -> None:
        """201 is what RFC 7591 says, 200 what some servers send."""
        answer(server, {"client_id": "c-1"}, status)
        assert "c-1" == register(server, pem_signer).client_id
