"""The openssl program: keys that keystay has not made, and a second opinion on signatures."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

from tests.support.missing import require_program

if TYPE_CHECKING:
    from pathlib import Path

_KEYS = {
    "RS384": ("-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072"),
    "ES384": ("-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"),
}


def openssl(*arguments: str | Path) -> str:
    """Run it; what it printed."""
    done = subprocess.run(
        [require_program("openssl", "openssl"), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def openssl_key(path: Path, algorithm: str) -> Path:
    """Make a key for RS384 or ES384."""
    openssl("genpkey", "-quiet", "-out", path, *_KEYS[algorithm])
    path.chmod(0o600)
    return path
