"""tools/setup on machines that lack something: it says what, and what to do."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.packaging.conftest import ROOT

# All that a machine needs for tools/setup to get as far as its messages.
TOOLS = ("bash", "cat", "dirname", "env", "grep", "head", "mkdir", "sha256sum", "sort")


class Machine:
    """A checkout without .venv, on a machine with few programs and no apt-get."""

    def __init__(self, directory: Path) -> None:
        self.checkout = directory / "checkout"
        self.bin = directory / "bin"
        for target in (self.checkout / "tools", self.bin):
            target.mkdir(parents=True)
        shutil.copy(ROOT / "tools" / "setup", self.checkout / "tools")
        for name in TOOLS:
            program = shutil.which(name)
            assert program is not None
            (self.bin / name).symlink_to(program)

    def has(self, name: str, script: str) -> None:
        """Put a program on the machine."""
        program = self.bin / name
        program.write_text(f"#!/bin/bash\n{script}\n")
        program.chmod(0o755)

    def setup(self, *parts: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", "tools/setup", *parts],
            cwd=self.checkout,
            env={"PATH": str(self.bin), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_missing_packages_are_an_error_that_names_them(machine: Machine) -> None:
    """All at once, with the command that installs them, Python's part included."""
    machine.has("python3", "exit 1")

    done = machine.setup("system")

    assert done.returncode == 1
    assert "apt-get install softhsm2" in done.stderr
    for package in ("p11-kit", "opensc", "openssl", "gcc", "libc6-dev", "python3-venv"):
        assert f" {package}" in done.stderr


def test_demo_goes_on_without_softhsm(machine: Machine) -> None:
    """The demonstration has another way, so SoftHSM is only missed, with the remedy."""
    done = machine.setup("softhsm")

    assert done.returncode == 0
    assert "missing: softhsm2" in done.stderr
    assert "going on without SoftHSM" in done.stderr


def test_apt_get_installs_what_is_missing_and_refreshes_old_lists(machine: Machine) -> None:
    """On a new machine the package lists are empty: so the first attempt fails."""
    log = machine.checkout / "apt.log"
    listed, installed = machine.checkout / "lists", machine.bin / "openssl"
    machine.has("sh", 'exec bash "$@"')
    for name in ("mktemp", "tail", "rm", "touch", "chmod"):
        (machine.bin / name).symlink_to(str(shutil.which(name)))
    machine.has("sudo", '[[ $1 == -n ]] && shift; "$@"')
    machine.has("true", "exit 0")
    machine.has(
        "apt-get",
        f"""echo "$*" >>{log}
        if [[ $* == *update* ]]; then touch {listed}; exit; fi
        [[ -f {listed} ]] && touch {installed} && chmod +x {installed}""",
    )
    script = (machine.checkout / "tools" / "setup").read_text()
    script, replaced = re.subn(r"local packages=\([^)]*\)", "local packages=(openssl)", script)
    assert replaced == 1
    (machine.checkout / "tools" / "setup").write_text(script)
    machine.has("python3", "exit 0")

    first, second = machine.setup("system"), machine.setup("system")

    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert first.stderr == "setup: apt-get install openssl\n"
    assert second.stderr == ""
    assert [line.split()[-1] for line in log.read_text().splitlines()] == [
        "openssl",
        "-q",
        "openssl",
    ]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "no python3 works here. Install Python 3.11 or newer"),
        ("exit 127", "no python3 works here. Install Python 3.11 or newer"),
        ("echo 3.9", "python3 is Python 3.9; keystay needs 3.11 or newer"),
    ],
)
def test_unusable_python_is_named(machine: Machine, script: str | None, message: str) -> None:
    """An old or absent Python is an error with the way out."""
    if script is not None:
        machine.has("python3", script)

    done = machine.setup("runtime")

    assert done.returncode == 1
    assert message in done.stderr
    assert "make PYTHON=python3.12" in done.stderr


def test_unknown_part_is_refused(machine: Machine) -> None:
    """A misspelt part in the Makefile would leave something out in silence."""
    done = machine.setup("sytem")

    assert done.returncode == 1
    assert "no such part: sytem" in done.stderr
