"""Forks at random moments while a thread is in its first calls of keystay; says how children end.

    python fork_in_first_calls.py ROUNDS FORKS TIMEOUT KEY_URI FHIR_BASE CLIENT_ID

Each round is a process in which nothing of keystay but the package is imported yet. Its thread
opens the key, signs, and asks for a token; meanwhile the round forks children that do the same,
some of them before the thread has begun, some after it is done. A child works, or fails with an
error of ours by its deadline; one that has not ended TIMEOUT + 5 seconds after it was forked hangs.

The thread ends after the last fork. OpenSSL takes a lock of its own when a thread ends that has
used it, after Python's last word: a fork at that very moment is nothing that Python can wait for.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time

import keystay

GRACE = 5.0


def first_calls(key: str, base: str, client_id: str, timeout: float) -> None:
    """Everything that a new process does, imports included."""
    signer = keystay.open_signer(key, timeout=timeout)
    signer.sign(b"message")
    client = keystay.TokenClient(
        fhir_base_url=base,
        client_id=client_id,
        signer=signer,
        scope="system/Patient.rs",
        allow_insecure_loopback=True,
        timeout=timeout,
        retries=0,
        signer_retries=0,
    )
    assert not client.token().expired


def child(key: str, base: str, client_id: str, timeout: float) -> int:
    """How a child ends: 0 it worked, 3 an error of ours in time, 1 anything else."""
    try:
        first_calls(key, base, client_id, timeout)
    except BaseException as error:  # noqa: BLE001 - whatever it is, it is told
        if isinstance(error, keystay.KeystayError):
            print(f"error in a child: {error.code}", file=sys.stderr, flush=True)
            return 3
        sys.excepthook(type(error), error, error.__traceback__)
        return 1
    return 0


def one_round(forks: int, timeout: float, span: float, arguments: tuple[str, str, str]) -> int:
    """Fork at random moments of a span that is a bit longer than the first calls take."""
    forked = threading.Event()

    def work() -> None:
        first_calls(*arguments, timeout)
        forked.wait()  # see above

    thread = threading.Thread(target=work)
    moments = sorted(random.uniform(0.0, span) for _ in range(forks))
    children: dict[int, float] = {}
    began = time.monotonic()
    thread.start()
    for moment in moments:
        time.sleep(max(0.0, began + moment - time.monotonic()))
        pid = os.fork()
        if pid == 0:
            os._exit(child(*arguments, timeout))
        children[pid] = time.monotonic() + timeout + GRACE
    forked.set()
    worst = 0
    for pid, until in children.items():
        worst = max(worst, ending(pid, until))
    thread.join()
    return worst


def ending(pid: int, until: float) -> int:
    """A child's exit status; 9 where it hung and was killed."""
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > until:
            os.kill(pid, signal.SIGABRT)  # its stack goes to stderr
            os.waitpid(pid, 0)
            return 9
        time.sleep(0.005)


def main() -> int:
    """Run the rounds, each in a process of its own; print how many children there were."""
    import faulthandler

    faulthandler.enable()
    rounds, forks, timeout = int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    arguments = (sys.argv[4], sys.argv[5], sys.argv[6])
    random.seed(int(os.environ.get("KEYSTAY_TEST_SEED", "1")))
    began = time.monotonic()
    span = 0.0
    for number in range(rounds + 1):
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            random.seed(number)
            if number == 0:  # to see how long they take
                first_calls(*arguments, timeout)
                os._exit(0)
            os._exit(one_round(forks, timeout, span, arguments))
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if number == 0:
            span = 1.2 * (time.monotonic() - began)
        if code not in (0, 3):
            print(f"round {number}: {code}", flush=True)
            return 1
    print(f"{rounds * forks} children ended well; first calls take {span / 1.2:.2f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
