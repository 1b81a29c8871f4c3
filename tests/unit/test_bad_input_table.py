"""Every bad configuration and bad key URI: the fault, the remedy, no traceback, no secret."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from keystay.cli.app import run
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from collections.abc import Mapping

KEYSTAY = str(Path(sys.executable).with_name("keystay"))
SECRET = "@SECRET@"  # replaced by a random string, looked for wherever people read
BASE = "https://ehr.example.org/fhir"
CLIENT = f"""\
[clients.a]
fhir_base_url = "{BASE}"
client_id = "id"
key = "file:client.pem"
token_endpoint = "https://127.0.0.1:1/token"
"""
ENVIRONMENT = {
    "KEYSTAY_FHIR_BASE_URL": BASE,
    "KEYSTAY_CLIENT_ID": "id",
    "KEYSTAY_KEY": "file:client.pem",
}
KEY = "@KEY@"  # replaced by the PEM of a good key
JWKS = ("jwks", "a")
TOKEN = ("token", "a")


@dataclass(frozen=True)
class Case:
    """One bad input.

    Attributes:
        exit_code: 2 usage or configuration, 3 key or backend, 4 network.
        code: The stable code.
        said: What the message names.
        arguments: The command line.
        toml: keystay.toml, if there is one.
        environ: Variables.
        files: Files beside it: content and mode.
    """

    exit_code: int
    code: str
    said: str
    arguments: tuple[str, ...] = JWKS
    toml: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, tuple[str, int]] = field(default_factory=dict)


def toml(code: str, said: str, text: str, exit_code: int = 2, **more: object) -> Case:
    """A faulty keystay.toml."""
    return Case(exit_code, code, said, toml=text, **more)  # type: ignore[arg-type]


def uri(code: str, said: str, text: str, exit_code: int = 2, **more: object) -> Case:
    """A bad key URI on the command line."""
    return Case(exit_code, code, said, ("key", "show", text), **more)  # type: ignore[arg-type]


def env(code: str, said: str, exit_code: int = 2, **variables: str) -> Case:
    """A bad environment; None leaves a variable out."""
    return Case(exit_code, code, said, ("jwks",), environ={**ENVIRONMENT, **variables})


def http(code: str, said: str, lines: str, **more: object) -> Case:
    """Bad [http] settings, found when the client is made at the latest."""
    files = {"client.pem": (KEY, 0o600), **more.pop("files", {})}  # type: ignore[dict-item]
    return Case(2, code, said, TOKEN, f"{CLIENT}[http]\n{lines}\n", files=files, **more)  # type: ignore[arg-type]


def pem(code: str, said: str, content: str, mode: int = 0o600, query: str = "") -> Case:
    """A bad key file."""
    return uri(code, said, f"file:k.pem{query}", 3, files={"k.pem": (content, mode)})


def label(name: str) -> str:
    """A PEM document of a type, with nothing of sense in it."""
    return f"-----BEGIN {name}-----\nAAAA\n-----END {name}-----\n"


CASES: dict[str, Case] = {
    # keystay.toml
    "toml-not-there": Case(
        2, "config-missing", "no configuration file", environ={"KEYSTAY_CONFIG": "none.toml"}
    ),
    "toml-a-folder": Case(
        2, "config-unreadable", "directory", environ={"KEYSTAY_CONFIG": "/"}
    ),
    "toml-syntax": toml("config-syntax", "line 2", "[clients.a]\nkey = pkcs11:x\n"),
    "toml-unquoted-secret": toml("config-syntax", "line 2", f"[clients.a]\npin = {SECRET}\n"),
    "toml-unknown-table": toml("config-key-unknown", "toml:1: client:", "[client.a]\n"),
    "toml-unknown-key": toml("config-key-unknown", ":6: [clients.a] scopes", CLIENT + "scopes = 1"),
    "toml-unknown-key-with-secret": toml(
        "config-key-unknown", "kennwort", f'{CLIENT}kennwort = "{SECRET}"\n'
    ),
    "toml-missing-key": toml(
        "config-key-missing", "'key' is missing", f'[clients.a]\nfhir_base_url = "{BASE}"\n'
    ),
    "toml-not-registered": toml(
        "client-unregistered",
        "no client_id",
        CLIENT.replace('client_id = "id"\n', ""),
        arguments=TOKEN,
    ),
    "toml-scope-letters": toml(
        "scope-invalid", ":6: [clients.a] scope", f'{CLIENT}scope = "system/Patient.sr"\n'
    ),
    "toml-scope-style": toml(
        "config-value-invalid", ":6: [clients.a] scope_style", f'{CLIENT}scope_style = "v3"\n'
    ),
    "toml-scope-style-inexact": toml(
        "scope-not-expressible",
        ":7: [clients.a] scope_style",
        f'{CLIENT}scope = "system/Patient.r"\nscope_style = "v1"\n',
    ),
    "toml-scope-style-undiscovered": toml(
        "config-value-invalid", ":6: [clients.a] scope_style", f'{CLIENT}scope_style = "auto"\n'
    ),
    "toml-wrong-type": toml("config-value-invalid", ":6: [clients.a] kid", CLIENT + "kid = 7\n"),
    "toml-secret-of-wrong-type": toml(
        "config-value-invalid",
        "it is a list; expected text",
        CLIENT.replace('"id"', f'["{SECRET}"]'),
    ),
    "toml-not-a-table": toml("config-value-invalid", "not a table", 'clients = "a"\n'),
    "toml-pin": toml("config-secret", "[clients.a] pin", f'{CLIENT}pin = "{SECRET}"\n'),
    "toml-password": toml(
        "config-secret", "proxy_password", f'[http]\nproxy_password = "{SECRET}"\n'
    ),
    "toml-client-secret": toml(
        "config-secret", "client_secret", f'{CLIENT}client_secret = "{SECRET}"\n'
    ),
    "toml-verify": toml("config-value-invalid", "verify", CLIENT + 'verify = "never"\n'),
    "toml-custody": toml("config-value-invalid", "custody", CLIENT + "[policy]\ncustody = 'hsm'\n"),
    "toml-lifetime": toml("config-value-invalid", "300", CLIENT + "assertion_lifetime = 3600\n"),
    "toml-client-id-empty": toml(
        "config-value-invalid", "client_id is empty", CLIENT.replace('"id"', '""')
    ),
    "toml-kid-empty": toml("config-value-invalid", "kid is empty", CLIENT + 'kid = ""\n'),
    "toml-algorithm": toml("algorithm-unknown", "ES348", CLIENT + 'algorithm = "ES348"\n'),
    "toml-algorithm-none": toml("algorithm-unknown", "none", CLIENT + 'algorithm = "none"\n'),
    "toml-algorithm-hmac": toml("algorithm-unknown", "HS256", CLIENT + 'algorithm = "HS256"\n'),
    "toml-scope-comma": toml("configuration-invalid", "comma", CLIENT + 'scope = "a, b"\n'),
    "toml-scope-empty": toml("configuration-invalid", "empty", CLIENT + 'scope = ""\n'),
    "toml-key-without-scheme": toml(
        "key-uri-invalid", "[clients.a] key", CLIENT.replace("file:client.pem", "client.pem")
    ),
    "toml-key-with-pin": toml(
        "key-uri-secret",
        "pin-value",
        CLIENT.replace("file:client.pem", f"pkcs11:token=a;object=b?pin-value={SECRET}"),
    ),
    "toml-key-is-a-pem": toml(
        "key-uri-secret",
        "PEM document",
        CLIENT.replace("file:client.pem", f"x:-----BEGIN PRIVATE KEY-----{SECRET}"),
    ),
    "toml-backend-setting": toml(
        "config-secret",
        "[backends.file] passphrase: a secret does not belong",
        f'{CLIENT}[backends.file]\npassphrase = "{SECRET}"\n',
    ),
    "toml-no-such-client": toml("client-unknown", "'b'", CLIENT, arguments=("jwks", "b")),
    "toml-several-clients": toml(
        "client-not-named",
        "several",
        CLIENT + CLIENT.replace("clients.a", "clients.b"),
        arguments=("jwks",),
    ),
    "no-client": Case(2, "client-missing", "No client", ("jwks",)),
    # URLs
    "base-http": toml("url-insecure", "not HTTPS", CLIENT.replace(BASE, BASE.replace("s:", ":"))),
    "base-loopback": toml("url-insecure", "this machine", CLIENT.replace(BASE, "http://127.0.0.1")),
    "base-relative": toml("configuration-invalid", "absolute", CLIENT.replace(BASE, "/fhir")),
    "base-user": toml(
        "configuration-invalid",
        "user information",
        CLIENT.replace("https://ehr", f"https://etl:{SECRET}@ehr"),
    ),
    "base-query": toml("configuration-invalid", "query", CLIENT.replace(BASE, f"{BASE}?a=1")),
    "endpoint-user": toml(
        "configuration-invalid",
        "token endpoint",
        CLIENT.replace("https://127", f"https://u:{SECRET}@127"),
    ),
    "endpoint-fragment": toml("configuration-invalid", "#", CLIENT.replace("/token", "/token#x")),
    "jwks-url": toml("url-insecure", "JWKS URL", CLIENT + 'jwks_url = "http://x.example"\n'),
    "origin": toml(
        "configuration-invalid", "allowed origin", CLIENT + 'allowed_origins = ["files"]\n'
    ),
    # [http]
    "timeout": http("config-value-invalid", "timeout", "timeout = -1"),
    "ca-bundle-missing": http("ca-bundle-invalid", "No such file", 'ca_bundle = "none.pem"'),
    "ca-bundle-empty": http(
        "ca-bundle-invalid", "CA bundle", 'ca_bundle = "ca.pem"', files={"ca.pem": ("x", 0o644)}
    ),
    "proxy-login": http(
        "proxy-secret", "credentials", f'proxy = "http://etl:{SECRET}@proxy.example:3128"'
    ),
    "proxy-scheme": http("config-value-invalid", "proxy", 'proxy = "socks5://proxy.example"'),
    "proxy-reference": http(
        "config-secret",
        "no secret reference",
        f'proxy = "http://proxy.example"\nproxy_credentials = "etl:{SECRET}"',
    ),
    "proxy-reference-unset": http(
        "secret-missing",
        "NO_SUCH_VARIABLE",
        'proxy = "http://proxy.example"\nproxy_credentials = "env:NO_SUCH_VARIABLE"',
    ),
    "proxy-reference-without-colon": http(
        "proxy-credentials-invalid",
        "user:password",
        'proxy = "http://proxy.example"\nproxy_credentials = "env:LOGIN"',
        environ={"LOGIN": SECRET},
    ),
    "client-cert-missing": http("client-cert-invalid", "none.pem", 'client_cert = "none.pem"'),
    "client-cert-passphrase": http(
        "client-cert-invalid",
        "client certificate",
        'client_cert = "client.pem"\nclient_key_passphrase = "env:LOGIN"',
        environ={"LOGIN": SECRET},
    ),
    "client-key-alone": http("config-value-invalid", "client_cert", 'client_key = "client.pem"'),
    "user-agent": http("config-value-invalid", "user agent", 'user_agent = "a\\nb"'),
    # the environment
    "env-incomplete": Case(
        2, "environment-incomplete", "KEYSTAY_KEY", ("jwks",),
        environ={"KEYSTAY_FHIR_BASE_URL": BASE, "KEYSTAY_CLIENT_ID": "id"},
    ),
    "env-misspelt": env("environment-unknown", "KEYSTAY_CLIENTID", KEYSTAY_CLIENTID="x"),
    "env-flag": env(
        "config-value-invalid", "expected 0 or 1", KEYSTAY_ALLOW_INSECURE_LOOPBACK="yes"
    ),
    "env-base": env("url-insecure", "KEYSTAY_FHIR_BASE_URL", KEYSTAY_FHIR_BASE_URL="http://x.y"),
    "env-key": env("key-uri-secret", "KEYSTAY_KEY", KEYSTAY_KEY=f"pkcs11:a=b?pin-value={SECRET}"),
    "env-proxy": Case(
        2, "proxy-invalid", "environment", TOKEN, CLIENT,
        {"HTTPS_PROXY": f"ftp://u:{SECRET}@proxy"}, {"client.pem": (KEY, 0o600)},
    ),
    # key URIs
    "uri-empty": uri("key-uri-invalid", "empty", ""),
    "uri-no-scheme": uri("key-uri-invalid", "character 1 ", "client.pem"),
    "uri-windows": uri("key-uri-invalid", "scheme", "C:\\keys\\client.pem"),
    "uri-blank": uri("key-uri-invalid", "percent-encoded", "file:my key.pem"),
    "uri-long": uri("key-uri-invalid", "4096", "file:" + "a" * 5000),
    "uri-fragment": uri("key-uri-invalid", "fragment", "file:a.pem#1"),
    "uri-other-machine": uri("key-uri-invalid", "other machine", "file://host/a.pem"),
    "uri-no-path": uri("key-uri-invalid", "names no key", "file:"),
    "uri-empty-query": uri("key-uri-invalid", "question mark", "file:a.pem?"),
    "uri-unknown-query": uri("key-uri-invalid", "'pass-source'", "file:a.pem?pass-source=x"),
    "uri-passphrase": uri("key-uri-secret", "passphrase", f"file:a.pem?passphrase={SECRET}"),
    "uri-password": uri("key-uri-secret", "password", f"awskms:///a?password={SECRET}"),
    "uri-user": uri("key-uri-secret", "user information", f"awskms://AKIA:{SECRET}@/alias/x"),
    "uri-escape": uri("key-uri-invalid", "hexadecimal", "pkcs11:token=%zz"),
    "uri-not-text": uri("key-uri-invalid", "UTF-8", "pkcs11:token=%ff;object=a"),
    "uri-twice": uri("key-uri-invalid", "twice", "pkcs11:token=a;token=b"),
    "uri-no-pair": uri("key-uri-invalid", "pair", "pkcs11:token=a;epic"),
    "uri-cut-by-the-shell": uri("key-uri-invalid", "pair", "pkcs11:token=a;"),
    "uri-unknown-attribute": uri("key-uri-invalid", "'tokn'", "pkcs11:tokn=a"),
    "uri-public": uri("key-uri-invalid", "type", "pkcs11:token=a;type=public"),
    "uri-slot": uri("key-uri-invalid", "slot-id", "pkcs11:slot-id=first"),
    "uri-empty-id": uri("key-uri-invalid", "id is empty", "pkcs11:token=a;id="),
    "uri-pin-value": uri("key-uri-secret", "pin-value", f"pkcs11:token=a?pin-value={SECRET}"),
    "uri-no-backend": uri("backend-missing", "nosuch", "nosuch:key", 3),
    # key files
    "pem-not-there": uri("key-not-found", "none.pem", "file:none.pem", 3),
    "pem-a-folder": uri("key-file-unreadable", "directory", "file:.", 3),
    "pem-readable-by-all": pem("key-file-unsafe", "0644", KEY, 0o644),
    "pem-empty": pem("pem-not-private-key", "nothing", ""),
    "pem-text": pem("pem-not-private-key", "no PEM document", f"key: {SECRET}\n"),
    "pem-certificate": pem("pem-not-private-key", "a certificate", label("CERTIFICATE")),
    "pem-request": pem("pem-not-private-key", "request", label("CERTIFICATE REQUEST")),
    "pem-public": pem("pem-not-private-key", "a public key", label("PUBLIC KEY")),
    "pem-openssh": pem("pem-not-private-key", "OpenSSH", label("OPENSSH PRIVATE KEY")),
    "pem-parameters": pem("pem-not-private-key", "parameters", label("EC PARAMETERS")),
    "pem-broken": pem("pem-invalid", "cannot be read", label("PRIVATE KEY")),
    "pem-encrypted": pem("passphrase-missing", "encrypted", label("ENCRYPTED PRIVATE KEY")),
    "pem-passphrase-unset": uri(
        "secret-missing", "NO_SUCH_VARIABLE", "file:k.pem?passphrase-source=env:NO_SUCH_VARIABLE",
        files={"k.pem": (label("ENCRYPTED PRIVATE KEY"), 0o600)},
    ),
    "pem-passphrase-wrong": uri(
        "passphrase-wrong", "decrypted", "file:k.pem?passphrase-source=env:LOGIN", 3,
        environ={"LOGIN": SECRET}, files={"k.pem": (label("ENCRYPTED PRIVATE KEY"), 0o600)},
    ),
    "pem-passphrase-file-open-to-all": uri(
        "secret-file-unsafe", "0644", "file:k.pem?passphrase-source=file:pass",
        files={"k.pem": (label("ENCRYPTED PRIVATE KEY"), 0o600), "pass": (SECRET, 0o644)},
    ),
    "pem-passphrase-itself": uri(
        "secret-reference-invalid", "known form", f"file:k.pem?passphrase-source={SECRET}",
        files={"k.pem": (label("ENCRYPTED PRIVATE KEY"), 0o600)},
    ),
    "pem-wrong-algorithm": toml(
        "algorithm-unsupported", "RS384", CLIENT + 'algorithm = "RS384"\n', 3,
        files={"client.pem": (KEY, 0o600)},
    ),
    "pem-policy": toml(
        "policy-custody", "hardware", CLIENT + "[policy]\ncustody = 'hardware'\n", 3,
        files={"client.pem": (KEY, 0o600)},
    ),
    # the command line
    "get-url": Case(
        2, "path-invalid", "a URL", ("get", "a", "https://x.example/Patient/1"), CLIENT
    ),
    "get-traversal": Case(2, "path-invalid", "out of", ("get", "a", "../../admin"), CLIENT),
    "scope-option": Case(
        2, "configuration-invalid", "empty", ("token", "a", "--scope", ""), CLIENT,
        files={"client.pem": (KEY, 0o600)},
    ),
    "nothing-listens": Case(
        4, "network-refused", "refused", TOKEN, CLIENT, files={"client.pem": (KEY, 0o600)}
    ),
}  # fmt: skip


@pytest.fixture
def place(
    case: Case, tmp_path: Path, pem_file: Path, monkeypatch: pytest.MonkeyPatch,
    no_environment: None,
) -> Prepared:  # fmt: skip
    """The case laid out in a folder of its own, its secret made and watched for."""
    secret = WATCH.add("the secret of the case", f"s3cret-{secrets.token_hex(12)}")

    def filled(text: str) -> str:
        return text.replace(SECRET, secret).replace(KEY, pem_file.read_text())

    monkeypatch.chdir(tmp_path)
    for name, (content, mode) in case.files.items():
        (tmp_path / name).write_text(filled(content))
        (tmp_path / name).chmod(mode)
    if case.toml is not None:
        (tmp_path / "keystay.toml").write_text(filled(case.toml))
    for name, value in case.environ.items():
        monkeypatch.setenv(name, filled(value))
    return Prepared(tuple(filled(argument) for argument in case.arguments), secret)


@dataclass(frozen=True)
class Prepared:
    """The command line of a case, and its secret."""

    arguments: tuple[str, ...]
    secret: str


def told(case: Case, code: int, out: str, err: str) -> None:
    """Exit code, stable code, fault and remedy on stderr; nothing on stdout."""
    assert (case.exit_code, "") == (code, out)
    assert f"[{case.code}]" in err
    assert case.said in err
    assert "remedy: " in err


def clean(prepared: Prepared, *texts: str) -> None:
    """No text holds the secret, this one or any other's."""
    for text in texts:
        assert prepared.secret not in text
        WATCH.check(text, "the output")


def test_size_of_the_table() -> None:
    """The issue asks for forty."""
    assert len(CASES) >= 100


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_told_with_its_remedy(
    case: Case, place: Prepared, capfd: pytest.CaptureFixture[str]
) -> None:
    """As people see it."""
    code = run(place.arguments)
    out, err = capfd.readouterr()
    told(case, code, out, err)
    assert "Traceback" not in err
    clean(place, out, err)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_as_json_and_with_debug(
    case: Case, place: Prepared, capfd: pytest.CaptureFixture[str]
) -> None:
    """As a machine reads it; with --debug the traceback is there, and still no secret."""
    json_, debug = ("--json",) if case.arguments[0] in ("token", "key") else (), ("--debug",)
    code = run((*place.arguments, *json_, *debug))
    out, err = capfd.readouterr()
    assert (case.exit_code, "") == (code, out)
    assert "Traceback" in err
    clean(place, out, err)
    if json_:
        error = json.loads(err.splitlines()[-1])["error"]
        assert case.code == error["code"]
        assert case.said in error["message"] + error.get("cause", "")
        assert error["hint"]
    else:
        told(case, code, out, err)


PROCESSES = ("toml-pin", "uri-pin-value", "pem-passphrase-wrong", "env-proxy", "nothing-listens")


@pytest.mark.parametrize("case", [CASES[name] for name in PROCESSES], ids=PROCESSES)
def test_as_a_process(case: Case, place: Prepared) -> None:
    """The same from the installed command, where the log goes to stderr too."""
    for debug in ((), ("--debug",)):
        done = subprocess.run(
            [KEYSTAY, *place.arguments, *debug],
            env=dict(os.environ), capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        told(case, done.returncode, done.stdout, done.stderr)
        assert ("Traceback" in done.stderr) == bool(debug)
        clean(place, done.stdout, done.stderr)
