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


HELPERS = """
import threading, time
def too_late(call, code="backend-timeout"):
    try:
        call()
    except errors.BackendUnavailableError as error:
        assert error.code == code, error
        return error
    raise SystemExit("no timeout")
def wait_until(condition):
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)
"""


def test_hanging_signature(shimmed: ShimmedToken) -> None:
    """The caller leaves at the deadline, others sign meanwhile, the session is not used again."""
    output = shimmed.run(
        HELPERS
        + """
shim.vendor("Acme")
with keystay.open_signer(sys.argv[1]) as signer:
    signer.sign(b"warm")
    shim.hang("C_Sign", 1)
    print(too_late(lambda: signer.sign(b"hangs", timeout=0.3)))
    for _ in range(20):
        signer.sign(b"goes on")
    workers = signer._key._module.workers
    assert workers.abandoned == 1
    closed = shim.calls("C_CloseSession")
    shim.release()
    wait_until(lambda: not workers.abandoned)
    assert shim.calls("C_CloseSession") == closed + 1
    signer.sign(b"after")
assert shim.sessions() == 0
""",
        shimmed.key_uri("epic"),
    )

    assert "did not return within 0.3 s" in output
    assert "Remedy: " in output


def test_closing_a_lost_session_hangs(shimmed: ShimmedToken) -> None:
    """The deadline holds all the same, and the next call is made."""
    shimmed.run(
        HELPERS
        + """
shim.vendor("Acme")
with keystay.open_signer(sys.argv[1]) as signer:
    signer.sign(b"warm")
    shim.fail("C_SignInit", 0xB3, 1)
    shim.hang("C_CloseSession", 1)
    started = time.monotonic()
    too_late(lambda: signer.sign(b"lost", timeout=0.3))
    assert time.monotonic() - started < 1.5
    signer.sign(b"goes on")
    shim.release()
    wait_until(lambda: not signer._key._module.workers.abandoned)
assert shim.sessions() == 0
""",
        shimmed.key_uri("epic"),
    )


def test_only_session_hangs(shimmed: ShimmedToken) -> None:
    """With max-sessions=1 too: a new one takes the place of the one that hangs."""
    shimmed.run(
        HELPERS
        + """
shim.vendor("Acme")
with keystay.open_signer(sys.argv[1]) as signer:
    shim.hang("C_Sign", 1)
    too_late(lambda: signer.sign(b"hangs", timeout=0.3))
    signer.sign(b"goes on")
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
    shim.hang("C_Sign")
    threads = [
        threading.Thread(target=too_late, args=(lambda: signer.sign(b"hangs", timeout=0.3),))
        for _ in range(16)
    ]
    [t.start() for t in threads], [t.join() for t in threads]
    workers = signer._key._module.workers
    while workers.abandoned < 16:
        too_late(lambda: signer.sign(b"hangs", timeout=0.1))
    print(too_late(lambda: signer.sign(b"refused", timeout=60), "backend-hangs"))
    assert threading.active_count() < 30
    shim.hang("C_Sign", 0)
    shim.release()
    wait_until(lambda: not workers.abandoned)
    signer.sign(b"after")
""",
        shimmed.key_uri("epic", extra="&max-sessions=32"),
    )

    assert "16 calls to " in output


OPENING = ("C_Initialize", "C_GetSlotList", "C_OpenSession", "C_Login", "C_FindObjects")


@pytest.mark.parametrize("function", OPENING)
def test_opening_hangs(shimmed: ShimmedToken, function: str) -> None:
    """Whatever hangs while a key is opened, the deadline holds, and so it does for the next."""
    shimmed.run(
        HELPERS
        + f"""
shim.vendor("Acme")
shim.hang({function!r})
for _ in range(2):
    try:
        keystay.open_signer(sys.argv[1], timeout=0.3)
    except errors.BackendUnavailableError as error:
        print(error)
    else:
        raise SystemExit("opened")
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
shim.hang("C_Login")
too_late(lambda: keystay.open_signer(sys.argv[1], timeout=0.3))
for _ in range(3):
    too_late(lambda: keystay.open_signer(sys.argv[1], timeout=0.3), "login-unanswered")
assert shim.calls("C_Login") == 1
from keystay_pkcs11 import login
shim.release()
wait_until(lambda: not login.unanswered)
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


@pytest.mark.parametrize("vendor", ["Acme", "SoftHSM"])
def test_event_loop_stays_free(shimmed: ShimmedToken, vendor: str) -> None:
    """While a signature takes its time, tasks of asyncio and trio run on, and deadlines hold."""
    shimmed.run(
        f"""
        import anyio
        shim.vendor({vendor!r})
        with keystay.open_signer(sys.argv[1]) as signer:
            assertion = keystay.ClientAssertion(client_id="x", signer=signer)
            async def work():
                shim.delay("C_Sign", 0.3)
                beats = 0
                async def beat():
                    nonlocal beats
                    while True:
                        beats += 1
                        await anyio.sleep(0.005)
                async with anyio.create_task_group() as group:
                    group.start_soon(beat)
                    await assertion.build_async("https://ehr.example.org/token")
                    assert beats > 5, beats
                    shim.hang("C_Sign", 1)
                    try:
                        await signer.sign_async(b"message", timeout=0.05)
                    except errors.BackendTimeoutError:
                        shim.release()
                    else:
                        raise SystemExit("signed")
                    group.cancel_scope.cancel()
            for backend in ("asyncio", "trio"):
                anyio.run(work, backend=backend)
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
shim.hang("C_Sign")
too_late(lambda: signer.sign(b"hangs", timeout=0.2))
signer.close()
""",
        shimmed.key_uri("epic"),
        timeout=20,
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
    shim.hang("C_Sign", 1)
    too_late(lambda: signer.sign(b"hangs", timeout=0.2))
    if not (child := os.fork()):
        os._exit(0 if signer.sign(b"child") else 1)
    ended_well(child)
""",
        shimmed.key_uri("epic"),
    )
