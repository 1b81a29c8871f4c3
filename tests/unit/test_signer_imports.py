"""A signer has loaded what its signatures need: a fork during a first signature must not hang."""

from __future__ import annotations

import subprocess
import sys

SOURCE = """
import sys
import keystay
from tests.unit.fakes import FakeKey
signer = keystay.Signer(FakeKey())
before = set(sys.modules)
signer.sign(b"message")
print(sorted(name for name in set(sys.modules) - before))
"""


def test_the_first_signature_imports_nothing() -> None:
    """Whatever is imported is imported when the signer is opened."""
    done = subprocess.run(
        [sys.executable, "-c", SOURCE], capture_output=True, text=True, check=True, timeout=60
    )
    assert "[]" == done.stdout.strip()
