"""`keystay token` from a cold start against a bare script with httpx and PyJWT.

Each runs as a process of its own, with the same PEM key and the same server; the script has an
environment with httpx, PyJWT and cryptography and nothing else (`.venv/coldstart`, by tools/setup).
What counts is the CPU time of the process, user and system.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from benchmarks.measure import Goal, Times
from benchmarks.token_server import TokenServer, running

HERE = Path(__file__).parent
ENVIRONMENT = Path(sys.executable).parent.parent / "coldstart"
BARE, OURS = "httpx + PyJWT", "keystay token"


def run(*, smoke: bool) -> Iterator[Goal]:
    """In turns, so that a machine that slows down slows both."""
    found: dict[str, list[float]] = {}
    with running(0.0) as server, tempfile.TemporaryDirectory() as folder:
        contenders = commands(server, Path(folder))
        for number in range(3 if smoke else 22):
            # One after the other, in another order each time; the first round writes bytecode.
            for name, command in sorted(contenders.items(), reverse=bool(number % 2)):
                spent = cpu_seconds(command, folder)
                if number:
                    found.setdefault(name, []).append(spent)
    times = Times(found)
    print(times.table(BARE, unit="ms", scale=1e3))
    for name, rounds in found.items():
        print(f"  {name:<24} from {min(rounds) * 1e3:.0f} to {max(rounds) * 1e3:.0f} ms")
    ratio = statistics.median(
        ours / bare for ours, bare in zip(found[OURS], found[BARE], strict=True)
    )
    yield Goal("CPU of a cold start, as a multiple of a bare script's", ratio, 1.4)


def commands(server: TokenServer, folder: Path) -> dict[str, list[str]]:
    """What is run, by name, in a folder with a key and keystay.toml."""
    key = folder / "client.pem"
    key.touch(0o600)
    key.write_bytes(
        ec.generate_private_key(ec.SECP384R1()).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        )
    )
    client = (
        f'fhir_base_url = "{server.origin}/fhir"\nclient_id = "nightly-export"\n'
        'key = "file:client.pem"\nallow_insecure_loopback = true\n'
    )
    (folder / "keystay.toml").write_text(
        f'[clients.one]\n{client}token_endpoint = "{server.token_endpoint}"\n'
        f"[clients.discovers]\n{client}"
    )
    keystay = str(Path(sys.executable).with_name("keystay"))
    bare = [str(ENVIRONMENT / "bin" / "python"), str(HERE / "coldstart_bare.py"), str(key)]
    return {
        BARE: [*bare, server.token_endpoint],
        OURS: [keystay, "token", "one"],
        f"{BARE}, discovering": [*bare, server.token_endpoint, f"{server.origin}/fhir"],
        f"{OURS}, discovering": [keystay, "token", "discovers"],
    }


def cpu_seconds(command: list[str], folder: str) -> float:
    """User and system seconds of a process that has to succeed."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("KEYSTAY_")}
    process = subprocess.Popen(
        command, cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.read().startswith(b"yyyy"), command
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return usage.ru_utime + usage.ru_stime
