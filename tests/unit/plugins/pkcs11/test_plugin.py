"""The plugin module is light and states its interface."""

from __future__ import annotations

import subprocess
import sys


def test_import_loads_nothing() -> None:
    """Importing the plugin loads neither python-pkcs11 nor a module of ours behind the hooks."""
    source = (
        "import sys, keystay_pkcs11 as p; assert p.api_version == 1\n"
        "heavy = [m for m in sys.modules if m.split('.')[0] in ('pkcs11', 'cryptography')]\n"
        "own = [m for m in sys.modules if m.startswith('keystay_pkcs11.')]\n"
        "assert not heavy and not own, (heavy, own)"
    )

    subprocess.run([sys.executable, "-c", source], check=True)
