"""The contract, for three more PKCS#11 modules, each in a process beside its own token."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytestmark = pytest.mark.long

HERE = Path(__file__).parent
PIN = "12345678"
NO_PSS = "libtpm2_pkcs11 1.9 does not list CKM_RSA_PKCS_PSS"
MODULES: dict[str, tuple[str, dict[str, str]]] = {
    "nss": ("P-256,P-384,P-521,RSA-2048,RSA-3072", {}),
    "opencryptoki": (
        "RSA-2048,RSA-3072",
        {"P-384": "the soft token of Debian 12 has no mechanism for curves"},
    ),
    "tpm": (
        "P-256,P-384,RSA-2048",
        {
            **dict.fromkeys(("PS256", "PS384", "PS512"), NO_PSS),
            "RSA-4096": "the TPM's keys have at most 3072 bits",
            "fork": "the module shares its connection to tpm2-abrmd: a child is told to leave it",
        },
    ),
}


@pytest.mark.parametrize("module", MODULES)
def test_module(module: str, tmp_path: Path) -> None:
    """All of it passes, with what the table says."""
    if module == "opencryptoki" and os.geteuid():
        pytest.skip("its daemon needs root and namespaces of its own")
    key_types, cannot = MODULES[module]
    (tmp_path / "pin").touch(mode=0o600)
    (tmp_path / "pin").write_text(f"{PIN}\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    report = tmp_path / "report.xml"
    done = subprocess.run(
        [
            HERE.parent / "support" / "pkcs11_modules.sh", module, tmp_path,
            sys.executable, "-m", "pytest", "-q", "--tb=short", "--show-capture=no",
            "-p", "no:cacheprovider", "-c", tmp_path / "pytest.ini", "--rootdir", HERE,
            "--confcutdir", HERE / "faulty", f"--junit-xml={report}", HERE / "pkcs11_module.py",
        ],
        env={
            **os.environ,
            "KEYSTAY_TEST_KEY_TYPES": key_types,
            "KEYSTAY_TEST_CANNOT": json.dumps(cannot),
            "KEYSTAY_TEST_ECDSA": "50" if module == "tpm" else "500",
            "KEYSTAY_TEST_SOAK": "3",
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    suite = next(ElementTree.parse(report).iter("testsuite"))
    assert suite.attrib["skipped"] == "0"
    # The contract for each key, and the table once.
    assert int(suite.attrib["tests"]) == 28 * len(key_types.split(",")) + 1
