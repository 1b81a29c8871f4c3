"""The small FHIR server: what a token opens, and what it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.assertions import ClientKey, good_claims, token_form

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from keystay.testing import SmartTestServer

KEY = ClientKey.generate("ES384")


@pytest.fixture
def read(http: httpx.Client, smart_server: SmartTestServer) -> Callable[[str, str], httpx.Response]:
    """Read a path with a new token of a scope."""
    smart_server.register("client", jwks=KEY.jwks)

    def read(path: str, scope: str) -> httpx.Response:
        assertion = KEY.sign(good_claims("client", smart_server.token_endpoint))
        form = token_form(assertion, scope)
        token = http.post(smart_server.token_endpoint, data=form).json()["access_token"]
        return http.get(
            f"{smart_server.fhir_base_url}/{path}", headers={"Authorization": f"Bearer {token}"}
        )

    return read


def test_patient(read: Callable[[str, str], httpx.Response]) -> None:
    """A token that may read gives the Patient."""
    response = read("Patient/123", "system/Patient.rs")

    assert 200 == response.status_code
    assert "application/fhir+json" == response.headers["content-type"]
    assert ("Patient", "123") == (response.json()["resourceType"], response.json()["id"])


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", ["heart-rate", "body-weight"]),
        ("?patient=123", ["heart-rate", "body-weight"]),
        ("?patient=Patient/123", ["heart-rate", "body-weight"]),
        ("?subject=Patient/123", ["heart-rate", "body-weight"]),
        ("?patient=124", []),
        ("?_id=heart-rate", ["heart-rate"]),
    ],
)
def test_search(read: Callable[[str, str], httpx.Response], query: str, found: list[str]) -> None:
    """A search gives a bundle of what matches."""
    bundle = read(f"Observation{query}", "system/Observation.rs").json()

    assert ("Bundle", "searchset", len(found)) == (
        bundle["resourceType"],
        bundle["type"],
        bundle["total"],
    )
    assert found == [entry["resource"]["id"] for entry in bundle["entry"]]


@pytest.mark.parametrize(
    ("path", "scope", "status"),
    [
        ("Patient/123", "system/*.read", 200),
        ("Patient/123", "system/*.*", 200),
        ("Patient/123", "system/Patient.r", 200),
        ("Patient/123", "system/Patient.s", 403),
        ("Patient/123", "system/Patient.cud", 403),
        ("Patient/123", "system/Observation.rs", 403),
        ("Patient", "system/Patient.r", 403),
        ("Patient", "system/Patient.s", 200),
        ("Patient/124", "system/Patient.rs", 404),
        ("Encounter", "system/*.rs", 404),
        ("Patient/123/extra", "system/*.rs", 404),
    ],
)
def test_scope(
    read: Callable[[str, str], httpx.Response], path: str, scope: str, status: int
) -> None:
    """Reading needs `r`, searching `s`, of the right type."""
    response = read(path, scope)

    assert status == response.status_code
    if status != 200:
        assert "OperationOutcome" == response.json()["resourceType"]
    if status == 403:
        assert 'error="insufficient_scope"' in response.headers["www-authenticate"]


@pytest.mark.parametrize(
    ("headers", "query", "status", "reason"),
    [
        pytest.param({}, "", 401, "token-missing", id="none"),
        pytest.param({"Authorization": "Basic eA=="}, "", 401, "token-missing", id="Basic"),
        pytest.param({"Authorization": "Bearer"}, "", 401, "token-missing", id="empty"),
        pytest.param({"Authorization": "Bearer x"}, "", 401, "token-invalid", id="made up"),
        pytest.param({}, "?access_token=x", 400, "token-in-url", id="in the URL"),
    ],
)
def test_unauthorized(
    http: httpx.Client,
    smart_server: SmartTestServer,
    headers: dict[str, str],
    query: str,
    status: int,
    reason: str,
) -> None:
    """Without a good bearer token nothing is read."""
    response = http.get(f"{smart_server.fhir_base_url}/Patient/123{query}", headers=headers)
    refusal = smart_server.log.last_refusal

    assert refusal is not None
    assert (status, reason) == (response.status_code, refusal.reason)
    assert (status == 401) == ("www-authenticate" in response.headers)


def test_metadata(http: httpx.Client, smart_server: SmartTestServer) -> None:
    """The CapabilityStatement needs no token."""
    statement = http.get(f"{smart_server.fhir_base_url}/metadata").json()

    assert ("CapabilityStatement", "4.0.1") == (
        statement["resourceType"],
        statement["fhirVersion"],
    )


def test_smart_configuration(http: httpx.Client, smart_server: SmartTestServer) -> None:
    """Discovery has the members that SMART requires, and leads to the token endpoint."""
    document = http.get(smart_server.smart_configuration_url).json()
    required = {
        "token_endpoint",
        "grant_types_supported",
        "capabilities",
        "code_challenge_methods_supported",
    }

    assert required <= document.keys()
    assert smart_server.token_endpoint == document["token_endpoint"]
    assert "client-confidential-asymmetric" in document["capabilities"]
    assert ["private_key_jwt"] == document["token_endpoint_auth_methods_supported"]


def test_method(http: httpx.Client, smart_server: SmartTestServer) -> None:
    """The server reads only."""
    response = http.put(f"{smart_server.fhir_base_url}/Patient/123", json={})

    assert (405, "GET") == (response.status_code, response.headers["allow"])
