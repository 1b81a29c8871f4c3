"""A token that is down: calls fail at once, with the reason, and one at a time looks again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import keystay
from keystay.errors import BackendUnavailableError
from keystay_pkcs11 import circuit_breaker
from tests.support.p11kit import P11KitServer

if TYPE_CHECKING:
    from tests.support.p11shim import ShimmedToken

CKR_OK, CKR_PIN_INCORRECT = 0, 0xA0


def test_server_gone_for_good(remoted: P11KitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each call fails in no time, and says why, and when the next attempt is."""
    monkeypatch.setattr(circuit_breaker, "_SHORTEST", 60.0)
    monkeypatch.setattr(circuit_breaker, "_LONGEST", 60.0)
    with keystay.open_signer(remoted.key_uri("epic")) as signer:
        signer.sign(b"before")
        remoted.stop()
        with pytest.raises(BackendUnavailableError) as first:
            signer.sign(b"lost")

        for call in (lambda: signer.sign(b"down"), signer.health):
            with pytest.raises(BackendUnavailableError, match=r"next attempt is in \d") as caught:
                call()
            assert "device-lost" == caught.value.code
            assert first.value.message in (caught.value.cause or "")
            assert first.value.hint == caught.value.hint
            assert first.value.message == str(caught.value.__cause__).partition(" [")[0]

        remoted.start()
        signer._key._token.breaker.next_probe = 0.0  # type: ignore[attr-defined]
        signer.sign(b"back")
        signer.sign(b"and closed")


def test_open_circuit_asks_nothing_of_the_device(shimmed: ShimmedToken) -> None:
    """While it is open no call reaches the module; then one looks, and the others wait for it."""
    shimmed.run(
        """
        import threading
        from keystay_pkcs11 import circuit_breaker
        circuit_breaker._SHORTEST = circuit_breaker._LONGEST = 60.0
        def down():
            try:
                signer.sign(b"down")
            except errors.BackendUnavailableError as error:
                return error
            raise SystemExit("signed")
        with keystay.open_signer(sys.argv[1]) as signer:
            signer.sign(b"before")
            shim.fail("C_Sign", 0x30)
            assert "CKR_DEVICE_ERROR" in down().message
            asked = [shim.calls(name) for name in p11shim.FUNCTIONS]
            for _ in range(50):
                error = down()
                assert "next attempt is in " in error.message, error
                assert "CKR_DEVICE_ERROR" in error.cause, error
            assert asked == [shim.calls(name) for name in p11shim.FUNCTIONS]

            signer._key._token.breaker.next_probe = 0.0
            signed = shim.calls("C_Sign")
            found = []
            threads = [
                threading.Thread(target=lambda: found.append(down())) for _ in range(8)
            ]
            [t.start() for t in threads], [t.join() for t in threads]
            assert len(found) == 8
            # One call's two rungs: the third was taken less than 30 s ago.
            assert shim.calls("C_Sign") == signed + 2, shim.calls("C_Sign") - signed
            assert shim.calls("C_Finalize") == 1

            shim.fail("C_Sign", 0, 0)
            signer._key._token.breaker.next_probe = 0.0
            made = []
            threads = [
                threading.Thread(target=lambda: made.append(signer.sign(b"x"))) for _ in range(8)
            ]
            [t.start() for t in threads], [t.join() for t in threads]
            assert len(made) == 8
        """,
        shimmed.key_uri("epic"),
    )

    assert {CKR_OK} == set(shimmed.logins())


def test_restarts_are_rare_whatever_fails(shimmed: ShimmedToken) -> None:
    """Also when the device fails as early as opening a session, 30 s lie between two restarts."""
    shimmed.run(
        """
        import time
        with keystay.open_signer(sys.argv[1]) as signer:
            signer.sign(b"before")
            for function in ("C_SignInit", "C_GetSessionInfo", "C_OpenSession"):
                shim.fail(function, 0x30)
            until = time.monotonic() + 2
            while time.monotonic() < until:
                try:
                    signer.sign(b"down")
                except errors.BackendUnavailableError:
                    pass
                else:
                    raise SystemExit("signed")
            assert shim.calls("C_Finalize") == 1, shim.calls("C_Finalize")
            for function in ("C_SignInit", "C_GetSessionInfo", "C_OpenSession"):
                shim.fail(function, 0, 0)
            signer.sign(b"back")
        """,
        shimmed.key_uri("epic"),
    )

    assert {CKR_OK} == set(shimmed.logins())


def test_restarts_that_fail_are_rare_too(shimmed: ShimmedToken) -> None:
    """One that does not end in time counts as well, and so does one after which nothing works."""
    shimmed.run(
        """
        import time
        shim.vendor("Acme")
        with keystay.open_signer(sys.argv[1]) as signer:
            signer.sign(b"before")
            shim.fail("C_SignInit", 0x190), shim.fail("C_GetSlotList", 0x30)
            shim.hang("C_Finalize", 1)
            until = time.monotonic() + 2
            while time.monotonic() < until:
                try:
                    signer.sign(b"down", timeout=0.5)
                except errors.BackendUnavailableError:
                    shim.release()
                else:
                    raise SystemExit("signed")
            assert shim.calls("C_Finalize") == 1, shim.calls("C_Finalize")
            shim.fail("C_SignInit", 0, 0), shim.fail("C_GetSlotList", 0, 0)
            signer._key._token.breaker.next_probe = 0.0
            signer.sign(b"back")
        """,
        shimmed.key_uri("epic"),
    )


def test_restarts_are_rare_while_the_token_is_missing(shimmed: ShimmedToken) -> None:
    """A device is looked at again and again, and started anew once; it may be used by others."""
    shimmed.run(
        """
        import time
        shim.vendor("Acme")
        with keystay.open_signer(sys.argv[1]) as signer:
            signer.sign(b"before")
            shim.fail("C_SignInit", 0x190), shim.fail("C_GetTokenInfo", 0xE0)
            until = time.monotonic() + 3
            while time.monotonic() < until:
                try:
                    signer.sign(b"missing")
                except errors.BackendUnavailableError:
                    pass
                else:
                    raise SystemExit("signed")
            assert shim.calls("C_Finalize") == 1, shim.calls("C_Finalize")
            shim.fail("C_SignInit", 0, 0), shim.fail("C_GetTokenInfo", 0, 0)
            signer._key._token.breaker.next_probe = 0.0
            signer.sign(b"back")
            assert shim.calls("C_Finalize") == 1, shim.calls("C_Finalize")
        """,
        shimmed.key_uri("epic"),
    )


def test_restart_that_calls_do_not_let_through(shimmed: ShimmedToken) -> None:
    """While a call hangs, no other is held up again and again for a restart that cannot be."""
    shimmed.token.add_token("second")
    shimmed.token.label = "second"
    shimmed.token.generate_key("EC:secp256r1", "epic")
    second = shimmed.key_uri("epic")
    shimmed.run(
        """
        import threading, time
        shim.vendor("Acme")
        first, second = sys.argv[1:]
        with keystay.open_signer(first) as down, keystay.open_signer(second) as up:
            down.sign(b"before"), up.sign(b"before")
            shim.hang("C_Sign", 1)
            try:
                down.sign(b"hangs", timeout=0.2)
            except errors.BackendTimeoutError:
                pass
            def lost():
                shim.fail("C_SignInit", 0x190, 1)
                try:
                    down.sign(b"lost")
                except errors.BackendUnavailableError as error:
                    return error.code
                raise SystemExit("signed")
            assert lost() == "module-busy"
            started = time.monotonic()
            assert lost() == "device-lost"
            for _ in range(10):
                up.sign(b"goes on")
            assert time.monotonic() - started < 1.5
            shim.release()
            assert shim.calls("C_Finalize") == 0
        """,
        second.replace("token=second", "token=keystay-fresh"),
        second,
    )


def test_pin_errors_do_not_open_it(shimmed: ShimmedToken) -> None:
    """A refused PIN is its own error each time, tried once, and says nothing of the device."""
    shimmed.run(
        """
        with keystay.open_signer(sys.argv[1]) as signer:
            signer.sign(b"before")
            connection = signer._key._token.connection
            connection.module.cryptoki.logout(connection._holder.handle)
            shim.fail("C_Login", 0xA0)
            for _ in range(5):
                try:
                    signer.sign(b"refused")
                except errors.LoginError as error:
                    assert error.code == "pin-incorrect", error
                else:
                    raise SystemExit("signed")
            assert signer._key._token.breaker.reason is None
            assert shim.calls("C_Finalize") == 0
        """,
        shimmed.key_uri("epic"),
    )

    assert [CKR_OK, CKR_PIN_INCORRECT] == shimmed.logins()


def test_one_token_down_another_up(shimmed: ShimmedToken) -> None:
    """The circuit is the token's: keys on another token of the module go on."""
    shimmed.token.add_token("second")
    shimmed.token.label = "second"
    shimmed.token.generate_key("EC:secp256r1", "epic")
    second = shimmed.key_uri("epic")
    shimmed.run(
        """
        first, second = sys.argv[1:]
        with keystay.open_signer(first) as down, keystay.open_signer(second) as up:
            down.sign(b"before"), up.sign(b"before")
            shim.fail("C_Sign", 0x30, 3)
            try:
                down.sign(b"lost")
            except errors.BackendUnavailableError:
                pass
            assert down._key._token.breaker.reason is not None
            up.sign(b"up")
            down.sign(b"and back")
        """,
        second.replace("token=second", "token=keystay-fresh"),
        second,
    )


def test_forked_child_begins_closed(shimmed: ShimmedToken) -> None:
    """A child sees for itself."""
    shimmed.run(
        """
        import os
        with keystay.open_signer(sys.argv[1]) as signer:
            signer.sign(b"before")
            shim.fail("C_Sign", 0x30, 3)
            try:
                signer.sign(b"lost")
            except errors.BackendUnavailableError:
                pass
            if not (child := os.fork()):
                os._exit(0 if signer.sign(b"child") else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """,
        shimmed.key_uri("epic"),
    )
