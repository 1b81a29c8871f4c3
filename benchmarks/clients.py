"""Two thousand token clients in one process, none given an HTTP client."""

from __future__ import annotations

import gc
import statistics
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Goal
from benchmarks.renewals import LocalKey
from benchmarks.token_server import TokenServer, running
from keystay import TokenClient
from keystay.http.library import own_library
from keystay.signer import Signer

CLIENTS = 2000


def run(*, smoke: bool) -> Iterator[Goal]:
    """What making them costs, and what is there besides once each has a token."""
    count = 50 if smoke else CLIENTS
    signer = Signer(LocalKey(), verify="first")
    with running(0.0) as server:
        made(server, signer, 10)[0].token()  # what the first one imports is not theirs
        times = [seconds(server, signer, count) for _ in range(2 if smoke else 7)]
        each = statistics.median(times) / count
        print(f"  making one          {each * 1e6:8.0f} µs CPU")
        gc.collect()
        tracemalloc.start()
        clients = made(server, signer, count)
        bare = tracemalloc.get_traced_memory()[0] / count
        tracemalloc.stop()
        print(f"  memory of one       {bare:8.0f} bytes")
        before = resident()
        for client in clients:
            client.token()
        gc.collect()
        grown = resident() - before
        library = own_library()
        found = sum(isinstance(thing, library.Client) for thing in gc.get_objects())
        print(f"  after a token each  {grown / count:8.0f} bytes more of the process for each")
        print(f"  HTTP clients        {found:8d}")
        yield Goal("CPU to make a token client, µs", each * 1e6, 200)
        yield Goal("memory of a token client, KB", bare / 1024, 8)
        yield Goal("HTTP clients after a token each", found, 1)


def made(server: TokenServer, signer: Signer, count: int) -> list[TokenClient]:
    """Clients of as many FHIR servers."""
    return [
        TokenClient(
            fhir_base_url=f"https://ehr-{number}.example.org/fhir/r4",
            client_id=f"nightly-export-{number}",
            signer=signer,
            scope="system/Patient.rs system/Observation.rs",
            token_endpoint=server.token_endpoint,
            allow_insecure_loopback=True,
        )
        for number in range(count)
    ]


def seconds(server: TokenServer, signer: Signer, count: int) -> float:
    """CPU seconds of this process for making so many."""
    gc.collect()
    began = time.process_time()
    clients = made(server, signer, count)
    spent = time.process_time() - began
    assert len(clients) == count
    return spent


def resident() -> int:
    """Bytes of this process in memory, as Linux counts them."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096
