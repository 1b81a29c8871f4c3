"""The environment: a client without a file, and which client is meant."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import keystay
from keystay.config import ClientConfig, open_client_signer
from keystay.errors import ConfigurationError

if TYPE_CHECKING:
    from pathlib import Path

ENVIRONMENT = {
    "KEYSTAY_FHIR_BASE_URL": "https://ehr.example.org/fhir",
    "KEYSTAY_CLIENT_ID": "abc",
    "KEYSTAY_KEY": "file:client.pem",
}
CLIENT = """
[clients.{}]
fhir_base_url = "https://file.example.org/fhir"
client_id = "from-the-file"
key = "file:client.pem"
"""


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_environment: None) -> None:
    """Work where there is no keystay.toml."""
    monkeypatch.chdir(tmp_path)


def test_nothing() -> None:
    """No file, no variables: a configuration without clients, and a remedy when one is needed."""
    config = keystay.load_config(environ={})
    assert (None, {}, None) == (config.path, config.clients, config.environment_client)
    with pytest.raises(ConfigurationError, match="No client is configured") as caught:
        config.client()
    assert "client-missing" == caught.value.code
    assert "KEYSTAY_KEY" in str(caught.value.hint)


def test_whole_client() -> None:
    """Every variable."""
    environ = ENVIRONMENT | {
        "KEYSTAY_SCOPE": "system/Patient.rs",
        "KEYSTAY_SCOPE_STYLE": "v1",
        "KEYSTAY_ALGORITHM": "ES384",
        "KEYSTAY_KID": "k",
        "KEYSTAY_JWKS_URL": "https://x.example/jwks",
        "KEYSTAY_TOKEN_ENDPOINT": "https://x.example/token",
        "KEYSTAY_ALLOW_INSECURE_LOOPBACK": "1",
    }
    expected = ClientConfig(
        fhir_base_url="https://ehr.example.org/fhir",
        client_id="abc",
        key="file:client.pem",
        scope="system/Patient.rs",
        scope_style="v1",
        algorithm="ES384",
        kid="k",
        jwks_url="https://x.example/jwks",
        token_endpoint="https://x.example/token",
        allow_insecure_loopback=True,
    )
    assert expected == keystay.load_config(environ=environ).client()


def test_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The process's own environment by default."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    assert "abc" == keystay.load_config().client().client_id


@pytest.mark.parametrize(
    ("missing", "empty"),
    [
        pytest.param(name, empty, id=f"{'empty' if empty else 'absent'}-{name}")
        for name in ENVIRONMENT
        for empty in (False, True)
        if empty or name != "KEYSTAY_CLIENT_ID"
    ],
)
def test_half_a_client(missing: str, empty: bool) -> None:
    """One of the three alone is a slip; the missing one is named.

    Only the client_id may be absent: what is not registered yet has none.
    """
    environ = {name: value for name, value in ENVIRONMENT.items() if name != missing}
    if empty:
        environ[missing] = ""
    with pytest.raises(ConfigurationError, match=f"{missing} is not set") as caught:
        keystay.load_config(environ=environ)
    assert "environment-incomplete" == caught.value.code


def test_not_registered_yet() -> None:
    """A client without client_id loads; whoever needs the id is told what to do."""
    environ = {name: value for name, value in ENVIRONMENT.items() if "CLIENT_ID" not in name}
    client = keystay.load_config(environ=environ).client()
    assert client.client_id is None
    with pytest.raises(ConfigurationError, match="no client_id") as caught:
        client.registered_id()
    assert "client-unregistered" == caught.value.code
    assert "keystay register" in (caught.value.hint or "")


MISSPELT = {
    "KEYSTAY_FHIR_BASEURL": "KEYSTAY_FHIR_BASE_URL",
    "KEYSTAY_CLIENTID": "KEYSTAY_CLIENT_ID",
    "KEYSTAY_SCOPES": "KEYSTAY_SCOPE",
    "KEYSTAY_CONFG": "KEYSTAY_CONFIG",
    "KEYSTAY_ALLOW_INSECURE_LOOPBAK": "KEYSTAY_ALLOW_INSECURE_LOOPBACK",
}


@pytest.mark.parametrize(("name", "meant"), MISSPELT.items())
def test_misspelt(name: str, meant: str) -> None:
    """A name that is nearly one of ours is refused, with the one that is meant."""
    with pytest.raises(ConfigurationError, match=name) as caught:
        keystay.load_config(environ=ENVIRONMENT | {name: "x"})
    assert ("environment-unknown", True) == (caught.value.code, meant in str(caught.value.hint))


BAD_VALUES = {
    "insecure": ({"KEYSTAY_FHIR_BASE_URL": "http://ehr.example.org"}, "KEYSTAY_FHIR_BASE_URL: "),
    "key": ({"KEYSTAY_KEY": "client.pem"}, "KEYSTAY_KEY: "),
    "scope": ({"KEYSTAY_SCOPE": ""}, "KEYSTAY_SCOPE: "),
    "algorithm": ({"KEYSTAY_ALGORITHM": "none"}, "KEYSTAY_ALGORITHM: "),
    "flag": ({"KEYSTAY_ALLOW_INSECURE_LOOPBACK": "yes"}, "neither 0 nor 1"),
}


@pytest.mark.parametrize(("changes", "said"), BAD_VALUES.values(), ids=BAD_VALUES)
def test_bad_values(changes: dict[str, str], said: str) -> None:
    """A value that cannot be used is told by its variable, with a remedy."""
    with pytest.raises(ConfigurationError, match=said) as caught:
        keystay.load_config(environ=ENVIRONMENT | changes)
    assert caught.value.hint


@pytest.mark.parametrize(("flag", "value"), [("1", True), ("true", True), ("0", False)])
def test_flag(flag: str, value: bool) -> None:
    """What the flag may be."""
    environ = ENVIRONMENT | {"KEYSTAY_ALLOW_INSECURE_LOOPBACK": flag}
    assert value == keystay.load_config(environ=environ).client().allow_insecure_loopback


class TestChoice:
    """Which client is meant."""

    def write(self, folder: Path, *names: str) -> str:
        """A file with these clients."""
        path = folder / "keystay.toml"
        path.write_text("".join(CLIENT.format(name) for name in names))
        return str(path)

    def test_working_directory(self, tmp_path: Path) -> None:
        """keystay.toml where the process is."""
        self.write(tmp_path, "one")
        assert "from-the-file" == keystay.load_config(environ={}).client().client_id

    def test_keystay_config(self, tmp_path: Path) -> None:
        """KEYSTAY_CONFIG names another file; naming none is an error."""
        other = tmp_path / "other"
        other.mkdir()
        path = self.write(other, "one")
        config = keystay.load_config(environ={"KEYSTAY_CONFIG": path})
        assert other == config.base_dir
        with pytest.raises(ConfigurationError, match="no configuration file"):
            keystay.load_config(environ={"KEYSTAY_CONFIG": path + "x"})
        assert None is keystay.load_config(environ={"KEYSTAY_CONFIG": ""}).path

    def test_several(self, tmp_path: Path) -> None:
        """Of several one must be named; the names are told."""
        self.write(tmp_path, "one", "two")
        config = keystay.load_config(environ={})
        assert "from-the-file" == config.client("two").client_id
        with pytest.raises(ConfigurationError, match="several clients") as caught:
            config.client()
        assert ("client-not-named", "Name one: one, two.") == (caught.value.code, caught.value.hint)

    def test_unknown(self, tmp_path: Path) -> None:
        """An unknown name is told with the nearest; without a file, with how to make one."""
        self.write(tmp_path, "epic-prod", "epic-test")
        with pytest.raises(ConfigurationError, match="no client 'epic-prd'") as caught:
            keystay.load_config(environ={}).client("epic-prd")
        assert "Did you mean 'epic-prod'?" in str(caught.value.hint)
        (tmp_path / "keystay.toml").unlink()
        with pytest.raises(ConfigurationError) as caught:
            keystay.load_config(environ={}).client("x")
        assert "[clients.x]" in str(caught.value.hint)

    def test_environment_goes_before_the_file(self, tmp_path: Path) -> None:
        """Without a name the environment's client; by name the file's."""
        self.write(tmp_path, "one")
        config = keystay.load_config(environ=ENVIRONMENT)
        assert "abc" == config.client().client_id
        assert "from-the-file" == config.client("one").client_id


def test_key_of_the_environment_starts_at_the_working_directory(
    tmp_path: Path, pem_file: Path
) -> None:
    """KEYSTAY_KEY is relative to where the process is, not to the file with [http]."""
    elsewhere = tmp_path / "etc"
    elsewhere.mkdir()
    (elsewhere / "keystay.toml").write_text("[http]\ntimeout = 5\n")
    (tmp_path / "client.pem").write_bytes(pem_file.read_bytes())
    (tmp_path / "client.pem").chmod(0o600)
    environ = ENVIRONMENT | {"KEYSTAY_CONFIG": str(elsewhere / "keystay.toml")}
    config = keystay.load_config(environ=environ)
    assert 5.0 == config.http.timeout
    with open_client_signer(config) as signer:
        assert "ES384" == signer.algorithm
