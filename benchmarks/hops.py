"""What it costs to sign in another thread, for an event loop's sake or for a deadline's."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import anyio
import anyio.lowlevel
import anyio.to_thread
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from benchmarks.measure import Goal, Times, interleave
from keystay.concurrency.clock import Deadline
from keystay.concurrency.threads import WorkerThreads

MESSAGE = b"x" * 300
DEVICE_SECONDS = 0.001


def run(*, smoke: bool) -> Iterator[Goal]:
    """The hops alone, then with a P-384 signature and with a device that takes 1 ms."""
    workers = WorkerThreads("the benchmark")
    deadline = Deadline.after(3600)
    key, algorithm = ec.generate_private_key(ec.SECP384R1()), ec.ECDSA(hashes.SHA384())
    sleep = ctypes.CDLL(None).usleep

    def nothing() -> None:
        return None

    def sign() -> bytes:
        return key.sign(MESSAGE, algorithm)

    def device() -> None:
        sleep(int(DEVICE_SECONDS * 1e6))

    print("\n A thread that waits, until its deadline at most")
    calls, rounds = (20, 2) if smoke else (500, 15)
    times = interleave(
        {
            "nothing, directly": nothing,
            "nothing, by a worker": lambda: workers.call_with_deadline(nothing, deadline),
            "1 ms, directly": device,
            "1 ms, by a worker": lambda: workers.call_with_deadline(device, deadline),
        },
        calls=calls,
        rounds=rounds,
    )
    print(times.table("1 ms, directly"))
    ratio = times.ratio("1 ms, by a worker", "1 ms, directly")
    yield Goal("1 ms by a worker ÷ directly", ratio, 1.1)

    for backend in ("asyncio", "trio"):
        print(f"\n {backend}: a task that waits, the loop free meanwhile")
        times = anyio.run(partial(_measure, workers, nothing, sign, smoke=smoke), backend=backend)
        print(times.table("nothing, by anyio"))
        ratio = times.ratio("P-384, by a worker", "P-384, by anyio")
        yield Goal(f"{backend}: P-384 by a worker ÷ by anyio", ratio, 1.05)
        ratio = times.ratio("P-384, on the loop", "P-384, by a worker")
        yield Goal(f"{backend}: P-384 on the loop ÷ by a worker", ratio, 0.95)


async def _measure(
    workers: WorkerThreads, nothing: Callable[[], None], sign: Callable[[], bytes], *, smoke: bool
) -> Times:
    deadline = Deadline.after(3600)

    async def on_the_loop(call: Callable[[], object]) -> None:
        await anyio.lowlevel.checkpoint()
        call()

    def by_anyio(call: Callable[[], object]) -> Awaitable[object]:
        return anyio.to_thread.run_sync(call, abandon_on_cancel=True)

    contenders: dict[str, Callable[[], Awaitable[object]]] = {
        "nothing, on the loop": lambda: on_the_loop(nothing),
        "nothing, by anyio": lambda: by_anyio(nothing),
        "nothing, by a worker": lambda: workers.call_with_deadline_async(nothing, deadline),
        "P-384, on the loop": lambda: on_the_loop(sign),
        "P-384, by anyio": lambda: by_anyio(sign),
        "P-384, by a worker": lambda: workers.call_with_deadline_async(sign, deadline),
    }
    calls, rounds = (10, 2) if smoke else (200, 15)
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, call in contenders.items():
            start = time.perf_counter()
            for _ in range(calls):
                await call()
            if number:  # the first round warms up
                found[name].append((time.perf_counter() - start) / calls)
    return Times(found)
