"""The stage that a page of the documentation runs on; tests/docs/README.md describes it."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from keystay.testing import (
    AuthorizationServer,
    FHIRServer,
    RegistrationServer,
    Reply,
    Request,
)
from keystay.testing.loopback import LoopbackServer

HERE = Path(__file__).parent
EXAMPLE = HERE.parents[1] / "examples" / "keystay-example-backend"
CLIENT_ID = "nightly-export"
ORIGIN = "https://ehr.example.org"
JWKS_PATH = "/.well-known/jwks.json"  # of https://keys.example.org
PIN = "493827"
INITIAL_TOKEN = "initial-access-token-0123456789"
LIBRARY = "/usr/lib/softhsm/libsofthsm2.so"
KEY = f"pkcs11:token=prod;object=epic?module-path={LIBRARY}&pin-source=file:/run/secrets/pin"
CONFIG = f"""\
[clients.epic-prod]
fhir_base_url = "{ORIGIN}/fhir/r4"
client_id = "{CLIENT_ID}"
key = "{KEY}"
"""
REGISTERED = """
import sys, keystay
signers = [keystay.open_signer(uri) for uri in sys.argv[1:]]
print(keystay.JWKSet.from_signers(signers).to_json())
"""


@dataclass(frozen=True)
class Stage:
    """A directory to run a page in, and the environment that goes with it."""

    directory: Path
    environment: dict[str, str]
    places: dict[str, str]

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command,
            cwd=self.directory / "work",
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def here(self, text: str) -> str:
        """The text with the places of this machine."""
        for name, place in self.places.items():
            text = text.replace(name, place)
        return text


def make_stage(directory: Path, port: int = 0) -> Stage:
    """Describe the stage in a directory, whatever is there already."""
    binaries = Path(sys.executable).parent
    kept = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TMPDIR") if name in os.environ}
    return Stage(
        directory,
        environment={
            **kept,
            "HOME": str(directory),
            "PATH": f"{binaries}:/usr/local/bin:/usr/bin:/bin",
            "PYTHONPATH": str(HERE / "stage"),
            "KEYSTAY_TEST_DOCS_PORT": str(port),
            "SOFTHSM2_CONF": str(directory / "softhsm2.conf"),
            "SSL_CERT_FILE": str(directory / "ca.pem"),
            "REQUESTS_CA_BUNDLE": str(directory / "ca.pem"),
            "NO_COLOR": "1",
            "COLUMNS": "100",
        },
        places={
            "/run/secrets/": f"{directory}/secrets/",
            "/etc/ssl/hospital-ca.pem": f"{directory}/ca.pem",
            LIBRARY: softhsm_library(),
            "examples/keystay-example-backend": str(EXAMPLE),
        },
    )


def softhsm_library() -> str:
    candidates = [LIBRARY, *map(str, Path("/usr").glob("lib*/**/libsofthsm2.so"))]
    return next(path for path in candidates if Path(path).exists())


def checked(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, f"{done.args}\n{done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def scenery(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What every stage starts from: certificate, keys, registered set, configuration."""
    directory = tmp_path_factory.mktemp("scenery")
    stage = make_stage(directory)
    work = directory / "work"
    for name in ("secrets", "tokens", "work"):
        (directory / name).mkdir(mode=0o700)
    write_softhsm_config(directory)
    pin = directory / "secrets" / "pin"
    pin.touch(0o600)
    pin.write_text(f"{PIN}\n")
    initial = directory / "secrets" / "initial-token"
    initial.touch(0o600)
    initial.write_text(f"{INITIAL_TOKEN}\n")

    checked(
        stage.run(
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", "2", "-subj", "/CN=ehr.example.org",
            "-addext", "subjectAltName=DNS:ehr.example.org,DNS:keys.example.org",
            "-addext", "keyUsage=critical,digitalSignature,keyCertSign",
            "-keyout", directory / "ca.key", "-out", directory / "ca.pem",
        )
    )  # fmt: skip
    (work / "client.pem").touch(0o600)
    (work / "client.pem").write_bytes(
        ec.generate_private_key(ec.SECP384R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    checked(
        stage.run(
            "softhsm2-util", "--init-token", "--free", "--label", "prod", "--pin", PIN,
            "--so-pin", "87654321",
        )
    )  # fmt: skip
    key = stage.here(KEY)
    checked(stage.run("keystay", "key", "generate", key, "--type", "P-384"))
    registered = stage.run(sys.executable, "-c", REGISTERED, key, "file:client.pem")
    (work / "jwks.json").write_text(checked(registered))
    return directory


def write_softhsm_config(directory: Path) -> None:
    (directory / "softhsm2.conf").write_text(
        f"directories.tokendir = {directory}/tokens\n"
        "objectstore.backend = file\n"
        "log.level = ERROR\n"
    )


@pytest.fixture
def stage(scenery: Path, tmp_path: Path) -> Iterator[Stage]:
    """A stage with its own copy of everything, and a SMART server."""
    directory = tmp_path / "stage"
    shutil.copytree(scenery, directory)
    write_softhsm_config(directory)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(directory / "ca.pem", directory / "ca.key")
    authorization = AuthorizationServer(f"{ORIGIN}/oauth2/token")
    registration = RegistrationServer(
        f"{ORIGIN}/oauth2/register", authorization, initial_access_token=INITIAL_TOKEN
    )
    fhir = FHIRServer(
        f"{ORIGIN}/fhir/r4", authorization, registration_endpoint=registration.endpoint
    )

    def handle(request: Request) -> Reply:
        if request.path == JWKS_PATH:
            document = json.loads((directory / "work" / "jwks.json").read_text())
            return Reply.json(document, headers={"Cache-Control": "max-age=2"})
        if registration.answers(request.path):
            return registration.handle(request)
        if request.path != "/oauth2/token":
            return fhir.handle(request)
        jwks = json.loads((directory / "work" / "jwks.json").read_text())
        client = authorization.register(CLIENT_ID, jwks=jwks)
        client.jwks_uri = f"https://keys.example.org{JWKS_PATH}"  # which a jku has to be
        return authorization.handle(request)

    with LoopbackServer(handle, ssl_context=tls) as server:
        port = int(server.origin.rpartition(":")[2])
        stage = make_stage(directory, port)
        (directory / "work" / "keystay.toml").write_text(stage.here(CONFIG))
        yield stage
