"""What an import adds to an empty interpreter."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

from benchmarks.measure import Goal, interleave

LIBRARIES = {
    "keystay": "import keystay",
    "keystay, a token client": "from keystay import TokenClient",
    "httpx": "import httpx",
    "PyJWT": "import jwt",
    "joserfc": "import joserfc.jwt",
    "Authlib": "from authlib.integrations.requests_client import OAuth2Session",
    "requests-oauth2client": "import requests_oauth2client",
    "MSAL": "import msal",
}


def started(statement: str) -> Callable[[], object]:
    """A fresh interpreter that runs one statement."""
    return lambda: subprocess.run([sys.executable, "-Wignore", "-c", statement], check=True)


def run(*, smoke: bool) -> Iterator[Goal]:
    """Whole processes, less the empty one of the same round."""
    times = interleave(
        {"empty": started("pass"), **{n: started(s) for n, s in LIBRARIES.items()}},
        calls=1,
        rounds=2 if smoke else 11,
    )
    over = {
        name: sorted(a - b for a, b in zip(times.rounds[name], times.rounds["empty"], strict=True))[
            len(times.rounds["empty"]) // 2
        ]
        for name in LIBRARIES
    }
    for name, seconds in sorted(over.items(), key=lambda item: item[1]):
        print(f"  {name:<24} {seconds * 1e3:7.1f} ms over an empty interpreter")
    yield Goal("import keystay, ms", over["keystay"] * 1e3, 40)
