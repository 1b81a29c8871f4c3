"""keystay.toml: every key it knows, and what becomes of a fault."""

from __future__ import annotations

import re
from datetime import date
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

import keystay
from keystay.config import ClientConfig, PolicyConfig, open_client_signer
from keystay.errors import ConfigurationError, PolicyError
from keystay.http.settings import HttpSettings
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("no_environment")

CLIENT = """\
[clients.a]
fhir_base_url = "https://ehr.example.org/fhir"
client_id = "id"
key = "file:client.pem"
"""

WHOLE = """\
# everything
[clients.epic-prod]
fhir_base_url = "https://ehr.example.org/fhir/r4"
client_id = "abc"
key = "pkcs11:token=prod;object=epic?pin-source=file:pin"
scope = "system/Patient.rs"
scope_style = "v2"
algorithm = "ES384"
kid = "k-1"
jwks_url = "https://x.example/jwks.json"
token_endpoint = "https://ehr.example.org/token"
allowed_origins = ["https://files.example.org"]
allow_insecure_loopback = true
discovery_lifetime = 60
assertion_lifetime = 120
verify = "first"
vendor = "epic"
renewal_window = 0.3
retries = 5
signer_retries = 2
rate_limit = "5/60"
clock_correction = "warn"
store = "file:tokens"
store_key = "env:STORE_KEY"
key_created = 2026-01-15
policy = { max_key_age = 100 }

[http]
trust = "system"
ca_bundle = "ca.pem"
proxy = "http://proxy.example.org:3128"
proxy_credentials = "file:proxy-login"
timeout = 7
user_agent = "etl/1"
client_cert = "tls.pem"
client_key = "/abs/tls.key"
client_key_passphrase = "file:/abs/passphrase"

[policy]
custody = "out-of-process"
evidence = "reported"
backends = ["pkcs11", "awskms"]
algorithms = ["ES384", "RS384"]
min_rsa_bits = 3072
min_ec_bits = 384
max_key_age = 400
require_published = true

[backends.pkcs11]
module = "/usr/lib/softhsm/libsofthsm2.so"
"""

POLICY: dict[str, Any] = {
    "custody": "out-of-process",
    "evidence": "reported",
    "backends": ("pkcs11", "awskms"),
    "algorithms": ("ES384", "RS384"),
    "min_rsa_bits": 3072,
    "min_ec_bits": 384,
    "max_key_age": 400,
    "require_published": True,
}


def load(folder: Path, text: str | bytes) -> keystay.Config:
    """Write the file and load it."""
    path = folder / "keystay.toml"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return keystay.load_config(path, environ={})


def fault(folder: Path, text: str | bytes) -> ConfigurationError:
    """The error of a faulty file: with its path, a remedy and exit code 2."""
    with pytest.raises(ConfigurationError) as caught:
        load(folder, text)
    error = caught.value
    assert str(folder / "keystay.toml") in error.message
    assert error.hint
    assert 2 == error.exit_code
    assert not re.search(r"\bmsgspec\b|\bstruct\b", str(error))
    return error


def test_every_key(tmp_path: Path) -> None:
    """All keys are read; relative paths start at the file's folder."""
    config = load(tmp_path, WHOLE)
    assert config.clients == {
        "epic-prod": ClientConfig(
            fhir_base_url="https://ehr.example.org/fhir/r4",
            client_id="abc",
            key="pkcs11:token=prod;object=epic?pin-source=file:pin",
            scope="system/Patient.rs",
            scope_style="v2",
            algorithm="ES384",
            kid="k-1",
            jwks_url="https://x.example/jwks.json",
            token_endpoint="https://ehr.example.org/token",
            allowed_origins=["https://files.example.org"],
            allow_insecure_loopback=True,
            assertion_lifetime=120,
            discovery_lifetime=60.0,
            verify="first",
            store=f"file:{tmp_path / 'tokens'}",
            store_key="env:STORE_KEY",
            vendor="epic",
            renewal_window=0.3,
            retries=5,
            signer_retries=2,
            rate_limit="5/60",
            clock_correction="warn",
            key_created=date(2026, 1, 15),
            policy=PolicyConfig(**{**POLICY, "max_key_age": 100}),
        )
    }
    expected = HttpSettings(
        trust="system",
        ca_bundle=str(tmp_path / "ca.pem"),
        proxy="http://proxy.example.org:3128",
        proxy_credentials=f"file:{tmp_path / 'proxy-login'}",
        timeout=7.0,
        user_agent="etl/1",
        client_cert=str(tmp_path / "tls.pem"),
        client_key="/abs/tls.key",
        client_key_passphrase="file:/abs/passphrase",
    )
    assert expected == config.http
    assert PolicyConfig(**POLICY) == config.policy
    assert {"pkcs11": {"module": "/usr/lib/softhsm/libsofthsm2.so"}} == config.backends
    assert (tmp_path, None) == (config.base_dir, config.environment_client)


def test_this_test_knows_every_key() -> None:
    """A key that is added to a table is added to the test above."""
    for kind in (ClientConfig, HttpSettings, PolicyConfig):
        for field in msgspec.structs.fields(kind):
            assert re.search(rf"^{field.name} = ", WHOLE, re.MULTILINE)


def test_defaults(tmp_path: Path) -> None:
    """Three keys make a client."""
    client = load(tmp_path, CLIENT).client()
    assert ("system/*.rs", None, None, (), False, 240, "always") == (
        client.scope,
        client.algorithm,
        client.token_endpoint,
        client.allowed_origins,
        client.allow_insecure_loopback,
        client.assertion_lifetime,
        client.verify,
    )


@pytest.mark.parametrize("text", ["", "# nothing\n"], ids=["empty", "comment"])
def test_empty_file(tmp_path: Path, text: str) -> None:
    """An empty file is a configuration without clients."""
    assert {} == load(tmp_path, text).clients


def test_byte_order_mark(tmp_path: Path) -> None:
    """An editor's byte order mark does no harm."""
    assert "a" in load(tmp_path, b"\xef\xbb\xbf" + CLIENT.encode()).clients


FAULTS: dict[str, tuple[str, str | None, str, str]] = {
    # text, line, code, what is said
    "unknown-table": ("[client.a]\nx = 1\n", "1", "config-key-unknown", "'clients'"),
    "unknown-top-key": ("timeout = 5\n", "1", "config-key-unknown", "Known: clients, http"),
    "unknown-client-key": (CLIENT + 'scopes = "x"\n', "5", "config-key-unknown", "'scope'"),
    "unknown-http-key": ("[http]\ntimeuot = 5\n", "2", "config-key-unknown", "'timeout'"),
    "unknown-policy-key": ("[policy]\ncustdy = 'any'\n", "2", "config-key-unknown", "'custody'"),
    "missing-key": (
        '[clients.a]\nfhir_base_url = "https://x.example"\nclient_id = "i"\n',
        "1",
        "config-key-missing",
        "'key' is missing",
    ),
    "empty-client": ("\n\n[clients.a]\n", "3", "config-key-missing", "is missing"),
    "string-for-int": (
        CLIENT + 'assertion_lifetime = "60"\n',
        "5",
        "config-value-invalid",
        "it is '60'; expected a whole number from 1 to 300, in seconds",
    ),
    "bool-for-int": (
        CLIENT + "assertion_lifetime = true\n",
        "5",
        "config-value-invalid",
        "it is True; expected a whole",
    ),
    "int-for-string": (CLIENT + "kid = 7\n", "5", "config-value-invalid", "it is 7; expected text"),
    "int-for-bool": (
        CLIENT + "allow_insecure_loopback = 1\n",
        "5",
        "config-value-invalid",
        "true or",
    ),
    "string-for-list": (
        CLIENT + 'allowed_origins = "https://x.example"\n',
        "5",
        "config-value-invalid",
        "expected a list",
    ),
    "number-in-list": (
        CLIENT + "allowed_origins = [1]\n",
        "5",
        "config-value-invalid",
        "it is [1]; expected a list",
    ),
    "date-for-string": (
        CLIENT + "kid = 2026-01-01\n",
        "5",
        "config-value-invalid",
        "it is 2026-01-01; expected text",
    ),
    "list-for-string": (
        '[clients.a]\nfhir_base_url = ["https://x.example"]\nclient_id = "a"\nkey = "file:a"\n',
        "2",
        "config-value-invalid",
        "it is a list; expected text",
    ),
    "unknown-verify": (
        CLIENT + 'verify = "sometimes"\n',
        "5",
        "config-value-invalid",
        "'always', 'first'",
    ),
    "unknown-vendor": (
        CLIENT + 'vendor = "epics"\n',
        "5",
        "config-value-invalid",
        "Did you mean 'epic'?",
    ),
    "unknown-custody": (
        '[policy]\ncustody = "hsm"\n',
        "2",
        "config-value-invalid",
        "'out-of-process'",
    ),
    "lifetime-too-long": (
        CLIENT + "assertion_lifetime = 301\n",
        "5",
        "config-value-invalid",
        "it is 301; expected",
    ),
    "window-whole": (
        CLIENT + "renewal_window = 1.0\n",
        "5",
        "config-value-invalid",
        "it is 1.0; expected a number greater than 0 and less than 1",
    ),
    "window-none": (
        CLIENT + "renewal_window = 0\n",
        "5",
        "config-value-invalid",
        "Write renewal_window = 0.2",
    ),
    "retries-negative": (CLIENT + "retries = -1\n", "5", "config-value-invalid", "from 0 to 20"),
    "signer-retries-many": (
        CLIENT + "signer_retries = 21\n",
        "5",
        "config-value-invalid",
        "signer_retries: it is 21",
    ),
    "rate": (CLIENT + 'rate_limit = "5 per minute"\n', "5", "config-value-invalid", '"5/60"'),
    "correction": (
        CLIENT + 'clock_correction = "off"\n',
        "5",
        "config-value-invalid",
        "'on', 'warn'",
    ),
    "timeout-zero": (
        "[http]\ntimeout = 0\n",
        "2",
        "config-value-invalid",
        "it is 0; expected a number",
    ),
    "timeout-nan": ("[http]\ntimeout = nan\n", "2", "config-value-invalid", "it is nan; expected"),
    "timeout-inf": ("[http]\ntimeout = inf\n", "2", "config-value-invalid", "it is inf; expected"),
    "timeout-string": (
        "[http]\ntimeout = '10'\n",
        "2",
        "config-value-invalid",
        "it is '10'; expected",
    ),
    "trust": ("[http]\ntrust = 'certifi'\n", "2", "config-value-invalid", "it is 'certifi'"),
    "client-not-a-table": ('[clients]\na = "x"\n', "2", "config-value-invalid", "not a table"),
    "clients-not-a-table": ("clients = 1\n", "1", "config-value-invalid", "not a table"),
    "client-array": ("[[clients.a]]\nx = 1\n", "1", "config-value-invalid", "not a table"),
    "backend-not-a-table": ("[backends]\nfile = 1\n", "2", "config-value-invalid", "not a table"),
    "http-base": (
        CLIENT.replace("https://", "http://"),
        "2",
        "url-insecure",
        "not HTTPS",
    ),
    "bad-scope": (CLIENT + 'scope = "a, b"\n', "5", "configuration-invalid", "comma"),
    "bad-algorithm": (CLIENT + 'algorithm = "ES348"\n', "5", "algorithm-unknown", "ES384"),
    "bad-key-uri": (
        CLIENT.replace("file:client.pem", "client.pem"),
        "4",
        "key-uri-invalid",
        "scheme",
    ),
    "bad-origin": (
        CLIENT + 'allowed_origins = ["files.example.org"]\n',
        "5",
        "configuration-invalid",
        "https",
    ),
    "inline-table": (
        'clients = {a = {fhir_base_url = "https://x.example", client_id = "i", key = "k", x = 1}}',
        "1",
        "config-key-unknown",
        "no such key",
    ),
    "dotted-keys": (
        '[clients]\na.client_id = "i"\na.fhir_base_url = "https://x.example"\na.kye = "file:x"\n',
        "4",
        "config-key-unknown",
        "'key'",
    ),
    "dotted-header": (
        CLIENT.replace("[clients.a]", '[ clients . "a" ]  # x') + "kidd = 1\n",
        "5",
        "config-key-unknown",
        "'kid'",
    ),
    "quoted-name": (
        CLIENT.replace("[clients.a]", '[clients."epic [prod] #1"]') + "kidd = 1\n",
        "5",
        "config-key-unknown",
        "epic [prod] #1",
    ),
    "quoted-key": (CLIENT + '"kidd" = 1\n', "5", "config-key-unknown", "'kid'"),
    "multi-line-array": (
        CLIENT + 'allowed_origins = [\n  "https://a.example",\n  "http://b.example",\n]\n',
        "5",
        "url-insecure",
        "not HTTPS",
    ),
    "header-inside-a-string": (
        CLIENT + 'kid = """\n[http]\ntimeuot = 1\n"""\n[http]\nproxi = "x"\ntimeuot = 1\n',
        "10",
        "config-key-unknown",
        "'proxy'",
    ),
    "key-inside-a-string": (
        CLIENT + "kid = '''\nkidd = 1\n'''\nkidd = 2\n",
        "8",
        "config-key-unknown",
        "'kid'",
    ),
    "same-key-in-another-table": (
        CLIENT + "scope = 'x'\n" + CLIENT.replace("[clients.a]", "[clients.b]") + "scope = ''\n",
        "10",
        "configuration-invalid",
        "scope is empty",
    ),
    "escaped-key": (CLIENT + '"k\\u0069dd" = 1\n', None, "config-key-unknown", "'kid'"),
}


@pytest.mark.parametrize(("text", "line", "code", "said"), FAULTS.values(), ids=FAULTS)
def test_fault(tmp_path: Path, text: str, line: str | None, code: str, said: str) -> None:
    """File, line, key and what was expected; a line that cannot be told is the table's."""
    error = fault(tmp_path, text)
    found = re.match(r".*?keystay\.toml(?::(\d+))?:", error.message)
    assert found is not None
    assert (line or "1", code) == (found[1], error.code)
    assert said in str(error)


SYNTAX = {
    "no-quotes": ("[clients.a]\nkey = pkcs11:token=x\n", "line 2"),
    "twice": ("[http]\ntimeout = 1\ntimeout = 2\n", "line 3"),
    "table-twice": ("[http]\n[http]\n", "line 2"),
    "cut-short": ('[clients.a]\nkey = "file:', "end of document"),
    "not-toml": ("<html>", "line 1"),
    "control-character": ("[http]\nproxy = '\x1b'\n", "line 2"),
    "deep": ("x = " + "[" * 20_000, "not valid TOML"),
    "huge-number": ("x = " + "9" * 5000, "not valid TOML"),
}


@pytest.mark.parametrize(("text", "said"), SYNTAX.values(), ids=SYNTAX)
def test_syntax(tmp_path: Path, text: str, said: str) -> None:
    """What is no TOML is told with the parser's line."""
    error = fault(tmp_path, text)
    assert "config-syntax" == error.code
    assert said in error.message


@pytest.mark.parametrize("content", [b"\xff\xfe[\x00h\x00", b"\x80"], ids=["utf-16", "latin"])
def test_not_utf8(tmp_path: Path, content: bytes) -> None:
    """A file in another encoding is told as that."""
    assert "config-unreadable" == fault(tmp_path, content).code


def test_not_a_file(tmp_path: Path) -> None:
    """A folder, and a file that is not there."""
    with pytest.raises(ConfigurationError, match="directory") as caught:
        keystay.load_config(tmp_path, environ={})
    assert "config-unreadable" == caught.value.code
    with pytest.raises(ConfigurationError, match="no configuration file") as caught:
        keystay.load_config(tmp_path / "none.toml", environ={})
    assert "config-missing" == caught.value.code


SECRETS = {
    "client-pin": (CLIENT + 'pin = "{}"\n', "config-secret"),
    "client-secret": (CLIENT + 'client_secret = "{}"\n', "config-secret"),
    "private-key": (CLIENT + 'private_key = "{}"\n', "config-secret"),
    "http-password": ('[http]\nproxy_password = "{}"\n', "config-secret"),
    "access-token": (CLIENT + 'access_token = "{}"\n', "config-secret"),
    "pin-value-in-uri": (
        CLIENT.replace("file:client.pem", "pkcs11:token=a?pin-value={}"),
        "key-uri-secret",
    ),
    "passphrase-in-uri": (
        CLIENT.replace("file:client.pem", "file:a.pem?passphrase={}"),
        "key-uri-secret",
    ),
    "user-in-uri": (CLIENT.replace("file:client.pem", "awskms://{}@x/y"), "key-uri-secret"),
    "pem-in-key": (
        CLIENT.replace("file:client.pem", "x:-----BEGIN PRIVATE KEY-----{}"),
        "key-uri-secret",
    ),
    "proxy-login": ('[http]\nproxy = "http://u:{}@proxy:3128"\n', "proxy-secret"),
    "base-login": (
        CLIENT.replace("https://ehr", "https://u:{}@ehr"),
        "configuration-invalid",
    ),
    "unquoted": ("[clients.a]\nkey = {}\n", "config-syntax"),
    "wrong-type": (CLIENT.replace('"file:client.pem"', '["{}"]'), "config-value-invalid"),
    "unknown-key": (CLIENT + 'kennwort = "{}"\n', "config-key-unknown"),
}


@pytest.mark.parametrize(("text", "code"), SECRETS.values(), ids=SECRETS)
def test_secrets_are_refused_and_not_repeated(tmp_path: Path, text: str, code: str) -> None:
    """A secret in the file is refused by its place, and never shown."""
    secret = WATCH.add("a secret in the file", "s3cr3t-0123456789")
    error = fault(tmp_path, text.replace("{}", secret))
    assert code == error.code
    WATCH.check(f"{error!s}{error!r}{error.to_dict()}{error.__cause__}", "the error")


PAIRS = {
    "credentials-without-proxy": ("proxy_credentials = 'env:X'", "Set proxy too"),
    "key-without-certificate": ("client_key = 'x'", "Set client_cert too"),
    "passphrase-without-certificate": (
        "client_key_passphrase = 'env:X'",
        "Set client_cert too",
    ),
    "proxy-without-scheme": ("proxy = 'proxy.example.org:3128'", "http://proxy"),
    "proxy-socks": ("proxy = 'socks5://proxy.example.org'", "http://proxy"),
    "proxy-without-host": ("proxy = 'http://'", "http://proxy"),
    "proxy-broken": ("proxy = 'http://[::1'", "http://proxy"),
    "proxy-port": ("proxy = 'http://proxy:99999'", "http://proxy"),
    "agent-newline": ('user_agent = "a\\nb"', "hospital-etl"),
    "agent-empty": ("user_agent = ''", "hospital-etl"),
    "agent-not-ascii": ("user_agent = 'é'", "hospital-etl"),
}


@pytest.mark.parametrize(("line", "hint"), PAIRS.values(), ids=PAIRS)
def test_http_settings_that_would_be_ignored_or_break(tmp_path: Path, line: str, hint: str) -> None:
    """What would silently do nothing, or fail at night, is refused when loading."""
    error = fault(tmp_path, f"[http]\n{line}\n")
    assert "config-value-invalid" == error.code
    assert "keystay.toml:2: [http]" in error.message
    assert hint in str(error.hint)


class TestOpening:
    """`open_client_signer`: the key under the configuration's policy."""

    def config(self, folder: Path, pem: Path, more: str = "", key: str = "file:c.pem") -> Any:
        """A client whose key lies beside the file."""
        copy = folder / "c.pem"
        copy.write_bytes(pem.read_bytes())
        copy.chmod(0o600)
        return load(folder, CLIENT.replace("file:client.pem", key) + more)

    def test_relative_key(
        self, tmp_path: Path, pem_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A relative key starts at the file's folder, wherever the process is."""
        config = self.config(tmp_path, pem_file)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        with open_client_signer(config, "a") as signer:
            assert "ES384" == signer.algorithm

    def test_relative_secret(
        self, tmp_path: Path, pem_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So does a relative secret file."""
        from cryptography.hazmat.primitives.serialization import (
            BestAvailableEncryption,
            Encoding,
            PrivateFormat,
            load_pem_private_key,
        )

        passphrase = WATCH.add("the passphrase", "a-passphrase-beside-the-file")
        key = load_pem_private_key(pem_file.read_bytes(), None)
        encryption = BestAvailableEncryption(passphrase.encode())
        encrypted = tmp_path / "e.pem"
        encrypted.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
        encrypted.chmod(0o600)
        (tmp_path / "secret").write_text(passphrase + "\n")
        (tmp_path / "secret").chmod(0o600)
        monkeypatch.chdir("/")
        uri = "file:e.pem?passphrase-source=file:secret"
        with open_client_signer(self.config(tmp_path, pem_file, key=uri)) as signer:
            assert "ES384" == signer.algorithm
        more = '[backends.file]\npassphrase_source = "file:secret"\n'
        config = self.config(tmp_path, pem_file, more, key="file:e.pem")
        with open_client_signer(config) as signer:
            assert "ES384" == signer.algorithm

    @pytest.mark.parametrize("custody", ["out-of-process", "hardware"])
    def test_policy_refuses(self, tmp_path: Path, pem_file: Path, custody: str) -> None:
        """A PEM key is in this process, and a policy can forbid that."""
        config = self.config(tmp_path, pem_file, f"[policy]\ncustody = '{custody}'\n")
        with pytest.raises(PolicyError, match="in-process") as caught:
            open_client_signer(config)
        assert ("policy-custody", 3) == (caught.value.code, caught.value.exit_code)

    def test_policy_accepts(self, tmp_path: Path, pem_file: Path) -> None:
        """`any` is any."""
        config = self.config(tmp_path, pem_file, "[policy]\ncustody = 'any'\n")
        with open_client_signer(config) as signer:
            assert "in-process" == signer.custody.location

    def test_algorithm_and_kid(self, tmp_path: Path, pem_file: Path) -> None:
        """Configured ones are used; one the key cannot do is refused before any network."""
        with open_client_signer(self.config(tmp_path, pem_file, 'kid = "k-7"\n')) as signer:
            assert "k-7" == signer.kid
        with pytest.raises(keystay.KeystayError, match="cannot sign with RS384"):
            open_client_signer(self.config(tmp_path, pem_file, 'algorithm = "RS384"\n'))

    def test_unknown_backend_setting(self, tmp_path: Path, pem_file: Path) -> None:
        """A backend refuses settings it does not know."""
        config = self.config(tmp_path, pem_file, "[backends.file]\nmodul = 'x'\n")
        with pytest.raises(ConfigurationError, match="modul: there is no such key"):
            open_client_signer(config)


@pytest.mark.parametrize(
    ("lines", "code", "said"),
    [
        ('store = "tokens"\nstore_key = "env:K"', "config-value-invalid", "not file: and a folder"),
        ('store = "file:"\nstore_key = "env:K"', "config-value-invalid", "not file: and a folder"),
        ('store = "redis://x"\nstore_key = "env:K"', "config-value-invalid", "not file:"),
        ('store = "file:tokens"', "config-value-invalid", "store_key is not"),
        ('store_key = "env:K"', "config-value-invalid", "store is not"),
        ('store = "file:tokens"\nstore_key = "c2VjcmV0LWtleQ"', "config-secret", "no secret ref"),
    ],
)
def test_store(tmp_path: Path, lines: str, code: str, said: str) -> None:
    """A store is a folder and a key by reference; the key itself is not repeated."""
    file = tmp_path / "keystay.toml"
    file.write_text(CLIENT + lines + "\n")
    with pytest.raises(ConfigurationError, match=said) as caught:
        keystay.load_config(file)
    assert code == caught.value.code
    assert "c2VjcmV0" not in str(caught.value)
