"""The main job, whole: a key signs where it lives, a server grants, a Patient is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from joserfc import jwk as joserfc_jwk
from joserfc import jwt as joserfc_jwt

import keystay
from keystay.assertion import ClientAssertion
from tests.support.openssl import openssl_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keystay.signer import Signer
    from keystay.testing import SmartTestServer
    from tests.support.fixtures import StartOIDCProvider
    from tests.support.p11kit import P11KitServer
    from tests.support.softhsm import SoftHSM

CLIENT = "main-job"
SCOPE = "system/Patient.rs"
ALGORITHMS = {"RS384": "rsa:3072", "ES384": "EC:secp384r1"}


@dataclass(frozen=True)
class Keys:
    """Where the two keys are: key URIs by algorithm, for each kind of store."""

    uris: dict[tuple[str, str], str]


@pytest.fixture(scope="session")
def keys(softhsm: SoftHSM, p11kit: P11KitServer, tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """RSA-3072 and P-384, made by OpenSSL in a file and by OpenSC in the token."""
    folder = tmp_path_factory.mktemp("pem")
    uris = {}
    for number, (algorithm, kind) in enumerate(ALGORITHMS.items(), 0x31):
        label = f"main-{algorithm}"
        softhsm.generate_key(kind, label, f"{number:x}")
        uris[algorithm, "softhsm"] = softhsm.key_uri(label)
        uris[algorithm, "p11-kit"] = p11kit.key_uri(label)
        uris[algorithm, "pem"] = f"file:{openssl_key(folder / f'{algorithm}.pem', algorithm)}"
    return Keys(uris)


@pytest.fixture(params=["pem", "softhsm", "p11-kit"])
def store(request: pytest.FixtureRequest) -> str:
    """Each kind of key store."""
    return str(request.param)


@pytest.fixture(params=ALGORITHMS)
def signer(request: pytest.FixtureRequest, keys: Keys, store: str) -> Iterator[Signer]:
    """Each algorithm, from each key store."""
    with keystay.open_signer(keys.uris[request.param, store]) as opened:
        assert request.param == opened.algorithm
        yield opened


@pytest.fixture(params=["strict", "oidc-provider"])
def register(
    request: pytest.FixtureRequest,
    smart_server: SmartTestServer,
    oidc_provider: StartOIDCProvider,
) -> Callable[[dict[str, Any]], str]:
    """Each authorization server: a function that registers a JWK Set; returns the FHIR base."""

    def at_strict(keys: dict[str, Any]) -> str:
        smart_server.register(CLIENT, jwks=keys)
        return smart_server.fhir_base_url

    def at_oidc_provider(keys: dict[str, Any]) -> str:
        return oidc_provider([{"client_id": CLIENT, "jwks": keys}]).fhir_base_url

    return at_strict if request.param == "strict" else at_oidc_provider


def test_a_patient_is_read(
    signer: Signer,
    register: Callable[[dict[str, Any]], str],
    secrets_watch: Any,
    http_library: Any,
) -> None:
    """Two algorithms, three key stores, two servers, both HTTP libraries: a Patient is opened."""
    base = register(keystay.JWKSet.from_signers([signer]).to_dict())
    with keystay.TokenClient(
        fhir_base_url=base,
        client_id=CLIENT,
        signer=signer,
        scope=SCOPE,
        allow_insecure_loopback=True,
    ) as client:
        token = client.token()
        secrets_watch.add("the access token", token.value)
        with http_library.Client(base_url=client.fhir_base_url, auth=client.auth()) as fhir:
            response = fhir.get("Patient/123")

    assert (SCOPE, "Bearer", ()) == (token.scope, token.token_type, token.missing_scopes)
    assert (200, "123") == (response.status_code, response.json()["id"])


@pytest.mark.anyio
async def test_a_patient_is_read_without_blocking(
    signer: Signer, smart_server: SmartTestServer, http_library: Any
) -> None:
    """The same through the asynchronous client, under asyncio and trio."""
    smart_server.register(CLIENT, jwks=keystay.JWKSet.from_signers([signer]))
    async with (
        keystay.AsyncTokenClient(
            fhir_base_url=smart_server.fhir_base_url,
            client_id=CLIENT,
            signer=signer,
            scope=SCOPE,
            allow_insecure_loopback=True,
        ) as client,
        http_library.AsyncClient(base_url=client.fhir_base_url, auth=client.auth()) as fhir,
    ):
        response = await fhir.get("Patient/123")

    assert (200, "123") == (response.status_code, response.json()["id"])


def test_independent_libraries_verify_the_assertion(signer: Signer) -> None:
    """PyJWT and joserfc accept the assertion with the published JWK, and see the same claims."""
    audience = "https://auth.example.org/token"
    assertion = ClientAssertion(client_id=CLIENT, signer=signer).build(audience)
    (published,) = keystay.JWKSet.from_signers([signer]).to_dict()["keys"]

    by_pyjwt = jwt.decode(
        assertion, jwt.PyJWK(published).key, algorithms=[signer.algorithm], audience=audience
    )
    by_joserfc = joserfc_jwt.decode(
        assertion, joserfc_jwk.import_key(published), algorithms=[signer.algorithm]
    )

    assert by_pyjwt == by_joserfc.claims
    assert (CLIENT, CLIENT, audience) == (by_pyjwt["iss"], by_pyjwt["sub"], by_pyjwt["aud"])
    assert {"alg": signer.algorithm, "typ": "JWT", "kid": signer.kid} == by_joserfc.header


def test_custody_is_told_as_it_is(signer: Signer, store: str) -> None:
    """PEM and SoftHSM loaded here are in this process; behind p11-kit the key is in another."""
    expected = {"pem": "in-process", "softhsm": "in-process", "p11-kit": "other-process"}

    assert expected[store] == signer.custody.location


def test_policy_keeps_keys_of_this_process_out(keys: Keys, store: str) -> None:
    """With `out-of-process` demanded, only the remoted token opens."""
    uri = keys.uris["ES384", store]
    if store == "p11-kit":
        with keystay.open_signer(uri, custody="out-of-process") as signer:
            assert "ES384" == signer.algorithm
    else:
        with pytest.raises(keystay.errors.PolicyError, match="in-process"):
            keystay.open_signer(uri, custody="out-of-process")


@pytest.mark.parametrize("algorithm", ["RS384", "ES384", "PS384", "EdDSA"])
@pytest.mark.parametrize("published", [False, True], ids=["inline", "jwks_uri"])
def test_oidc_provider_takes_each_algorithm(
    oidc_provider: StartOIDCProvider,
    smart_server: SmartTestServer,
    tmp_path: Path,
    algorithm: str,
    published: bool,
) -> None:
    """The independent server accepts each algorithm, with the set inline or at a URL."""
    from keystay.backends import BackendContext
    from keystay.backends.registry import default_registry
    from keystay.key_uri import parse

    uri = f"file:{tmp_path}/key.pem"
    kind = {"ES384": "P-384", "EdDSA": "Ed25519"}.get(algorithm, "RSA-2048")
    store: Any = default_registry().open_store(parse(uri), BackendContext())
    store.generate_key(kind)
    with keystay.open_signer(uri, algorithm=algorithm) as signer:
        keys = keystay.JWKSet.from_signers([signer]).to_dict()
        registered = (
            {"jwks_uri": smart_server.publish("/jwks.json", keys)} if published else {"jwks": keys}
        )
        provider = oidc_provider([{"client_id": CLIENT, **registered}])
        with keystay.TokenClient(
            fhir_base_url=provider.fhir_base_url,
            client_id=CLIENT,
            signer=signer,
            scope=SCOPE,
            allow_insecure_loopback=True,
        ) as client:
            token = client.token()

    assert (SCOPE, False) == (token.scope, token.expired)
