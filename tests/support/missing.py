"""A real part that is not installed fails the test: a skipped HSM test proves nothing."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import NoReturn

import pytest


def fail_missing(what: str, package: str) -> NoReturn:
    """Fail, saying how to get a missing part."""
    pytest.fail(
        f"{what} is not installed. `make test` installs it; by hand: apt-get install {package}",
        pytrace=False,
    )


def require_program(name: str, package: str) -> str:
    """Return a program's path, or fail naming its Debian package.

    What `make test` installed beside this interpreter comes first, such as Node.js.
    """
    beside = shutil.which(name, path=str(Path(sys.executable).parent))
    return beside or shutil.which(name) or fail_missing(name, package)
