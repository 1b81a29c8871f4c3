"""The distributions of the workspace, and a wheel of each."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
THIRD_PARTY_WHEELS = Path(sys.prefix, "wheels")
"""Filled by tools/setup with what requirements/runtime.txt names."""


@dataclass(frozen=True)
class Project:
    """One distribution: its directory and what its pyproject.toml says."""

    directory: Path
    manifest: dict[str, Any]

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def package(self) -> str:
        return self.name.replace("-", "_")

    @property
    def source(self) -> Path:
        return self.directory / "src" / self.package


@cache
def projects() -> dict[str, Project]:
    """Every distribution by name."""
    found = {}
    for directory in (ROOT, *sorted(ROOT.glob("plugins/*/"))):
        manifest = tomllib.loads((directory / "pyproject.toml").read_text())["project"]
        found[manifest["name"]] = Project(directory, manifest)
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "project" in metafunc.fixturenames:
        metafunc.parametrize("project", list(projects().values()), ids=list(projects()))


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a freshly built wheel of each distribution."""
    directory = tmp_path_factory.mktemp("wheels")
    for project in projects().values():
        run(
            sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory),
            cwd=project.directory,
        )  # fmt: skip
    return directory


def run(*command: str, cwd: Path | None = None) -> str:
    """Run a command that must succeed; return its standard output."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout
