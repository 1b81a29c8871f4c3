"""A successor is named, made and found again wherever keys live: file, token, AWS, Google."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from keystay.backends.port import BackendContext, NamesSuccessors
from keystay.backends.registry import default_registry
from keystay.errors import ConfigurationError
from keystay.key_uri import parse, successor_name
from tests.support.rotating import CommandsHere

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.aws_fixtures import KmsUri
    from tests.support.gcp_kms_server import GcpKmsServer
    from tests.support.softhsm import SoftHSM


@pytest.fixture(params=["file", "pkcs11", "awskms", "gcpkms"])
def key(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A key URI; the key is there, but for the file's."""
    if request.param == "pkcs11":
        softhsm: SoftHSM = request.getfixturevalue("softhsm")
        return softhsm.key_uri(f"backend-{tmp_path.name}")
    if request.param == "awskms":
        kms_uri: KmsUri = request.getfixturevalue("kms_uri")
        return kms_uri(str(request.getfixturevalue("alias")))
    if request.param == "gcpkms":
        server: GcpKmsServer = request.getfixturevalue("gcp_kms")
        return server.add("epic", "EC_SIGN_P384_SHA384")
    return "file:client.pem"


def test_rotation(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_environment: None
) -> None:
    """Plan, start, start again, promote, finish, and start anew on the same day."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keystay.toml").write_text(
        f'[clients.etl]\nfhir_base_url = "https://ehr.example.org"\nclient_id = "etl"\n'
        f'key = "{key}"\n'
    )
    run = CommandsHere(tmp_path)
    if not key.startswith("gcpkms:"):
        run("key", "generate", key)
    today = f"{datetime.now(UTC):%Y%m%d}"
    planned = run.json("rotate", "plan")["next"]
    assert f"-{today}" in planned
    first = run.json("rotate", "start")["keys"][1]
    assert f"-{today}" in first["uri"]
    assert first == run.json("rotate", "start")["keys"][1]
    assert first == run.json("rotate", "start", "--key", planned)["keys"][1]
    for command in (["promote", "--force", "--drain", "0"], ["finish"]):
        run("rotate", *command)
    second = run.json("rotate", "start")["keys"][1]
    assert f"-{today}-2" in second["uri"]
    assert [first["kid"], second["kid"]] == [
        key["kid"] for key in json.loads(run("jwks").stdout)["keys"]
    ]


@pytest.mark.parametrize(
    ("uri", "successor"),
    [
        ("file:client.pem", "file:client-1.pem"),
        ("file:keys/client", "file:keys/client-1"),
        ("file:client-20250101.pem", "file:client-1.pem"),
        (
            "file:///etc/a%20b/c.pem?passphrase-source=env:P",
            "file:///etc/a%20b/c-1.pem?passphrase-source=env:P",
        ),
        ("awskms:///alias/epic?region=eu-west-1", "awskms:///alias/epic-1?region=eu-west-1"),
        (
            "awskms:///arn:aws:kms:eu-west-1:111122223333:alias/team/epic-20250101-2",
            "awskms:///alias/team/epic-1?region=eu-west-1",
        ),
        (
            "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k/cryptoKeyVersions/7",
            "gcpkms://projects/p/locations/l/keyRings/r/cryptoKeys/k-1",
        ),
    ],
)
def test_names(uri: str, successor: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not the key's own name stays as it is; the date of the last rotation does not."""
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    store = default_registry().open_store(parse(uri), BackendContext())
    try:
        assert isinstance(store, NamesSuccessors)
        found = store.successor_uri("1")
    finally:
        store.close()
    assert successor == found
    parse(found)


@pytest.mark.parametrize(
    "uri",
    [
        "awskms:///1234abcd-12ab-34cd-56ef-1234567890ab?region=eu-west-1",
        "gcpkms://projects/p/locations/l/keyRings/r",
    ],
)
def test_without_a_name(uri: str) -> None:
    """Where the URI names the key by an id there is nothing to derive a name from."""
    store = default_registry().open_store(parse(uri), BackendContext())
    try:
        assert isinstance(store, NamesSuccessors)
        with pytest.raises(ConfigurationError):
            store.successor_uri("1")
    finally:
        store.close()


def test_token_uri(softhsm: SoftHSM) -> None:
    """The token stays, id and label do not; and a URI without a label has no successor."""
    uri = f"pkcs11:token={softhsm.label};object=a%3Bb-20250101;id=%01?{softhsm.query}"
    store = default_registry().open_store(parse(uri), BackendContext())
    try:
        assert isinstance(store, NamesSuccessors)
        expected = f"pkcs11:token={softhsm.label};object=a%3Bb-1?{softhsm.query}"
        assert parse(expected).attributes == parse(store.successor_uri("1")).attributes
        assert parse(expected).query == parse(store.successor_uri("1")).query
    finally:
        store.close()
    unnamed = default_registry().open_store(
        parse(f"pkcs11:token={softhsm.label};id=%01?{softhsm.query}"), BackendContext()
    )
    try:
        assert isinstance(unnamed, NamesSuccessors)
        with pytest.raises(ConfigurationError, match="no label"):
            unnamed.successor_uri("1")
    finally:
        unnamed.close()


@pytest.mark.parametrize(
    ("name", "successor"),
    [
        ("epic", "epic-9"), ("epic-20250101", "epic-9"), ("epic-20250101-12", "epic-9"),
        ("epic-2025", "epic-2025-9"), ("20250101", "20250101-9"),
    ],
)  # fmt: skip
def test_successor_name(name: str, successor: str) -> None:
    """Names do not grow with each rotation."""
    assert successor == successor_name(name, "9")
