"""One trial: a client gets tokens with a key, others look for the key in its memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from experiments.custody.needles import PrivateKey, needles
from experiments.custody.places import PLACES, Place
from experiments.custody.search import Search, Seen
from keystay import JWKSet
from keystay.jwk import public_jwk
from keystay.testing import SmartTestServer

__all__ = ["KEY_TYPES", "Outcome", "Repetitions", "examine", "make_key"]

KEY_TYPES = ("RSA-3072", "P-384")
Where = Literal["memory", "core"]
# A holder that has the key for as long as a signature takes (SoftHSM) is small, and read fast.
_CONTROLS = 400
_MOST_SEARCHES = 60
_CLIENT_ID = "examined"


@dataclass(frozen=True)
class Repetitions:
    """How often to look.

    Attributes:
        during: Searches of the memory while tokens are got.
        after: Searches of the memory afterwards.
        cores: Core dumps during, and as many after.
    """

    during: int = 12
    after: int = 4
    cores: int = 2


@dataclass
class Outcome:
    """What one trial found.

    Attributes:
        place: Key of `PLACES`.
        key_type: `RSA-3072` or `P-384`.
        custody: What keystay says of the key.
        tokens: How many the client got meanwhile.
        needles: How many byte strings were looked for.
        searches: Searches made of the client.
        bytes: Bytes read of the client altogether.
        mappings: Mappings in the largest search.
        seconds: Time it took.
        found: Searches that found something, by when.
        secrets: The numbers found in the client's memory.
        forms: The forms they were found in.
        control: The numbers that the same search found in the process that holds the key; None
            where that is the client itself.
    """

    place: str
    key_type: str
    custody: str = ""
    tokens: int = 0
    needles: int = 0
    searches: int = 0
    bytes: int = 0
    mappings: int = 0
    seconds: float = 0.0
    found: Counter[str] = field(default_factory=Counter)
    secrets: set[str] = field(default_factory=set)
    forms: set[str] = field(default_factory=set)
    control: set[str] | None = None

    def add(self, when: str, seen: Seen) -> None:
        self.searches += 1
        self.bytes += seen.read
        self.mappings = max(self.mappings, seen.mappings)
        if seen.hits:
            self.found[when] += 1
            self.secrets |= {needle.secret for needle, _ in seen.hits}
            self.forms |= {needle.form.partition(",")[0] for needle, _ in seen.hits}


def make_key(key_type: str) -> PrivateKey:
    if key_type == "P-384":
        return ec.generate_private_key(ec.SECP384R1())
    return rsa.generate_private_key(65537, int(key_type.partition("-")[2]))


def examine(place: str, key_type: str, how: Repetitions, key: PrivateKey | None = None) -> Outcome:
    """Run one trial."""
    key = key or make_key(key_type)
    outcome, start = Outcome(place, key_type), time.monotonic()
    with TemporaryDirectory(prefix="custody-") as name, SmartTestServer() as server:
        folder = Path(name)
        wanted = needles(key)
        search = Search(folder, wanted)
        outcome.needles = len(wanted)
        jwk = public_jwk(key.public_key())
        server.register(_CLIENT_ID, jwks=JWKSet([jwk]))
        with PLACES[place][1](key, folder) as where:
            outcome.custody = _custody(where)
            with _Client(where, server.fhir_base_url) as client:
                _look(client, search, outcome, how)
                if place not in ("pem", "softhsm"):
                    outcome.control = _control(search, where)
                outcome.tokens = client.tell("stop")
                _look_after(client, search, outcome, how)
    outcome.seconds = time.monotonic() - start
    return outcome


def _look(client: _Client, search: Search, outcome: Outcome, how: Repetitions) -> None:
    client.tell("start")
    for _ in range(how.during):
        outcome.add("memory, during", search.memory(client.pid))
    for _ in range(how.cores):
        outcome.add("core dump, during", search.core(client.pid))
    # SoftHSM has a key in memory for as long as a signature takes: search until one falls into it.
    while outcome.place == "softhsm" and not outcome.found and outcome.searches < _MOST_SEARCHES:
        outcome.add("memory, during", search.memory(client.pid))


def _look_after(client: _Client, search: Search, outcome: Outcome, how: Repetitions) -> None:
    for _ in range(how.after):
        outcome.add("memory, after", search.memory(client.pid))
    for _ in range(how.cores):
        outcome.add("core dump, after", search.core(client.pid))
    client.tell("close")
    outcome.add("memory, closed", search.memory(client.pid))


def _control(search: Search, where: Place) -> set[str]:
    """Search whoever has the key, while it signs, until it is seen there."""
    seen: set[str] = set()
    for _ in range(_CONTROLS):
        for pid in where.holder():
            with suppress(Exception):  # a connection's process may be over
                seen |= {needle.secret for needle, _ in search.memory(pid).hits}
        if seen:
            return seen
    return seen


def _custody(where: Place) -> str:
    """What keystay says, asked in a process that is not examined."""
    source = (
        "import sys, keystay\nwith keystay.open_signer(sys.argv[1]) as s: print(s.custody.location)"
    )
    done = subprocess.run(
        [sys.executable, "-c", source, where.uri],
        env={**_environment(), **where.env},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr[-1000:])
    return done.stdout.strip()


def _environment() -> dict[str, str]:
    unwanted = ("KEYSTAY_", "AWS_", "GOOGLE_", "P11_KIT_", "SOFTHSM2_")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(unwanted) and not name.lower().endswith("_proxy")
    }


class _Client:
    """client.py in a process of its own."""

    def __init__(self, where: Place, fhir_base_url: str) -> None:
        env = {
            **_environment(),
            **where.env,
            "KEYSTAY_FHIR_BASE_URL": fhir_base_url,
            "KEYSTAY_CLIENT_ID": _CLIENT_ID,
            "KEYSTAY_KEY": where.uri,
            "KEYSTAY_ALLOW_INSECURE_LOOPBACK": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.custody.client"],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        if self._line() != "ready":
            raise RuntimeError("the client did not get a token")

    def tell(self, command: str) -> int:
        """Give a command; returns the number of tokens so far."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n")
        self._process.stdin.flush()
        return int(self._line() or 0)

    def _line(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def __enter__(self) -> _Client:
        return self

    def __exit__(self, *_: object) -> None:
        with self._process:
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
