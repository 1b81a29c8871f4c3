"""The client under examination: gets tokens on command, in a process of its own.

The environment describes the client (KEYSTAY_…). Commands on stdin, a line each:

    start   get one token after the other
    stop    pause; answers with the number of tokens so far
    close   close the token client and its signer
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import threading
from dataclasses import replace
from pathlib import Path

PATIENCE = 120.0
"""Seconds for a signature or an exchange, a dump in the middle of it included."""


def main() -> None:
    # Others may look at this process, whatever Yama says: PR_SET_PTRACER, PR_SET_PTRACER_ANY.
    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)
    with contextlib.suppress(OSError):  # the core dump is to hold every kind of mapping
        Path("/proc/self/coredump_filter").write_text("0x7f")

    import keystay
    from keystay.http.settings import HttpSettings

    # This process stands still for as long as its memory takes to be dumped.
    patient = replace(keystay.load_config(), http=HttpSettings(timeout=PATIENCE))
    client = keystay.TokenClient.from_config(config=patient)
    client.request_token()
    print("ready", flush=True)
    work, count = threading.Event(), 0
    idle = threading.Event()

    def get_tokens() -> None:
        nonlocal count
        while True:
            if not work.is_set():
                idle.set()
                work.wait()
            client.request_token()
            count += 1

    threading.Thread(target=get_tokens, daemon=True).start()
    for line in sys.stdin:
        if line == "start\n":
            idle.clear()
            work.set()
        elif line == "stop\n":
            work.clear()
            idle.wait()
        elif line == "close\n":
            client.close()
        print(count, flush=True)


if __name__ == "__main__":
    main()
