"""A process that forks while a thread is in its first calls, with a key in each kind of store."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import keystay
from tests.support.openssl import openssl_key
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from tests.support.aws_fixtures import KmsUri
    from tests.support.gcp_kms_server import GcpKmsServer
    from tests.support.ministack import MiniStack
    from tests.support.softhsm import SoftHSM

from keystay.testing import SmartTestServer

PROGRAM = Path(__file__).parents[1] / "programs" / "fork_in_first_calls.py"
ROUNDS, FORKS, TIMEOUT = 50, 4, 10

pytestmark = [pytest.mark.long, pytest.mark.timeout(900)]


@pytest.fixture
def pem(tmp_path: Path) -> str:
    """A software key."""
    return f"file:{openssl_key(tmp_path / 'key.pem', 'RS384')}"


@pytest.fixture
def pkcs11(fresh_softhsm: SoftHSM, monkeypatch: pytest.MonkeyPatch) -> str:
    """A key on a token."""
    fresh_softhsm.generate_key("EC:secp384r1", "epic")
    for name, value in fresh_softhsm.env.items():
        monkeypatch.setenv(name, value)
    return fresh_softhsm.key_uri("epic")


@pytest.fixture
def awskms(ministack: MiniStack, kms_uri: KmsUri) -> str:
    """A key in AWS KMS."""
    return kms_uri(ministack.key("P-384"))


@pytest.fixture
def gcpkms(gcp_kms: GcpKmsServer) -> str:
    """A key in Google Cloud KMS, over gRPC."""
    return gcp_kms.add("epic", "EC_SIGN_P384_SHA384")


@pytest.mark.usefixtures("no_environment")
@pytest.mark.parametrize("backend", ["pem", "pkcs11", "awskms", "gcpkms"])
def test_children_end(backend: str, request: pytest.FixtureRequest) -> None:
    """Each of two hundred children works, or fails by its deadline."""
    uri: str = request.getfixturevalue(backend)
    with keystay.open_signer(uri) as signer, SmartTestServer() as server:
        server.register("forker", jwks=keystay.JWKSet.from_signers([signer]))
        done = subprocess.run(
            [
                sys.executable,
                PROGRAM,
                *map(str, (ROUNDS, FORKS, TIMEOUT)),
                uri,
                server.fhir_base_url,
                "forker",
            ],
            env=os.environ,
            capture_output=True,
            text=True,
            check=False,
        )
    WATCH.check(done.stdout + done.stderr, "the output of the program that forks")
    print(done.stdout)
    assert 0 == done.returncode, done.stdout + done.stderr[-4000:]
    assert f"{ROUNDS * FORKS} children ended well" in done.stdout
