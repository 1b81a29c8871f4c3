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
from keystay.publishing import asgi_app, wsgi_app


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


async def asynchronous(signer: keystay.Signer) -> None:
    """The same names."""
    assert_type(await signer.sign_async(b"message"), bytes)
    async with keystay.AsyncTokenClient(
        fhir_base_url="https://ehr.example.org/fhir/r4", client_id="me", signer=signer
    ) as client:
        assert_type(await client.token(), keystay.AccessToken)


def mistakes(signer: keystay.Signer) -> None:
    """What the types find."""
    signer.sign("text")  # type: ignore[arg-type]
    keystay.open_signer("file:client.pem", verify="never")  # type: ignore[arg-type]
    keystay.ClientAssertion(client_id="me")  # type: ignore[call-arg]
    keystay.no_such_name  # type: ignore[attr-defined]  # noqa: B018


def publishing(config: keystay.Config) -> None:
    """What to publish, and the applications that do."""
    assert_type(keystay.published_keys(config, "epic-prod"), keystay.JWKSet)
    asgi_app("epic-prod", config=config, max_age=60)
    wsgi_app("epic-prod", "epic-test")


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
