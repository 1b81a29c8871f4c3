"""Signatures by SoftHSM: keystay against a C program on the same module, token and login."""

from __future__ import annotations

import os
import secrets
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.measure import Goal
from benchmarks.native import CKM_ECDSA, CKM_RSA_PKCS, RawDevice
from keystay import open_signer, signatures
from keystay.backends import BackendContext, GeneratesKeys
from keystay.backends.registry import default_registry
from keystay.key_uri import parse
from keystay.signer import Signer

MODULE = "/usr/lib/softhsm/libsofthsm2.so"
TOKEN = "keystay-benchmark"
SAMPLE = b"x" * 300


def run(*, smoke: bool) -> Iterator[Goal]:
    """One thread and two, verifying the first signature of each session and every one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        query = make_token(folder)
        for key_type, algorithm, mechanism in (
            ("RSA-3072", "RS384", CKM_RSA_PKCS),
            ("P-384", "ES384", CKM_ECDSA),
        ):
            uri = f"pkcs11:token={TOKEN};object={key_type}?{query}"
            generate(uri, key_type)
            with (
                open_signer(uri, verify="first") as first,
                open_signer(uri, verify="always") as always,
            ):
                raw = RawDevice(folder, MODULE, TOKEN)
                digest = first_digest(algorithm)

                def device(count: int, threads: int) -> float:
                    return raw.seconds(key_type, mechanism, digest, count, threads)  # noqa: B023

                yield from compare(key_type, device, first, always, smoke=smoke)


def compare(
    key_type: str,
    device: Callable[[int, int], float],
    first: Signer,
    always: Signer,
    *,
    smoke: bool,
) -> Iterator[Goal]:
    """Interleaved rounds of C and keystay."""
    count, rounds = (5, 2) if smoke else (60, 15)
    contenders: dict[str, Callable[[], float]] = {
        "C, 1 thread": lambda: device(count, 1),
        "keystay, 1 thread, first": lambda: signed(first, count, 1),
        "keystay, 1 thread, always": lambda: signed(always, count, 1),
        "C, 2 threads": lambda: device(count, 2),
        "keystay, 2 threads, first": lambda: signed(first, count, 2),
        "keystay, 2 threads, always": lambda: signed(always, count, 2),
    }
    found: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(rounds + 1):
        for name, call in contenders.items():
            spent = call()
            if number:  # the first round warms up
                found[name].append(spent)

    def speed(name: str, base: str) -> float:
        """Signatures per second as a multiple of `base`: the median over the rounds."""
        return statistics.median(b / a for a, b in zip(found[name], found[base], strict=True))

    print(f"\n {key_type}")
    for name, seconds in found.items():
        threads = 2 if "2 threads" in name else 1
        rate = count * threads / statistics.median(seconds)
        base = f"C, {threads} thread{'s' if threads == 2 else ''}"
        print(f"  {name:<28} {rate:8.0f} /s   {speed(name, base):.3f} × {base}")
    yield Goal(
        f"{key_type}: 1 thread ÷ C", speed("keystay, 1 thread, first", "C, 1 thread"), 0.95, True
    )
    yield Goal(
        f"{key_type}: 2 threads ÷ C",
        speed("keystay, 2 threads, first", "C, 2 threads"),
        0.90,
        True,
    )


def signed(signer: Signer, count: int, threads: int) -> float:
    """Seconds that `threads` Python threads take for `count` signatures each."""

    def work() -> None:
        for _ in range(count):
            signer.sign(SAMPLE)

    workers = [threading.Thread(target=work) for _ in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - start


def first_digest(algorithm: str) -> bytes:
    """What the device is given: the digest, for RSA in a DigestInfo."""
    from keystay.algorithms import get

    digest = get(algorithm).digest(SAMPLE) or b""
    return signatures.digest_info(digest, algorithm) if algorithm == "RS384" else digest


def make_token(folder: Path) -> str:
    """Make a SoftHSM token; return the query of its key URIs."""
    pin = secrets.token_hex(8)
    (folder / "tokens").mkdir()
    conf, pin_file = folder / "softhsm2.conf", folder / "pin"
    conf.write_text(f"directories.tokendir = {folder}/tokens\nlog.level = ERROR\n")
    pin_file.touch(mode=0o600)
    pin_file.write_text(pin)
    os.environ["SOFTHSM2_CONF"] = str(conf)
    command = ["softhsm2-util", "--init-token", "--free", "--label", TOKEN, "--pin", pin]
    subprocess.run(
        [*command, "--so-pin", secrets.token_hex(8)], check=True, stdout=subprocess.DEVNULL
    )
    return f"module-path={MODULE}&pin-source=file:{pin_file}"


def generate(uri: str, key_type: str) -> None:
    """Generate a key in the token."""
    store = default_registry().open_store(parse(uri), BackendContext())
    assert isinstance(store, GeneratesKeys)
    store.generate_key(key_type)
    store.close()
