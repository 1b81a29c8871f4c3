"""A device that takes 1 ms for each signature: do eight threads wait for it, or for each other?"""

from __future__ import annotations

import os
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Goal
from benchmarks.native import compiled
from benchmarks.softhsm import MODULE, TOKEN, generate, make_token, signed
from keystay import open_signer


def run(*, smoke: bool) -> Iterator[Goal]:
    """One thread and eight, on a stub module."""
    count, rounds = (10, 2) if smoke else (400, 7)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        query = make_token(folder)
        os.environ["P11SLEEP_MODULE"] = MODULE
        slow = compiled(folder, "p11sleep")
        uri = f"pkcs11:token={TOKEN};object=slow?{query.replace(MODULE, str(slow))}"
        generate(uri, "RSA-2048")
        with open_signer(uri, verify="first") as signer:
            signed(signer, 2, 8)  # every session has had its first signature
            pairs = [(signed(signer, count, 1), signed(signer, count, 8)) for _ in range(rounds)]
    one, eight = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"  1 thread   {count / one:8.0f} /s")
    print(f"  8 threads  {8 * count / eight:8.0f} /s")
    yield Goal(
        "8 threads ÷ 1", statistics.median(8 * one / eight for one, eight in pairs), 7.5, True
    )
