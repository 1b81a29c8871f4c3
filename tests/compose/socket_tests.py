"""What has to work through the socket of docker-compose.softhsm.yml, on the host and in `check`.

HSM_SOCKET is the socket, HSM_PIN_FILE holds the PIN. It stands alone: `check` has no more of the
tests than this file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import keystay
from keystay.errors import LoginError, PolicyError
from keystay.testing import SmartTestServer

pytestmark = pytest.mark.compose

KEYS = {"ES384": "es384", "RS384": "rs384"}
SOCKET, PIN_FILE = os.environ["HSM_SOCKET"], os.environ["HSM_PIN_FILE"]
os.environ["P11_KIT_SERVER_ADDRESS"] = f"unix:path={SOCKET}"
(CLIENT,) = (str(p) for p in Path("/usr/lib").glob("*/pkcs11/p11-kit-client.so"))


def uri(label: str, pin_file: str = PIN_FILE) -> str:
    return f"pkcs11:token=keystay;object={label}?module-path={CLIENT}&pin-source=file:{pin_file}"


@pytest.fixture
def server() -> Iterator[SmartTestServer]:
    with SmartTestServer() as running:
        yield running


@pytest.mark.parametrize(("algorithm", "label"), KEYS.items())
def test_token(server: SmartTestServer, algorithm: str, label: str) -> None:
    """A strict server grants a token for an assertion signed by the key in the container."""
    with keystay.open_signer(uri(label), custody="out-of-process") as signer:
        server.register("hospital-etl", jwks=keystay.JWKSet.from_signers([signer]))
        with keystay.TokenClient(
            fhir_base_url=server.fhir_base_url,
            client_id="hospital-etl",
            signer=signer,
            scope="system/Patient.rs",
            allow_insecure_loopback=True,
        ) as client:
            token = client.token()

    assert algorithm == signer.algorithm
    assert token.value
    assert "other-process" == signer.custody.location
    assert "SoftHSM" in signer.custody.reason


@pytest.mark.parametrize("label", KEYS.values())
def test_made_here(label: str) -> None:
    """The keys were generated on the token and cannot be read out of it."""
    with keystay.open_signer(uri(label)) as signer:
        facts = signer.custody.facts

    assert {
        "local": True,
        "sensitive": True,
        "extractable": False,
        "never_extractable": True,
    } == {n: facts[n].value for n in ("local", "sensitive", "extractable", "never_extractable")}


def test_never_hardware() -> None:
    """A token in a container is software all the same."""
    with pytest.raises(PolicyError, match="other-process"):
        keystay.open_signer(uri("es384"), custody="hardware")


def test_wrong_pin(tmp_path: Path) -> None:
    """The PIN is the secret's, and no other."""
    wrong = tmp_path / "pin"
    wrong.touch(mode=0o600)
    wrong.write_text("no-such-pin")

    with pytest.raises(LoginError):
        keystay.open_signer(uri("es384", str(wrong)))
