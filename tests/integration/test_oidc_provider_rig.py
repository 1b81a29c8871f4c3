"""The rig itself: real parts start, accept what is right and refuse what is wrong.

Nothing of keystay signs here. Assertions come from PyJWT, so a failure is the rig's and not the
product's.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from tests.support.assertions import ClientKey, good_claims, token_form
from tests.support.p11kit import P11KitServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from keystay.testing import SmartTestServer
    from tests.support.fixtures import StartOIDCProvider
    from tests.support.oidc_provider import OIDCProvider
    from tests.support.softhsm import SoftHSM

Claims = dict[str, Any]


def ask(provider: OIDCProvider, assertion: str) -> httpx.Response:
    """Make a token request."""
    return httpx.post(provider.token_endpoint, data=token_form(assertion))


class TestOIDCProvider:
    """npm's oidc-provider, set up for SMART Backend Services."""

    @pytest.mark.parametrize("algorithm", ["RS384", "ES384", "PS384", "EdDSA"])
    @pytest.mark.parametrize("published", [False, True], ids=["inline", "jwks_uri"])
    def test_grants(
        self,
        oidc_provider: StartOIDCProvider,
        smart_server: SmartTestServer,
        algorithm: str,
        published: bool,
    ) -> None:
        """A good assertion gives a token, and the token gives a Patient."""
        key = ClientKey.generate(algorithm)
        keys = (
            {"jwks_uri": smart_server.publish("/jwks.json", key.jwks)}
            if published
            else {"jwks": key.jwks}
        )
        provider = oidc_provider([{"client_id": "client", **keys}])
        response = ask(provider, key.sign(good_claims("client", provider.token_endpoint)))

        assert 200 == response.status_code, response.text
        grant = response.json()
        value = grant.pop("access_token")
        expected = {"token_type": "Bearer", "expires_in": 300, "scope": "system/Patient.rs"}
        assert expected == grant
        patient = httpx.get(
            f"{provider.fhir_base_url}/Patient/123",
            headers={"Authorization": f"Bearer {value}"},
        )
        assert (200, "123") == (patient.status_code, patient.json()["id"])

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            pytest.param({"exp": lambda _: int(time.time()) - 1}, "jwt expired", id="expired"),
            pytest.param(
                {"exp": lambda _: int(time.time()) + 400}, "exp is more than 300 s ahead", id="far"
            ),
            pytest.param(
                {"aud": lambda aud: [aud]},
                "aud must be the token endpoint, as one string",
                id="aud-list",
            ),
            pytest.param(
                {"aud": lambda aud: aud.removesuffix("/token")},
                "aud must be the token endpoint, as one string",
                id="aud-issuer",
            ),
            pytest.param(
                {"iss": lambda _: "other"}, "iss (JWT issuer) must be the client_id", id="iss"
            ),
            pytest.param(
                {"sub": lambda _: "nobody", "iss": lambda _: "nobody"},
                "client not found",
                id="unknown",
            ),
            pytest.param(
                {"jti": lambda _: "j" * 152}, "jti is longer than 151 characters", id="jti"
            ),
        ],
    )
    def test_refuses_claims(
        self,
        oidc_provider: StartOIDCProvider,
        change: dict[str, Callable[[Any], Any]],
        reason: str,
    ) -> None:
        """A bad claim is refused, and the rig knows the reason that the client is not told."""
        key = ClientKey.generate("ES384")
        provider = oidc_provider([{"client_id": "client", "jwks": key.jwks}])
        claims = good_claims("client", provider.token_endpoint)
        for name, replace in change.items():
            claims[name] = replace(claims[name])
        response = ask(provider, key.sign(claims))

        assert (401, "invalid_client") == (response.status_code, response.json()["error"])
        assert reason == provider.next_refusal()["reason"]

    def test_refuses_another_key(self, oidc_provider: StartOIDCProvider) -> None:
        """A signature by a key that is not registered fails."""
        registered, other = ClientKey.generate("ES384"), ClientKey.generate("ES384")
        provider = oidc_provider([{"client_id": "client", "jwks": registered.jwks}])
        response = ask(provider, other.sign(good_claims("client", provider.token_endpoint)))

        assert 401 == response.status_code
        assert "signature verification failed" in provider.next_refusal()["reason"]

    def test_refuses_replay(self, oidc_provider: StartOIDCProvider) -> None:
        """An assertion works once."""
        key = ClientKey.generate("ES384")
        provider = oidc_provider([{"client_id": "client", "jwks": key.jwks}])
        assertion = key.sign(good_claims("client", provider.token_endpoint))

        assert [200, 401] == [ask(provider, assertion).status_code for _ in range(2)]
        refusal = provider.next_refusal()
        assert "client" == refusal["client_id"]
        assert "client assertion tokens must only be used once" == refusal["reason"]

    def test_refuses_a_made_up_token(self, oidc_provider: StartOIDCProvider) -> None:
        """FHIR without a good token is refused with a challenge."""
        provider = oidc_provider()
        response = httpx.get(
            f"{provider.fhir_base_url}/Patient/123", headers={"Authorization": "Bearer made-up"}
        )

        assert 401 == response.status_code
        assert 'Bearer error="invalid_token"' == response.headers["www-authenticate"]

    def test_discovery(self, oidc_provider: StartOIDCProvider) -> None:
        """The SMART configuration leads to the token endpoint."""
        provider = oidc_provider()
        response = httpx.get(f"{provider.fhir_base_url}/.well-known/smart-configuration")

        assert provider.token_endpoint == response.json()["token_endpoint"]

    def test_registration(self, oidc_provider: StartOIDCProvider) -> None:
        """A client registers itself with the initial access token, and gets a grant."""
        key = ClientKey.generate("ES384")
        provider = oidc_provider(initial_access_token="initial")
        metadata = {"jwks": key.jwks, "token_endpoint_auth_method": "private_key_jwt"}
        refused = httpx.post(provider.registration_endpoint, json=metadata)
        accepted = httpx.post(
            provider.registration_endpoint,
            json=metadata,
            headers={"Authorization": "Bearer initial"},
        )

        assert (401, 201) == (refused.status_code, accepted.status_code), accepted.text
        claims = good_claims(accepted.json()["client_id"], provider.token_endpoint)
        assert 200 == ask(provider, key.sign(claims)).status_code

    def test_ends_with_its_test(self, oidc_provider: StartOIDCProvider) -> None:
        """Once closed, nothing listens."""
        provider = oidc_provider()
        provider.close()

        with pytest.raises(httpx.ConnectError):
            httpx.get(provider.base_url)


class TestTokens:
    """SoftHSM, directly and in another process."""

    def test_softhsm_lists_the_token(self, softhsm: SoftHSM) -> None:
        """OpenSC sees the token in the session's store."""
        assert f"token label        : {softhsm.label}" in softhsm.list_tokens()

    def test_p11kit_lists_the_token(self, p11kit: P11KitServer) -> None:
        """OpenSC sees the same token through the socket."""
        assert f"token label        : {p11kit.token.label}" in p11kit.list_tokens()

    def test_both_see_a_key(self, softhsm: SoftHSM, p11kit: P11KitServer) -> None:
        """A key generated directly is there through the socket, and not extractable."""
        softhsm.generate_key("EC:secp384r1", "rig-key", "7e57")
        objects = [part.pkcs11_tool("--login", "--list-objects") for part in (softhsm, p11kit)]

        assert [True, True] == ["rig-key" in listing for listing in objects]
        assert "never extractable" in objects[0]

    def test_p11kit_comes_back(self, p11kit: P11KitServer) -> None:
        """After a restart the token is at the same address."""
        address = p11kit.address
        p11kit.restart()

        assert address == p11kit.address
        assert p11kit.token.label in p11kit.list_tokens()

    def test_p11kit_connections_can_be_ended(self, fresh_softhsm: SoftHSM) -> None:
        """A client's connection is a child of the server, and ends when told to."""
        import socket

        # A server of its own: a child of another test's connection may be about to end.
        with P11KitServer(fresh_softhsm) as server:
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(server.address.removeprefix("unix:path="))
                until = time.monotonic() + 5
                while not server.children() and time.monotonic() < until:
                    time.sleep(0.01)

                assert 1 == server.kill_children()
                client.settimeout(5)
                assert b"" == client.recv(1)
            assert fresh_softhsm.label in server.list_tokens()

    def test_wrong_pin_shows_in_the_flags(self, fresh_softhsm: SoftHSM) -> None:
        """One wrong PIN sets the token's flag, which tests of PIN discipline look at."""
        before = fresh_softhsm.token_flags()
        right, fresh_softhsm.pin = fresh_softhsm.pin, "not-the-pin"
        with pytest.raises(AssertionError, match="CKR_PIN_INCORRECT"):
            fresh_softhsm.pkcs11_tool("--login", "--list-objects")
        fresh_softhsm.pin = right

        assert "user PIN count low" not in before
        assert "user PIN count low" in fresh_softhsm.token_flags()
