"""Twenty greenlets share one token client of a program that gevent has patched.

python gevent_client.py FHIR_BASE CLIENT_ID PEM_FILE
"""

from __future__ import annotations

from gevent import monkey

monkey.patch_all()

import sys  # noqa: E402

import gevent  # noqa: E402

import keystay  # noqa: E402


def main() -> None:
    """Print how many tokens they got, and whether other greenlets ran meanwhile."""
    beats = 0

    def beat() -> None:
        nonlocal beats
        while True:
            beats += 1
            gevent.sleep(0.001)

    heart = gevent.spawn(beat)
    with keystay.open_signer(f"file:{sys.argv[3]}") as signer:
        client = keystay.TokenClient(
            fhir_base_url=sys.argv[1],
            client_id=sys.argv[2],
            signer=signer,
            scope="system/Patient.rs",
            allow_insecure_loopback=True,
        )
        callers = [gevent.spawn(client.token) for _ in range(20)]
        gevent.joinall(callers, timeout=30, raise_error=True)
        tokens = {caller.value.value for caller in callers}
        client.close()
    heart.kill()
    print(len(tokens), beats > 1)


if __name__ == "__main__":
    main()
