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
    "flag": ({"KEYSTAY_ALLOW_INSECURE_LOOPBACK": "yes"}, "it is 'yes'; expected 0 or 1"),
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
        """Setting by setting, for the only client of a file, whether it is named or not."""
        self.write(tmp_path, "one")
        config = keystay.load_config(environ={"KEYSTAY_CLIENT_ID": "abc", "KEYSTAY_RETRIES": "0"})
        assert config.client() == config.client("one")
        client = config.client()
        assert ("abc", 0, "https://file.example.org/fhir") == (
            client.client_id, client.retries, client.fhir_base_url,
        )  # fmt: skip
        assert "one" == config.client_name()

    def test_environment_beside_several_clients(self, tmp_path: Path) -> None:
        """A whole client in the environment is the one that has no name; a name is ambiguous."""
        self.write(tmp_path, "one", "two")
        config = keystay.load_config(environ=ENVIRONMENT)
        assert "abc" == config.client().client_id
        with pytest.raises(ConfigurationError, match="'one' was named") as caught:
            config.client("one")
        assert "client-ambiguous" == caught.value.code
        assert "KEYSTAY_CLIENT_ID, KEYSTAY_FHIR_BASE_URL, KEYSTAY_KEY" in caught.value.message

    def test_one_variable_beside_several_clients(self, tmp_path: Path) -> None:
        """It says nothing of which client is meant."""
        self.write(tmp_path, "one", "two")
        config = keystay.load_config(environ={"KEYSTAY_SCOPE": "system/Patient.rs"})
        with pytest.raises(ConfigurationError, match="several clients"):
            config.client()
        with pytest.raises(ConfigurationError, match="KEYSTAY_SCOPE"):
            config.client("two")


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


class TestOtherTables:
    """What is not a client's."""

    def test_http(self, tmp_path: Path) -> None:
        """A variable wins over the file; a relative path starts where the process is."""
        elsewhere = tmp_path / "etc"
        elsewhere.mkdir()
        (elsewhere / "keystay.toml").write_text("[http]\ntimeout = 5\nuser_agent = 'a'\n")
        config = keystay.load_config(
            elsewhere / "keystay.toml",
            environ={"KEYSTAY_HTTP_TIMEOUT": "7.5", "KEYSTAY_HTTP_CA_BUNDLE": "ca.pem"},
        )
        assert (7.5, "a") == (config.http.timeout, config.http.user_agent)
        assert str(tmp_path / "ca.pem") == config.http.ca_bundle

    def test_policy_only_tightens(self, tmp_path: Path) -> None:
        """For all clients, whatever their own tables say; what is looser is refused."""
        (tmp_path / "keystay.toml").write_text(
            CLIENT.format("a") + '[clients.a.policy]\ncustody = "out-of-process"\n'
        )
        config = keystay.load_config(environ={"KEYSTAY_POLICY_CUSTODY": "hardware"})
        assert "hardware" == config.policy_of(config.client("a")).custody
        (tmp_path / "keystay.toml").write_text('[policy]\ncustody = "hardware"\n')
        with pytest.raises(ConfigurationError, match="KEYSTAY_POLICY_CUSTODY") as caught:
            keystay.load_config(environ={"KEYSTAY_POLICY_CUSTODY": "any"})
        assert "policy-loosened" == caught.value.code

    def test_lists(self) -> None:
        """A list's values are separated by blanks or commas."""
        for text in ("ES384 RS384", "ES384,RS384", " ES384 , RS384,"):
            config = keystay.load_config(environ={"KEYSTAY_POLICY_ALGORITHMS": text})
            assert ("ES384", "RS384") == config.policy.algorithms

    def test_empty_folder(self) -> None:
        """An empty state_dir is no folder."""
        with pytest.raises(ConfigurationError, match="KEYSTAY_STATE_DIR: It names no folder"):
            keystay.load_config(environ={"KEYSTAY_STATE_DIR": ""})

    def test_plugins(self, tmp_path: Path) -> None:
        """A backend's and an observer's settings have names like all others."""
        (tmp_path / "keystay.toml").write_text("[backends.pkcs11]\nmodule = '/a'\nrw = true\n")
        config = keystay.load_config(
            environ={
                "KEYSTAY_BACKENDS_PKCS11_MODULE": "/b",
                "KEYSTAY_BACKENDS_PKCS11_MAX_SESSIONS": "3",
                "KEYSTAY_OBSERVERS_AUDIT_PATH": "x",
            }
        )
        assert {"pkcs11": {"module": "/b", "rw": True, "max_sessions": "3"}} == config.backends
        assert {"audit": {"path": "x"}} == config.observers

    def test_state_dir(self, tmp_path: Path) -> None:
        """It holds the states instead of the folder beside the file."""
        (tmp_path / "keystay.toml").write_text("state_dir = 'states'\n")
        assert tmp_path / "states" == keystay.load_config(environ={}).states
        config = keystay.load_config(environ={"KEYSTAY_STATE_DIR": "/var/lib/keystay"})
        assert "/var/lib/keystay" == str(config.states)

    def test_states_beside_the_file(self, tmp_path: Path) -> None:
        """They say which key signs, so they are not left behind unnoticed."""
        (tmp_path / "keystay.toml").write_text("")
        (tmp_path / "keystay-keys").mkdir()
        (tmp_path / "keystay-keys" / "etl.json").write_text("{}")
        config = keystay.load_config(environ={"KEYSTAY_STATE_DIR": str(tmp_path / "other")})
        with pytest.raises(ConfigurationError, match="states of rotations") as caught:
            config.states  # noqa: B018
        assert "state-elsewhere" == caught.value.code


NOT_SETTINGS = [
    "KEYSTAY_TEST_ANYTHING",
    "KEYSTAY_SERVICE_HOST",
    "KEYSTAY_SERVICE_PORT",
    "KEYSTAY_SERVICE_PORT_HTTP",
    "KEYSTAY_PORT",
    "KEYSTAY_PORT_8080_TCP",
    "KEYSTAY_PORT_8080_TCP_ADDR",
    "KEYSTAY_AGENT_SERVICE_HOST",
    "KEYSTAY_AGENT_PORT_80_UDP_PROTO",
]


@pytest.mark.parametrize("name", NOT_SETTINGS)
def test_variables_of_others(name: str) -> None:
    """What tests and Kubernetes set is nobody's slip."""
    assert keystay.load_config(environ=ENVIRONMENT | {name: "x"}).client().client_id


@pytest.mark.parametrize(
    "name",
    [
        "KEYSTAY_CUSTODY",
        "KEYSTAY_PORTER",
        "KEYSTAY_TIMEOUT",
        "KEYSTAY_BACKENDS_PKCS1_MODULE",
        "KEYSTAY_OBSERVERS_ADUIT_PATH",
    ],
)
def test_unknown(name: str) -> None:
    """Any other is refused, near one of ours or not."""
    with pytest.raises(ConfigurationError, match=name) as caught:
        keystay.load_config(environ={name: "x"})
    assert "environment-unknown" == caught.value.code


@pytest.mark.parametrize("text", ["# env:KEYSTAY_PIN\n", ""], ids=["comment", "elsewhere"])
def test_variable_that_no_reference_in_force_names(tmp_path: Path, text: str) -> None:
    """A comment, or a variable of another program, refers to nothing."""
    (tmp_path / "keystay.toml").write_text(text)
    environ = {"KEYSTAY_PIN": "x", "OTHER": "env:KEYSTAY_PIN"}
    with pytest.raises(ConfigurationError, match="KEYSTAY_PIN is not known"):
        keystay.load_config(environ=environ)


def test_variable_that_a_reference_names(tmp_path: Path) -> None:
    """In the file, and in another variable."""
    (tmp_path / "keystay.toml").write_text(CLIENT.format("a").replace(
        "file:client.pem", "pkcs11:token=a?pin-source=env:KEYSTAY_PIN"
    ))  # fmt: skip
    assert keystay.load_config(environ={"KEYSTAY_PIN": "x"}).client().client_id
    (tmp_path / "keystay.toml").unlink()
    environ = ENVIRONMENT | {
        "KEYSTAY_KEY": "file:a.pem?passphrase-source=env:KEYSTAY_WORD", "KEYSTAY_WORD": "x",
    }  # fmt: skip
    assert keystay.load_config(environ=environ).client().client_id
