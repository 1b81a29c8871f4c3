"""Sixteen processes that need a token at once, each for itself and by one file store.

They ask at the same moment, when there is no token yet and when the token has just ended. One
loopback server counts; a token takes it 50 ms.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

from cryptography.fernet import Fernet

from benchmarks.measure import Goal
from benchmarks.renewals import ALLOWED, LATENCY, settings
from benchmarks.token_server import TokenServer, running
from keystay import FileTokenStore, TokenClient
from keystay.concurrency.clock import SYSTEM_CLOCK
from keystay.token_stores.access_token import AccessToken
from keystay.token_stores.port import TokenOwner

PROCESSES = 16
LIFETIME = 3
"""Seconds a token lives."""


def run(*, smoke: bool) -> Iterator[Goal]:
    """Requests and the slowest caller, without a store and with one; and what a look costs."""
    processes = 4 if smoke else PROCESSES
    with running(LATENCY) as server, tempfile.TemporaryDirectory() as folder:
        server.set_lifetime(LIFETIME)
        for store in ("", f"{folder}/tokens"):
            requests, seconds = fleet(server, store, processes)
            name = "one file store" if store else "each for itself"
            for moment, count, slowest in zip(
                ("first use", "expiry"), requests, seconds, strict=True
            ):
                print(f"  {name:<16} {moment:<10} {count:3} requests, {slowest * 1e3:6.0f} ms")
        yield Goal("requests of a burst by one store", max(requests), 1)
        late = (max(seconds) - LATENCY) * 1e3
        yield Goal("slowest caller beyond a round trip, ms", late, ALLOWED * 1e3)
        store_costs(f"{folder}/costs", 20 if smoke else 500)


def fleet(server: TokenServer, store: str, processes: int) -> tuple[list[int], list[float]]:
    """Requests for each moment, and the seconds that the slowest process waited."""
    key = Fernet.generate_key().decode()
    command = [sys.executable, "-m", "benchmarks.processes", server.origin, store]
    started = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "STORE_KEY": key},
        )
        for _ in range(processes)
    ]  # fmt: skip

    def heard() -> list[float]:
        return [float(p.stdout.readline()) for p in started if p.stdout]

    heard()  # ready
    moment = SYSTEM_CLOCK.now() + 0.5
    for process in started:
        assert process.stdin is not None
        process.stdin.write(f"{moment}\n")
        process.stdin.flush()
    counts, seconds = [server.count], []
    for _ in range(2):
        seconds.append(max(heard()))
        counts.append(server.count)
    for process in started:
        process.wait()
    return [b - a for a, b in itertools.pairwise(counts)], seconds


def child(origin: str, folder: str) -> None:
    """One process: asks at the moment it is told, and once more when the token has ended."""
    server = TokenServer(origin)
    store = FileTokenStore(folder, keys=os.environ["STORE_KEY"]) if folder else None
    with TokenClient(**settings(server), store=store) as client:
        client.signer.sign(b"warm")
        print(0.0, flush=True)
        moment = float(sys.stdin.readline())
        for _ in range(2):
            time.sleep(max(0.0, moment - SYSTEM_CLOCK.now()))
            began = SYSTEM_CLOCK.now()
            moment = client.token().ends_at
            print(SYSTEM_CLOCK.now() - began, flush=True)


def store_costs(folder: str, calls: int) -> None:
    """What the store's calls cost by themselves."""
    store = FileTokenStore(folder, keys=Fernet.generate_key().decode())
    owner = TokenOwner(
        client_id="x", fhir_base_url="https://x", token_endpoint="", scope="system/*.rs"
    )
    token = AccessToken(
        "y" * 600, expires_in=300, scope="s", requested_scope="s", requested_at=SYSTEM_CLOCK.now()
    )

    def claimed() -> None:
        claim = store.claim(owner, 10)
        assert claim is not None
        claim.release()

    things: dict[str, Callable[[], object]] = {
        "save": lambda: store.save(owner, token),
        "load": lambda: store.load(owner),
        "claim and release": claimed,
    }
    for name, call in things.items():
        call()
        began = time.perf_counter()
        for _ in range(calls):
            call()
        print(f"  {name:<20} {(time.perf_counter() - began) / calls * 1e6:8.0f} µs")


if __name__ == "__main__":
    child(*sys.argv[1:3])
