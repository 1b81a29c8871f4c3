"""The contract fails, and fails where it should, for a backend that breaks a promise."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from keystay.testing import SignerContract

pytestmark = pytest.mark.long

HERE = Path(__file__).parent / "faulty"
ROOT = HERE.parents[2]
FAULTS = sorted(path.stem for path in HERE.glob("[a-z]*.py") if path.stem not in ("case", "honest"))
TESTS = {name for name in dir(SignerContract) if name.startswith("test_")}


def run_contract(fault: str, directory: Path) -> tuple[set[str], set[str]]:
    """The names of the tests that ran, and of those that failed."""
    report = directory / "report.xml"
    (directory / "pytest.ini").write_text("[pytest]\naddopts = --import-mode=importlib\n")
    done = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider",
            "-c", directory / "pytest.ini", "--rootdir", HERE, "--confcutdir", HERE,
            f"--junit-xml={report}", HERE / "case.py",
        ],
        env={**os.environ, "KEYSTAY_TEST_FAULT": fault, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )  # fmt: skip
    assert done.returncode in (0, 1), f"{done.stdout}{done.stderr}"
    ran, failed = set(), set()
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.attrib["name"].partition("[")[0]
        ran.add(name)
        assert case.find("skipped") is None, name
        if case.find("failure") is not None or case.find("error") is not None:
            failed.add(name)
    return ran, failed


def test_honest_backend_passes(tmp_path: Path) -> None:
    """What the faulty ones change is what makes them fail."""
    assert run_contract("honest", tmp_path) == (TESTS, set())


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_found(fault: str, tmp_path: Path) -> None:
    """Exactly the tests fail that are about the promise it breaks."""
    expected = importlib.import_module(f"tests.contract.faulty.{fault}").FAILS
    assert expected
    ran, failed = run_contract(fault, tmp_path)
    assert failed == expected
    assert ran == TESTS


def test_every_test_has_a_fault() -> None:
    """A test that no fault fails might be one that cannot fail."""
    found = {
        test
        for fault in FAULTS
        for test in importlib.import_module(f"tests.contract.faulty.{fault}").FAILS
    }
    assert TESTS - found == set()
