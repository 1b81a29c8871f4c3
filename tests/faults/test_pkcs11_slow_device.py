"""A device that is slow or hangs: callers leave at their deadline, other threads go on.

The shim names itself after a maker of hardware here, and so do its calls go through threads of
their own; what computes in this process (SoftHSM, loaded directly) is called directly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.support.p11shim import ShimmedToken

CKR_OK, CKR_PIN_INCORRECT = 0, 0xA0


@pytest.fixture
def shimmed(shimmed: ShimmedToken) -> ShimmedToken:
    """The shimmed token, with a key."""
    shimmed.token.generate_key("EC:secp256r1", "epic")
    return shimmed


HELPERS = """
import threading, time
def too_late(call, code="backend-timeout", seconds=1.5):
    started = time.monotonic()
    try:
        call()
    except errors.BackendUnavailableError as error:
        assert error.code == code, error
        assert time.monotonic() - started < seconds, time.monotonic() - started
        return error
    raise SystemExit("no timeout")
"""


def test_hanging_signature(shimmed: ShimmedToken) -> None:
    """The caller leaves at the deadline, others sign meanwhile, the session is not used again."""
    output = shimmed.run(
        HELPERS
        + """
shim.vendor("Acme")
with keystay.open_signer(sys.argv[1]) as signer:
    signer.sign(b"warm")
    opened = shim.calls("C_OpenSession")
    shim.delay("C_Sign", 2)
    before = time.monotonic()
    hung = []
    thread = threading.Thread(
        target=lambda: hung.append(too_late(lambda: signer.sign(b"hangs", timeout=0.3)))
    )
    thread.start()
    while shim.calls("C_Sign") < 2:
        time.sleep(0.01)
    shim.delay("C_Sign", 0)
    for _ in range(20):
        signer.sign(b"goes on")
    thread.join()
    print(hung[0])
    assert time.monotonic() - before < 1.5  # it has not returned yet
    assert signer._key._module.workers.hanging == 1
    closed = shim.calls("C_CloseSession")
    while signer._key._module.workers.hanging:
        time.sleep(0.01)
    assert shim.calls("C_CloseSession") == closed + 1
    signer.sign(b"after")
assert shim.sessions() == 0
""",
        shimmed.key_uri("epic"),
    )

    assert "did not return within 0.3 s" in output
    assert "Remedy: " in output


def test_only_session_hangs(shimmed: ShimmedToken) -> None:
    """With max-sessions=1 too: a new one takes the place of the one that hangs."""
    shimmed.run(
        HELPERS
        + """
shim.vendor("Acme")
with keystay.open_signer(sys.argv[1]) as signer:
    shim.delay("C_Sign", 2)
    too_late(lambda: signer.sign(b"hangs", timeout=0.3))
    shim.delay("C_Sign", 0)
    started = time.monotonic()
    signer.sign(b"goes on")
    assert time.monotonic() - started < 1
""",
        shimmed.key_uri("epic", extra="&max-sessions=1"),
    )


def test_number_that_hang_is_bounded(shimmed: ShimmedToken) -> None:
    """When too many calls hang, further ones fail at once; when one returns, they are made."""
    output = shimmed.run(
        HELPERS
        + """
shim.vendor("Acme")
with keystay.open_signer(sys.argv[1]) as signer:
    signer.sign(b"warm")
    shim.delay("C_Sign", 3)
    threads = [
        threading.Thread(target=too_late, args=(lambda: signer.sign(b"hangs", timeout=0.5),))
        for _ in range(16)
    ]
    [t.start() for t in threads], [t.join() for t in threads]
    while signer._key._module.workers.hanging < 16:
        too_late(lambda: signer.sign(b"hangs", timeout=0.1))
    print(too_late(lambda: signer.sign(b"refused"), "backend-hangs", 0.5))
    assert threading.active_count() < 30
    shim.delay("C_Sign", 0)
    while signer._key._module.workers.hanging:
        time.sleep(0.05)
    signer.sign(b"after")
""",
        shimmed.key_uri("epic", extra="&max-sessions=32"),
    )

    assert "16 calls to " in output


OPENING = (
    "C_Initialize", "C_GetInfo", "C_GetSlotList", "C_GetTokenInfo", "C_OpenSession", "C_Login",
    "C_FindObjects", "C_GetAttributeValue", "C_GetMechanismList",
)  # fmt: skip


@pytest.mark.parametrize("function", OPENING)
def test_opening_hangs(shimmed: ShimmedToken, function: str) -> None:
    """Whatever hangs while a key is opened, the deadline holds, and so it does for the next."""
    shimmed.run(
        HELPERS
        + f"""
shim.vendor("Acme")
shim.delay({function!r}, 20)
for _ in range(2):
    started = time.monotonic()
    try:
        keystay.open_signer(sys.argv[1], timeout=0.3)
    except errors.BackendUnavailableError as error:
        print(error)
    else:
        raise SystemExit("opened")
    assert time.monotonic() - started < 3.5, time.monotonic() - started
""",
        shimmed.key_uri("epic"),
    )


def test_login_that_hangs_is_not_repeated(shimmed: ShimmedToken) -> None:
    """Until a login is answered no other is tried; a refusal that comes late is remembered."""
    shimmed.run(
        HELPERS
        + """
shim.vendor("Acme")
shim.fail("C_Login", 0xA0)
shim.delay("C_Login", 1.5)
too_late(lambda: keystay.open_signer(sys.argv[1], timeout=0.3))
for _ in range(3):
    too_late(lambda: keystay.open_signer(sys.argv[1], timeout=0.3), "login-unanswered")
assert shim.calls("C_Login") == 1
time.sleep(1.5)
for _ in range(3):
    try:
        keystay.open_signer(sys.argv[1])
    except errors.LoginError as error:
        assert error.code == "pin-incorrect", error
assert shim.calls("C_Login") == 1
""",
        shimmed.key_uri("epic"),
    )

    assert [CKR_PIN_INCORRECT] == shimmed.logins()


def test_late_signature_is_not_used(shimmed: ShimmedToken) -> None:
    """Called directly, a signature that comes after the deadline is an error all the same."""
    shimmed.run(
        HELPERS
        + """
with keystay.open_signer(sys.argv[1]) as signer:
    assert signer._key._module.computes_here
    signer.sign(b"warm")
    shim.delay("C_Sign", 0.5)
    assert "within 0.2 s" in too_late(lambda: signer.sign(b"late", timeout=0.2)).message
    signer.sign(b"in time")
""",
        shimmed.key_uri("epic"),
    )


def test_close_while_a_call_hangs(shimmed: ShimmedToken) -> None:
    """Closing does not wait for it, and neither does the end of the process."""
    shimmed.run(
        HELPERS
        + """
shim.vendor("Acme")
signer = keystay.open_signer(sys.argv[1])
shim.delay("C_Sign", 30)
too_late(lambda: signer.sign(b"hangs", timeout=0.2))
started = time.monotonic()
signer.close()
assert time.monotonic() - started < 5
""",
        shimmed.key_uri("epic"),
        timeout=20,
    )


def test_nothing_is_serialised(shimmed: ShimmedToken) -> None:
    """Through threads too: with a device that takes 20 ms, eight sign as if each were alone."""
    shimmed.run(
        HELPERS
        + """
shim.vendor("Acme")
with keystay.open_signer(sys.argv[1], verify="first") as signer:
    shim.delay("C_Sign", 0.02)
    def measure(threads, count=10):
        def work():
            for _ in range(count):
                signer.sign(b"message")
        workers = [threading.Thread(target=work) for _ in range(threads)]
        started = time.monotonic()
        [w.start() for w in workers], [w.join() for w in workers]
        return threads * count / (time.monotonic() - started)
    measure(8, 1)
    one, eight = measure(1), measure(8)
    assert eight / one > 5, (one, eight)
""",
        shimmed.key_uri("epic"),
    )


def test_fork(shimmed: ShimmedToken) -> None:
    """A child makes threads of its own; what hangs in the parent does not concern it."""
    shimmed.run(
        HELPERS
        + """
import os
shim.vendor("Acme")
with keystay.open_signer(sys.argv[1]) as signer:
    signer.sign(b"before")
    def ended_well(child):
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    for _ in range(3):
        if not (child := os.fork()):
            os._exit(0 if signer.sign(b"child") else 1)
        signer.sign(b"parent")
        ended_well(child)
    shim.delay("C_Sign", 3)
    too_late(lambda: signer.sign(b"hangs", timeout=0.2))
    shim.delay("C_Sign", 0)
    if not (child := os.fork()):
        os._exit(0 if signer.sign(b"child") else 1)
    ended_well(child)
""",
        shimmed.key_uri("epic"),
    )
