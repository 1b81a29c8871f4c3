"""Many threads on one token: no crash, no wrong signature, no waiting for each other."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

import pytest

from tests.support.p11kit import P11KitServer

if TYPE_CHECKING:
    from tests.support.p11shim import ShimmedToken
    from tests.support.softhsm import SoftHSM

SOAK = """
import sys, threading, warnings
warnings.simplefilter("error")
import keystay
from keystay.signatures import verify
uri, threads, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
made, failures, lock = [], [], threading.Lock()
with keystay.open_signer(uri, verify="first") as signer:
    def work(number):
        mine = []
        try:
            for i in range(count):
                message = b"%d %d" % (number, i)
                mine.append((message, signer.sign(message)))
        except BaseException as error:
            failures.append(error)
        with lock:
            made.extend(mine)
    workers = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    [w.start() for w in workers], [w.join() for w in workers]
    for message, signature in made:
        verify(signer.public_key, signer.algorithm, message, signature)
assert not failures, failures
assert len(made) == threads * count
print("verified", len(made))
"""


def test_soak_direct(fresh_softhsm: SoftHSM) -> None:
    """8 threads × 500 signatures in one process on SoftHSM, all verified."""
    fresh_softhsm.generate_key("EC:secp256r1", "epic")

    done = fresh_softhsm.run_python(SOAK, fresh_softhsm.key_uri("epic"), "8", "500", timeout=110)

    assert "verified 4000\n" == done.stdout


def test_soak_rsa(fresh_softhsm: SoftHSM) -> None:
    """The same with RSA, fewer."""
    fresh_softhsm.generate_key("rsa:2048", "epic")

    done = fresh_softhsm.run_python(SOAK, fresh_softhsm.key_uri("epic"), "8", "100")

    assert "verified 800\n" == done.stdout


def test_soak_remoted(fresh_softhsm: SoftHSM) -> None:
    """The same through p11-kit, whose threads share one connection."""
    fresh_softhsm.generate_key("EC:secp256r1", "epic")
    with P11KitServer(fresh_softhsm) as server:
        fresh_softhsm.env.update(server.env)

        done = fresh_softhsm.run_python(SOAK, server.key_uri("epic"), "8", "200")

    assert "verified 1600\n" == done.stdout


@pytest.mark.parametrize("vendor", ["SoftHSM", "Acme"])
def test_nothing_is_serialised(shimmed: ShimmedToken, vendor: str) -> None:
    """A device that takes half a second: eight threads take no longer, none after another.

    Called directly as well as through threads of its own, as a maker of hardware is.
    """
    shimmed.run(
        f"""
        shim.vendor({vendor!r})
        import threading, time
        with keystay.open_signer(sys.argv[1], verify="first") as signer:
            signer.sign(b"message")
            shim.delay("C_Sign", 0.5)
            workers = [threading.Thread(target=signer.sign, args=(b"message",)) for _ in range(8)]
            started = time.monotonic()
            [w.start() for w in workers], [w.join() for w in workers]
            took = time.monotonic() - started
            assert 0.5 <= took < 1, took  # two after each other take a second
        """,
        shimmed.key_uri("epic"),
    )


def test_other_threads_run_python_meanwhile(shimmed: ShimmedToken) -> None:
    """A slow signature holds up no other Python code."""
    shimmed.run(
        """
        import threading, time
        with keystay.open_signer(sys.argv[1]) as signer:
            shim.delay("C_Sign", 0.5)
            thread = threading.Thread(target=signer.sign, args=(b"slow",))
            thread.start()
            ticks = 0
            while thread.is_alive():
                time.sleep(0.01)
                ticks += 1
            assert ticks > 20, ticks
        """,
        shimmed.key_uri("epic"),
    )


def test_sessions_are_bounded(shimmed: ShimmedToken) -> None:
    """No more sessions than max_sessions and the one that holds the login."""
    shimmed.run(
        """
        import threading
        with keystay.open_signer(sys.argv[1]) as signer:
            shim.delay("C_Sign", 0.01)
            threads = [threading.Thread(target=signer.sign, args=(b"x",)) for _ in range(12)]
            [t.start() for t in threads], [t.join() for t in threads]
            assert shim.calls("C_OpenSession") - shim.calls("C_CloseSession") == 4
        """,
        shimmed.key_uri("epic", extra="&max-sessions=3"),
    )


def test_pool_exhausted(shimmed: ShimmedToken) -> None:
    """Waiting ends at the deadline and says how many sessions are in use."""
    output = shimmed.run(
        """
        import threading, time
        with keystay.open_signer(sys.argv[1]) as signer:
            signer.sign(b"warm")
            shim.delay("C_Sign", 1.5)
            slow = threading.Thread(target=signer.sign, args=(b"slow",))
            slow.start()
            time.sleep(0.1)
            started = time.monotonic()
            try:
                signer.sign(b"waits", timeout=0.3)
            except errors.BackendTimeoutError as error:
                print(error)
                assert 0.25 < time.monotonic() - started < 1
            else:
                raise SystemExit("signed")
            slow.join()
            signer.sign(b"after")
        """,
        shimmed.key_uri("epic", extra="&max-sessions=1"),
    )

    assert "1 are in use here, 1 are allowed" in output
    assert "max_sessions" in output


def test_token_with_few_sessions(shimmed: ShimmedToken) -> None:
    """CKR_SESSION_COUNT: eight threads make do with the two sessions the token has left."""
    shimmed.run(
        """
        import threading
        shim.session_limit(3)
        failures = []
        def work(signer):
            try:
                for _ in range(20):
                    signer.sign(b"message")
            except BaseException as error:
                failures.append(error)
        with keystay.open_signer(sys.argv[1]) as signer:
            threads = [threading.Thread(target=work, args=(signer,)) for _ in range(8)]
            [t.start() for t in threads], [t.join() for t in threads]
        assert not failures, failures
        """,
        shimmed.key_uri("epic"),
    )


def test_token_with_one_session(shimmed: ShimmedToken) -> None:
    """The session that holds the login then signs too, for eight threads and two signers."""
    shimmed.run(
        """
        import threading
        shim.session_limit(1)
        failures = []
        def work(signer):
            try:
                for _ in range(10):
                    signer.sign(b"message")
            except BaseException as error:
                failures.append(error)
        for _ in range(2):
            with keystay.open_signer(sys.argv[1]) as one, keystay.open_signer(sys.argv[1]) as two:
                one.health()
                threads = [
                    threading.Thread(target=work, args=(signer,))
                    for signer in (one, two) for _ in range(4)
                ]
                [t.start() for t in threads], [t.join() for t in threads]
                shim.fail("C_SignInit", 0xB3, 1)  # its only session is lost, and so the login
                one.sign(b"message")
            assert shim.sessions() == 0
        assert not failures, failures
        """,
        shimmed.key_uri("epic"),
    )

    assert {0} == set(shimmed.logins())


def test_token_without_sessions(shimmed: ShimmedToken) -> None:
    """All sessions used up by others: an error inside the deadline that names the CKR."""
    output = shimmed.run(
        """
        import time
        shim.session_limit(0)
        started = time.monotonic()
        try:
            keystay.open_signer(sys.argv[1], timeout=0.5)
        except errors.BackendTimeoutError as error:
            print(error)
        assert 0.4 < time.monotonic() - started < 2
        """,
        shimmed.key_uri("epic"),
    )

    assert "CKR_SESSION_COUNT" in output


def test_session_comes_free(shimmed: ShimmedToken) -> None:
    """Others have all sessions at first: opening waits for one instead of failing."""
    shimmed.run(
        """
        import threading
        shim.session_limit(0)
        threading.Timer(0.4, shim.session_limit, (2,)).start()
        with keystay.open_signer(sys.argv[1]) as signer:
            signer.sign(b"message")
        """,
        shimmed.key_uri("epic"),
    )


def test_exit_without_closing(shimmed: ShimmedToken) -> None:
    """A process that ends with signers open, and threads inside the module, ends well."""
    shimmed.run(
        """
        import threading, time
        signers = [keystay.open_signer(sys.argv[1]) for _ in range(3)]
        shim.delay("C_Sign", 0.3)
        for signer in signers:
            threading.Thread(target=signer.sign, args=(b"message",), daemon=True).start()
        time.sleep(0.1)
        signers[0]._key._token.cycle = signers
        """,
        shimmed.key_uri("epic"),
    )


@pytest.mark.parametrize("vendor", ["SoftHSM", "Acme"])
def test_close_while_signing(shimmed: ShimmedToken, vendor: str) -> None:
    """Closing while others sign lets them finish or tells them; nothing crashes."""
    shimmed.run(
        f"shim.vendor({vendor!r})\n"
        + textwrap.dedent("""
        import threading, time
        shim.delay("C_Sign", 0.02), shim.delay("C_SignInit", 0.02)
        unexpected = []
        def work(signer):
            try:
                while True:
                    signer.sign(b"message")
            except errors.SignerClosedError:
                pass
            except BaseException as error:
                unexpected.append(error)
        for _ in range(5):
            signer = keystay.open_signer(sys.argv[1])
            threads = [threading.Thread(target=work, args=(signer,)) for _ in range(4)]
            [t.start() for t in threads]
            time.sleep(0.1)
            signer.close()
            [t.join() for t in threads]
            # Nothing is left: no session, no login, and the module as it was before.
            assert shim.sessions() == 0, shim.sessions()
            assert shim.calls("C_Login") == shim.calls("C_Logout")
            assert shim.calls("C_Initialize") == shim.calls("C_Finalize")
        assert not unexpected, unexpected
        """),
        shimmed.key_uri("epic"),
    )


@pytest.mark.parametrize("vendor", ["SoftHSM", "Acme"])
def test_close_beside_another_token(shimmed: ShimmedToken, vendor: str) -> None:
    """As above where another signer keeps the module: the token that was closed is left alone."""
    shimmed.token.add_token("second")
    shimmed.token.label = "second"
    shimmed.token.generate_key("EC:secp256r1", "epic")
    second = shimmed.key_uri("epic")
    shimmed.run(
        f"shim.vendor({vendor!r})\n"
        + textwrap.dedent("""
        import threading, time
        first, second = sys.argv[1:]
        shim.delay("C_Sign", 0.02), shim.delay("C_SignInit", 0.02)
        unexpected = []
        def work(signer):
            try:
                while True:
                    signer.sign(b"message")
            except errors.SignerClosedError:
                pass
            except BaseException as error:
                unexpected.append(error)
        with keystay.open_signer(second) as kept:
            kept.sign(b"before")
            sessions, logins = shim.sessions(), shim.calls("C_Login")
            for number in range(1, 6):
                signer = keystay.open_signer(first)
                threads = [threading.Thread(target=work, args=(signer,)) for _ in range(4)]
                [t.start() for t in threads]
                time.sleep(0.1)
                signer.close()
                [t.join() for t in threads]
                assert shim.sessions() == sessions, shim.sessions()
                assert shim.calls("C_Login") == logins + number
                assert shim.calls("C_Logout") == number
            assert shim.calls("C_Finalize") == 0
            kept.sign(b"after")
        assert not unexpected, unexpected
        """),
        second.replace("token=second", "token=keystay-fresh"),
        second,
    )


HARDWARE = {
    "claims": ("Acme", True, True, "hardware"),
    "slot only": ("Acme", True, False, "in-process"),
    "mechanism only": ("Acme", False, True, "in-process"),
    "SoftHSM claims": ("SoftHSM project", True, True, "in-process"),
}


@pytest.mark.parametrize(
    ("vendor", "slot", "mechanism", "expected"), HARDWARE.values(), ids=HARDWARE
)
def test_custody(
    shimmed: ShimmedToken, vendor: str, slot: bool, mechanism: bool, expected: str
) -> None:
    """What the module's flags amount to, read through the real calls."""
    shimmed.run(
        f"""
        shim.vendor({vendor!r})
        shim.hardware(slot={slot}, mechanism={mechanism})
        with keystay.open_signer(sys.argv[1]) as signer:
            assert signer.custody.location == {expected!r}, signer.custody
        """,
        shimmed.key_uri("epic"),
    )
