"""Each distribution is whole: it installs alone and needs nothing it does not declare."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import json
import re
import sys
import zipfile
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT, THIRD_PARTY_WHEELS, Project, projects, run

# Modules for those who bring the package themselves; nothing else imports them.
OPTIONAL = {
    "keystay.observers.otel": "opentelemetry",
    "keystay.testing.pytest_plugin": "pytest",
    "keystay.testing.signer_contract": "pytest",
    "keystay.testing.contract.base": "pytest",
    "keystay.testing.contract.fork": "pytest",
    "keystay.testing.contract.identity": "pytest",
    "keystay.testing.contract.lifetime": "pytest",
    "keystay.testing.contract.secrecy": "pytest",
    "keystay.testing.contract.signatures": "pytest",
    "keystay.testing.contract.tampering": "pytest",
    "keystay.testing.contract.verifiers": "pytest",
}

IMPORT_ALL = """
import importlib, pkgutil, sys
package = importlib.import_module(sys.argv[1])
for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
    if module.name not in sys.argv[2:]:
        importlib.import_module(module.name)
"""


def wheel_of(project: Project, wheels: Path) -> Path:
    (wheel,) = wheels.glob(f"{project.package}-*.whl")
    return wheel


def test_wheel_installs_alone_and_imports(project: Project, wheels: Path, tmp_path: Path) -> None:
    """With its declared dependencies, no index and nothing else, every module imports."""
    uv = str(Path(sys.executable).with_name("uv"))
    environment = tmp_path / "venv"
    run(uv, "venv", "--quiet", "--no-config", "--python", sys.executable, str(environment))
    python = str(environment / "bin" / "python")
    run(
        uv, "pip", "install", "--quiet", "--no-config", "--python", python, "--no-index",
        "--find-links", str(THIRD_PARTY_WHEELS), "--find-links", str(wheels),
        str(wheel_of(project, wheels)),
    )  # fmt: skip

    run(python, "-I", "-W", "error", "-c", IMPORT_ALL, project.package, *OPTIONAL, cwd=tmp_path)
    run(str(environment / "bin" / "keystay"), "--help", cwd=tmp_path)


def test_wheel_content(project: Project, wheels: Path) -> None:
    """The wheel holds its package, typed and licensed, and its entry points; nothing else."""
    with zipfile.ZipFile(wheel_of(project, wheels)) as wheel:
        names = wheel.namelist()
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        metadata = wheel.read(f"{info}/METADATA").decode()
        entry_points = configparser.ConfigParser()
        entry_points.read_string(wheel.read(f"{info}/entry_points.txt").decode())

    assert {name.split("/")[0] for name in names} == {project.package, info}
    assert f"{project.package}/py.typed" in names
    texts = {
        path.relative_to(project.source.parent) for path in project.source.rglob("errors.toml")
    }
    assert {path.as_posix() for path in texts} <= set(names)
    assert f"{info}/licenses/LICENSE" in names
    assert "License-Expression: Apache-2.0" in metadata
    assert "Requires-Python: >=3.11" in metadata

    declared = {
        "console_scripts": project.manifest.get("scripts", {}),
        **project.manifest.get("entry-points", {}),
    }
    assert {group: entries for group, entries in declared.items() if entries} == {
        group: dict(entry_points[group]) for group in entry_points.sections()
    }


def test_imports_are_declared(project: Project) -> None:
    """What the source imports, even inside a function, is declared (extras included)."""
    requirements = [*project.manifest["dependencies"]]
    for extra in project.manifest.get("optional-dependencies", {}).values():
        requirements += extra
    declared = {normalized(requirement) for requirement in requirements}
    allowed = {*sys.stdlib_module_names, project.package}
    allowed |= {other.package for other in projects().values() if other.name in declared}
    for package, distributions in importlib.metadata.packages_distributions().items():
        if declared & {normalized(name) for name in distributions}:
            allowed.add(package)

    undeclared = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in project.source.rglob("*.py")
        for name in imported(path)
        if name not in allowed and OPTIONAL.get(module_name(path, project)) != name
    }

    assert undeclared == set()


def test_extras_resolve(wheels: Path, tmp_path: Path) -> None:
    """`pip install keystay[pem,pkcs11]` finds the core and both plugins."""
    report = tmp_path / "report.json"
    run(
        sys.executable, "-m", "pip", "--isolated", "install", "--quiet", "--dry-run",
        "--ignore-installed", "--no-index", "--find-links", str(THIRD_PARTY_WHEELS),
        "--find-links", str(wheels), "--report", str(report), "keystay[pem,pkcs11]",
    )  # fmt: skip

    installed = {item["metadata"]["name"] for item in json.loads(report.read_text())["install"]}

    assert {"keystay", "keystay-pem", "keystay-pkcs11"} <= installed


@pytest.mark.parametrize("extra", ["pem", "pkcs11"])
def test_extra_names_a_plugin_of_the_workspace(extra: str) -> None:
    """Each extra named after a scheme's plugin asks for a version the workspace has."""
    (requirement,) = projects()["keystay"].manifest["optional-dependencies"][extra]

    assert normalized(requirement) in projects()


def normalized(requirement: str) -> str:
    """The distribution a requirement names, as the Packaging specification normalizes it."""
    name = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert name is not None
    return re.sub(r"[-_.]+", "-", name[0]).lower()


def module_name(path: Path, project: Project) -> str:
    return ".".join(path.relative_to(project.source.parent).with_suffix("").parts)


def imported(path: Path) -> set[str]:
    """The top-level packages a source file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(str(node.module).split(".")[0])
    return names
