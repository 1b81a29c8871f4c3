"""The same client with its key in each of four stores: only `key =` in keystay.toml changes."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

import keystay
from keystay.cli.app import run
from tests.support.openssl import openssl_key

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.aws_fixtures import KmsUri
    from tests.support.fixtures import StartOIDCProvider
    from tests.support.gcp_kms_server import GcpKmsServer
    from tests.support.ministack import MiniStack
    from tests.support.secrets_watch import SecretsWatch
    from tests.support.softhsm import SoftHSM

CLIENT = "nightly-export"
SCOPE = "system/Patient.rs"
SOFTHSM = {"RS384": ("rsa:3072", "e4"), "ES384": ("EC:secp384r1", "e5")}
AWS = {"RS384": "RSA-3072", "ES384": "P-384"}
GOOGLE = {"RS384": "RSA_SIGN_RAW_PKCS1_3072", "ES384": "EC_SIGN_P384_SHA384"}


@pytest.mark.parametrize("algorithm", ["RS384", "ES384"])
def test_only_the_key_changes(
    algorithm: str,
    softhsm: SoftHSM,
    ministack: MiniStack,
    kms_uri: KmsUri,
    gcp_kms: GcpKmsServer,
    oidc_provider: StartOIDCProvider,
    secrets_watch: SecretsWatch,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """Each store's key gets a token from oidc-provider, which opens a Patient."""
    kind, key_id = SOFTHSM[algorithm]
    softhsm.generate_key(kind, f"four-stores-{algorithm}", key_id)
    stores = {
        "file": f"file:{openssl_key(tmp_path / 'key.pem', algorithm)}",
        "pkcs11": softhsm.key_uri(f"four-stores-{algorithm}"),
        "awskms": kms_uri(ministack.key(AWS[algorithm])),
        "gcpkms": gcp_kms.add("epic", GOOGLE[algorithm]),
    }
    published: list[Any] = []
    for uri in stores.values():
        with keystay.open_signer(uri) as signer:
            published += keystay.JWKSet.from_signers([signer])
    provider = oidc_provider([{"client_id": CLIENT, "jwks": keystay.JWKSet(published).to_dict()}])
    path = tmp_path / "keystay.toml"
    text = (
        f'[clients.epic]\nfhir_base_url = "{provider.fhir_base_url}"\nclient_id = "{CLIENT}"\n'
        f'key = "KEY"\nscope = "{SCOPE}"\nallow_insecure_loopback = true\n'
    )
    monkeypatch.setenv("KEYSTAY_CONFIG", str(path))

    kids = set()
    for scheme, uri in stores.items():
        path.write_text(text.replace("KEY", uri))
        with keystay.TokenClient.from_config() as client:
            token = client.token()
            secrets_watch.add(f"the access token by {scheme}", token.value)
            kids.add(client.signer.kid)
            with httpx.Client(base_url=client.fhir_base_url, auth=client.auth()) as fhir:
                patient = fhir.get("Patient/123")
        assert (algorithm, SCOPE) == (client.signer.algorithm, token.scope)
        assert (200, "123") == (patient.status_code, patient.json()["id"])
        assert 0 == run(["get", "Patient/123"])
        assert '"123"' in capsys.readouterr().out

    assert {member["kid"] for member in published} == kids
    assert len(stores) == len(kids)


SDKS = ("boto3", "botocore", "google.cloud", "grpc", "pkcs11")


def test_no_other_store_is_loaded(tmp_path: Path) -> None:
    """All four are installed; importing the cloud plugins, and signing with a file's key, loads no
    SDK of the others."""
    program = (
        "import sys, keystay, keystay_aws_kms, keystay_gcp_kms\n"
        "from keystay.backends.registry import default_registry\n"
        "print(*(entry.scheme for entry in default_registry().entries()))\n"
        "with keystay.open_signer(sys.argv[1]) as signer:\n"
        "    signer.sign(b'message')\n"
        f"print([name for name in {SDKS!r} if name in sys.modules])\n"
    )
    uri = f"file:{openssl_key(tmp_path / 'key.pem', 'ES384')}"
    done = subprocess.run(
        [sys.executable, "-c", program, uri], capture_output=True, text=True, check=True
    )
    installed, loaded = done.stdout.splitlines()
    assert {"awskms", "file", "gcpkms", "pkcs11"} <= set(installed.split())
    assert "[]" == loaded
