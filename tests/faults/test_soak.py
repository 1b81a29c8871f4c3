"""Months beside a server, compressed: many clients, tokens of two seconds, threads and tasks.

A minute in CI; `make soak` runs ten. KEYSTAY_TEST_SOAK_SECONDS sets another length.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

import keystay
from keystay.testing import SmartTestServer
from tests.support.client_process import ClientProcess
from tests.support.token_clients import CLIENT_ID

if TYPE_CHECKING:
    from pathlib import Path

    from keystay.signer import Signer

pytestmark = [pytest.mark.usefixtures("no_environment"), pytest.mark.long]

SECONDS = float(os.environ.get("KEYSTAY_TEST_SOAK_SECONDS", "60"))
CLIENTS = 60
PROGRAM = """
import asyncio, contextlib, gc, json, random
import httpx
seconds, count = float(sys.argv[4]), int(sys.argv[5])
signer = keystay.open_signer("file:" + sys.argv[3])
asked, expired, refused, errors = [0], [0], [0], []
until = time.monotonic() + seconds
samples = []

def note(token):
    expired[0] += token.expired
    asked[0] += 1

def ask(clients, fhir):
    while time.monotonic() < until:
        client = random.choice(clients)
        try:
            note(client.token())
            if asked[0] % 50 == 0:
                auth = client.auth()
                refused[0] += fhir.get(sys.argv[1] + "/Patient/123", auth=auth).status_code != 200
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
        time.sleep(0.002)

async def ask_async(shared):
    while time.monotonic() < until:
        try:
            note(await random.choice(shared).token())
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
        await asyncio.sleep(0.002)

def sample():
    while time.monotonic() < until:
        gc.collect()
        with open("/proc/self/statm") as file:
            pages = int(file.read().split()[1])
        samples.append((
            pages * os.sysconf("SC_PAGE_SIZE"),
            len(os.listdir("/proc/self/fd")),
            threading.active_count(),
        ))
        time.sleep(seconds / 50)

async def tasks(clients):
    async with httpx.AsyncClient() as http:
        shared = [client.as_async(http=http) for client in clients]
        await asyncio.gather(*[ask_async(shared) for _ in range(20)])

with httpx.Client() as http, httpx.Client() as fhir, contextlib.ExitStack() as stack:
    clients = [
        stack.enter_context(make(signer=signer, own_signer=False, http=http, retries=3))
        for _ in range(count)
    ]
    threads = [threading.Thread(target=ask, args=(clients, fhir)) for _ in range(6)]
    threads.append(threading.Thread(target=sample))
    [thread.start() for thread in threads]
    asyncio.run(tasks(clients))
    [thread.join() for thread in threads]
print(json.dumps({
    "asked": asked[0], "expired": expired[0], "refused": refused[0], "errors": errors[:5],
    "samples": samples,
}))
"""


@pytest.mark.timeout(SECONDS + 120)
def test_soak(pem_signer: Signer, pem_file: Path) -> None:
    """Thousands of renewals: no expired token, no error, and no memory or descriptor lost."""
    with SmartTestServer(token_lifetime=2) as server:
        server.register(CLIENT_ID, jwks=keystay.JWKSet.from_signers([pem_signer]))
        process = ClientProcess(server, pem_file)
        done = process.run(PROGRAM, str(SECONDS), str(CLIENTS), timeout=SECONDS + 100)
        renewals = len(server.log.of("token"))
        refusals = server.log.refusals
    found = json.loads(done.stdout)
    print(f"{renewals} renewals, {found['asked']} tokens handed out, {found['samples'][::12]}")
    assert [] == found["errors"]
    assert (0, 0, ()) == (found["expired"], found["refused"], refusals)
    # Each client renews once in 1.6 s, and no more often.
    expected = CLIENTS * SECONDS / 1.6
    assert 0.8 * expected < renewals < 1.1 * expected + CLIENTS
    assert found["asked"] > 20 * renewals
    memory, descriptors, threads = zip(*found["samples"], strict=True)
    tenth = len(memory) // 10
    early, late = sorted(memory[2 * tenth : 4 * tenth]), sorted(memory[-2 * tenth :])
    assert late[len(late) // 2] - early[len(early) // 2] < 3 * 2**20
    # Some exchanges are always under way.
    assert sorted(descriptors[-2 * tenth :])[tenth] <= max(descriptors[: 4 * tenth]) + 5
    assert max(descriptors) < 100
    assert max(threads) < 100
