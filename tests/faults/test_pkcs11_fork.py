"""After a fork, parent and child both go on signing, and neither spends a PIN attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.p11kit import P11KitServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.p11shim import ShimmedToken
    from tests.support.softhsm import SoftHSM

CKR_OK = 0
PRELUDE = """
import os, sys, threading, warnings
warnings.simplefilter("error")
import keystay

def fork(work):
    if child := os.fork():
        return child
    try:
        work()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)

def ended_well(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def check(signer, message):
    keystay.signatures.verify(
        signer.public_key, signer.algorithm, message, signer.sign(message)
    )
"""
AFTER_FIRST_USE = (
    PRELUDE
    + """
with keystay.open_signer(sys.argv[1]) as signer:
    check(signer, b"before")
    def work():
        for _ in range(20):
            check(signer, b"child")
        ended_well(fork(lambda: check(signer, b"grandchild")))
        signer.close()
    child = fork(work)
    for _ in range(20):
        check(signer, b"parent")
    ended_well(child)
    check(signer, b"parent, after the child")
"""
)
UNDER_LOAD = (
    PRELUDE
    + """
signer = keystay.open_signer(sys.argv[1])
stop = threading.Event()
failures = []
def load():
    while not stop.is_set():
        try:
            check(signer, b"load")
        except BaseException as error:
            failures.append(error)
            raise
threads = [threading.Thread(target=load) for _ in range(4)]
[t.start() for t in threads]
for _ in range(15):
    ended_well(fork(lambda: [check(signer, b"child") for _ in range(3)]))
stop.set()
[t.join() for t in threads]
assert not failures, failures
signer.close()
"""
)
WITHOUT_USE = (
    PRELUDE
    + """
signer = keystay.open_signer(sys.argv[1])
ended_well(fork(lambda: signer.close()))
ended_well(fork(lambda: None))
check(signer, b"parent")
signer.close()
"""
)
INSIDE_A_LEASE = (
    PRELUDE
    + """
from keystay.backends import Deadline, SignRequest
from keystay.algorithms import get
signer = keystay.open_signer(sys.argv[1])
request = SignRequest(get("ES256"), b"message", Deadline.after(30))
with signer._key.lease(request.deadline) as key:
    key.sign(request)
    child = fork(lambda: (key.sign(request), check(signer, b"child")))
    key.sign(request)
    ended_well(child)
check(signer, b"parent")
signer.close()
"""
)
SCENARIOS = {
    "after first use": AFTER_FIRST_USE,
    "under load": UNDER_LOAD,
    "without use": WITHOUT_USE,
    "inside a lease": INSIDE_A_LEASE,
}


@pytest.fixture
def token(fresh_softhsm: SoftHSM) -> SoftHSM:
    """A token with a key."""
    fresh_softhsm.generate_key("EC:secp256r1", "epic")
    return fresh_softhsm


@pytest.fixture
def remoted(token: SoftHSM) -> Iterator[P11KitServer]:
    """The token in another process."""
    with P11KitServer(token) as server:
        yield server


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_direct(token: SoftHSM, scenario: str) -> None:
    """SoftHSM in this process: signatures of both verify, nobody crashes or hangs."""
    done = token.run_python(scenario, token.key_uri("epic"))

    assert "" == done.stderr


@pytest.mark.parametrize("scenario", SCENARIOS.values(), ids=SCENARIOS)
def test_remoted(remoted: P11KitServer, scenario: str) -> None:
    """Through p11-kit, whose client notices the fork."""
    remoted.token.env.update(remoted.env)

    done = remoted.token.run_python(scenario, remoted.key_uri("epic"))

    assert "" == done.stderr


def test_logins(shimmed: ShimmedToken) -> None:
    """Each process logs in once, with a PIN that is asked for once."""
    shimmed.run(
        """
        import os
        asked = []
        def provide(reference, purpose):
            asked.append(purpose)
            return open(sys.argv[2]).read().strip()
        signer = keystay.open_signer(sys.argv[1], secrets=provide)
        signer.sign(b"before")
        if not (child := os.fork()):
            signer.sign(b"child"), signer.sign(b"child")
            os._exit(0 if asked == ["the PIN of token keystay-fresh"] else 1)
        signer.sign(b"parent")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """,
        shimmed.key_uri("epic").partition("&pin-source")[0],
        str(shimmed.token.pin_file),
    )

    assert [CKR_OK, CKR_OK] == shimmed.logins()


def test_fork_without_hooks(token: SoftHSM) -> None:
    """A fork made by C code, which runs no hooks, is noticed at the next use."""
    source = (
        PRELUDE
        + """
import ctypes
signer = keystay.open_signer(sys.argv[1])
check(signer, b"before")
os.fork = ctypes.PyDLL(None).fork
def work():
    check(signer, b"child")
ended_well(fork(work))
"""
    )
    token.run_python(source, token.key_uri("epic"))


def test_refused_after_a_fork(shimmed: ShimmedToken) -> None:
    """With `after_fork = "refuse"` the child is told, at once, and does not touch the module."""
    shimmed.run(
        """
        import os, time
        settings = {"pkcs11": {"after_fork": "refuse"}}
        signer = keystay.open_signer(sys.argv[1], backends=settings)
        signer.sign(b"before")

        def refused(use):
            try:
                use()
            except keystay.errors.BackendUnavailableError as error:
                return error.code == "fork-unsupported" and "after the fork" in error.hint
            return False

        if not (child := os.fork()):
            told = refused(lambda: signer.sign(b"child")) and refused(signer.health)
            # Another key of the same module is no way round it.
            told = told and refused(lambda: keystay.open_signer(sys.argv[1], backends=settings))
            signer.close()
            os._exit(0 if told else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        signer.sign(b"parent, after the child")
        """,
        shimmed.key_uri("epic"),
    )

    assert [CKR_OK] == shimmed.logins()


def test_prefork_workers(token: SoftHSM) -> None:
    """Four workers forked from one parent that signed, as gunicorn does."""
    source = (
        PRELUDE
        + """
signer = keystay.open_signer(sys.argv[1])
check(signer, b"parent")
children = [fork(lambda: [check(signer, b"worker") for _ in range(50)]) for _ in range(4)]
for child in children:
    ended_well(child)
signer.close()
"""
    )
    token.run_python(source, token.key_uri("epic"))


def test_processes_open_at_once(token: SoftHSM) -> None:
    """Four processes log in at once: SoftHSM hides a token that another one is writing to."""
    source = (
        PRELUDE
        + """
def work():
    for _ in range(5):
        with keystay.open_signer(sys.argv[1]) as signer:
            check(signer, b"message")
for child in [fork(work) for _ in range(4)]:
    ended_well(child)
"""
    )
    token.run_python(source, token.key_uri("epic"))
