"""keystay as its users write it. Never run: mypy --strict reads it (test_public_api.py)."""

from __future__ import annotations

from typing import assert_type

import httpx

import keystay
from keystay import signatures
from keystay.backends import (
    BackendContext,
    BackendKey,
    BackendSignature,
    Deadline,
    KeyDescription,
    SignRequest,
)
from keystay.key_uri import KeyURI
from keystay.observers import TokenIssued
from keystay.ops.publishing import asgi_app, wsgi_app
from keystay.ops.report import examine, verify
from keystay.token_stores.port import TokenStore


def from_config() -> None:
    """A FHIR read."""
    client = keystay.TokenClient.from_config("epic-prod")
    with httpx.Client(base_url=client.fhir_base_url, auth=client.auth()) as fhir:
        fhir.get("Patient/123")


def by_hand() -> None:
    """A token, by hand."""
    with keystay.open_signer("file:client.pem", secrets=lambda reference, purpose: None) as signer:
        assert_type(signer, keystay.Signer)
        assert_type(signer.kid, str)
        assert_type(signer.algorithms, tuple[str, ...])
        assert_type(signer.custody, keystay.Custody)
        assert_type(signer.sign(b"message"), bytes)
        client = keystay.TokenClient(
            fhir_base_url="https://ehr.example.org/fhir/r4",
            client_id="me",
            signer=signer,
            scope="system/Patient.rs",
        )
        token = client.token()
        assert_type(token, keystay.AccessToken)
        assert_type(token.value, str)
        assert_type(token.expired, bool)
        assert_type(client.request_token(scope="system/*.rs"), keystay.AccessToken)
        assertion = keystay.ClientAssertion(client_id="me", signer=signer)
        assert_type(assertion.build(audience="https://as.example.org/token"), str)
        assert_type(keystay.JWKSet.from_signers([signer]).to_json(), str)


class Counter:
    """An observer."""

    @keystay.hookimpl
    def keystay_token_issued(self, event: TokenIssued) -> None:
        """Look at it."""
        assert_type(event.jti, str | None)


def observed(keys: str) -> None:
    """Observers and a store."""
    observers = keystay.Observers(Counter(), required=[keystay.AuditObserver("audit.jsonl")])
    store: TokenStore = keystay.FileTokenStore("tokens", keys=keys)
    signer = keystay.open_signer("file:client.pem", observers=observers)
    keystay.TokenClient(
        fhir_base_url="https://ehr.example.org/fhir/r4", client_id="me", signer=signer, store=store
    )


async def asynchronous(signer: keystay.Signer) -> None:
    """The same names."""
    assert_type(await signer.sign_async(b"message"), bytes)
    async with keystay.AsyncTokenClient(
        fhir_base_url="https://ehr.example.org/fhir/r4", client_id="me", signer=signer
    ) as client:
        assert_type(await client.token(), keystay.AccessToken)
    shared = keystay.TokenClient(
        fhir_base_url="https://ehr.example.org/fhir/r4",
        client_id="me",
        signer=signer,
        rate_limit="5/60",
        clock_correction="warn",
    )
    assert_type(shared.as_async(), keystay.AsyncTokenClient)
    assert_type(shared.clock_offset, float | None)


def registration(signer: keystay.Signer) -> None:
    """A client's life at the server."""
    made = keystay.register_client(
        "https://ehr.example.org/fhir/r4", keys=[signer], initial_token="env:TOKEN"
    )
    assert_type(made, keystay.Registration)
    assert_type(made.client_id, str)
    assert_type([str(difference) for difference in made.differences], list[str])
    assert_type(keystay.update_client(made, {"scope": "system/*.rs"}), keystay.Registration)
    keystay.delete_client(made)


def mistakes(signer: keystay.Signer) -> None:
    """What the types find."""
    signer.sign("text")  # type: ignore[arg-type]
    keystay.open_signer("file:client.pem", verify="never")  # type: ignore[arg-type]
    keystay.TokenClient(
        fhir_base_url="https://ehr.example.org/fhir/r4",
        client_id="me",
        signer=signer,
        clock_correction="off",  # type: ignore[arg-type]
    )
    keystay.ClientAssertion(client_id="me")  # type: ignore[call-arg]
    keystay.register_client("https://ehr.example.org")  # type: ignore[call-arg]
    keystay.no_such_name  # type: ignore[attr-defined]  # noqa: B018


def publishing(config: keystay.Config) -> None:
    """What to publish, and the applications that do."""
    assert_type(keystay.published_keys(config, "epic-prod"), keystay.JWKSet)
    asgi_app("epic-prod", config=config, max_age=60)
    wsgi_app("epic-prod", "epic-test")


def custody(config: keystay.Config) -> None:
    """What a key must be, where it is, and the report on all."""
    policy = keystay.Policy(custody="out-of-process", evidence="reported", min_ec_bits=384)
    with keystay.open_signer("pkcs11:token=prod", policy=policy) as signer:
        assert_type(signer.custody.to_dict(), dict[str, object])
        assert_type([finding.satisfied for finding in policy.check(signer.subject)], list[bool])
    assert_type(examine(config, "epic-prod").satisfied, bool)
    assert_type(verify(b"a report"), str)
    keystay.Policy(custody="anywhere")  # type: ignore[arg-type]


def errors() -> str | None:
    """Every error has a code and a remedy."""
    try:
        return str(signatures.der_to_raw(b"", "ES384"))
    except keystay.KeystayError as error:
        assert_type(error.code, str)
        return error.hint
    except keystay.errors.NetworkError:
        return None


class MyKey:
    """A backend's key."""

    def describe(self) -> KeyDescription:
        """What is known."""
        raise NotImplementedError

    def sign(self, request: SignRequest) -> BackendSignature:
        """Sign."""
        return BackendSignature(b"", "raw", "id")

    def health(self, deadline: Deadline) -> None:
        """Well."""

    def close(self) -> None:
        """Release."""


@keystay.hookimpl
def keystay_open_key(uri: KeyURI, context: BackendContext) -> BackendKey:
    """A plugin's hook."""
    return MyKey()
