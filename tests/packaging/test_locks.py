"""The lock files: complete, in step with pyproject.toml, and free of addresses."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.packaging.conftest import ROOT, projects

LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def pins(lock: Path) -> dict[str, set[str]]:
    """The versions a lock gives each distribution (more than one where markers differ)."""
    found: dict[str, set[str]] = {}
    for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)", lock.read_text()):
        found.setdefault(canonicalize_name(name), set()).add(version)
    return found


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: str(lock.stem))
def test_python_lock_has_hashes_and_no_address(lock: Path) -> None:
    """Every line is a pin, a hash or a comment; none names an index, a file or a URL."""
    text = lock.read_text()

    assert "://" not in text
    assert re.search(r"(?m)^\s*-(?!-hash=sha256:)", text) is None
    for entry in re.split(r"(?m)^(?=[\w.-]+==)", text)[1:]:
        assert "--hash=sha256:" in entry, entry


def test_npm_lock_has_hashes_and_no_address() -> None:
    """package-lock.json pins by integrity and records no download address."""
    lock = json.loads((ROOT / "tests/servers/package-lock.json").read_text())
    packages = {name: entry for name, entry in lock["packages"].items() if name}

    assert packages
    for name, entry in packages.items():
        assert "resolved" not in entry, name
        assert entry["integrity"].startswith("sha512-"), name


def test_runtime_lock_satisfies_every_distribution() -> None:
    """Each declared dependency is locked at a version its distribution accepts."""
    locked = pins(ROOT / "requirements/runtime.txt")
    for project in projects().values():
        for requirement in map(Requirement, project.manifest["dependencies"]):
            name = canonicalize_name(requirement.name)
            if name in projects():
                continue
            assert name in locked, f"{project.name} needs {name}: make lock"
            assert all(requirement.specifier.contains(version) for version in locked[name]), name


def test_locks_agree() -> None:
    """A distribution in two locks has one version, so that any order of installing is the same.

    The emulators have an environment of their own.
    """
    everywhere: dict[str, set[str]] = {}
    for lock in (lock for lock in LOCKS if lock.stem != "emulators"):
        for name, versions in pins(lock).items():
            everywhere.setdefault(name, versions)
            assert everywhere[name] == versions, name


def test_locks_leave_the_workspace_out() -> None:
    """keystay and its plugins come from the checkout."""
    for lock in LOCKS:
        assert not pins(lock).keys() & projects().keys()
