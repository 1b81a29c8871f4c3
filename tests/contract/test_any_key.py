"""`any_key.py` runs the contract on whatever key it is given: here one in each cloud's emulator."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.aws_fixtures import KmsUri
    from tests.support.gcp_kms_server import GcpKmsServer
    from tests.support.ministack import MiniStack

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]
SLOW = {"slow": "nothing here can make the store slow"}


def run_contract(uri: str, cannot: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """As the how-to pages show it."""
    return subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider",
            "tests/contract/any_key.py",
        ],
        cwd=ROOT,
        env={
            **os.environ,
            "KEYSTAY_TEST_KEY": uri,
            "KEYSTAY_TEST_CANNOT": json.dumps(cannot),
        },
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )  # fmt: skip


def test_aws(ministack: MiniStack, kms_uri: KmsUri) -> None:
    """A key in AWS KMS, credentials in the environment."""
    done = run_contract(kms_uri(ministack.key("P-384")), SLOW)
    assert done.returncode == 0, done.stdout
    assert "28 passed" in done.stdout


def test_google(gcp_kms: GcpKmsServer) -> None:
    """A key in Google Cloud KMS."""
    done = run_contract(gcp_kms.add("given", "EC_SIGN_P384_SHA384"), SLOW)
    assert done.returncode == 0, done.stdout
    assert "28 passed" in done.stdout


def test_the_table_is_checked(gcp_kms: GcpKmsServer) -> None:
    """What the key can do after all may not stand in the table."""
    done = run_contract(
        gcp_kms.add("given", "EC_SIGN_P384_SHA384"), {**SLOW, "ES384": "they say it cannot"}
    )
    assert done.returncode == 1
    assert "in cannot, and claimed all the same: ES384" in done.stdout
