"""Lost sessions, logins and devices come back, or end in a clear error inside the deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest

import keystay
from keystay.errors import BackendUnavailableError, KeyChangedError
from keystay.signatures import verify
from keystay_pkcs11 import module as modules
from tests.support import p11shim
from tests.support.p11kit import P11KitServer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.p11shim import ShimmedToken
    from tests.support.softhsm import SoftHSM

CKR_OK = 0


@pytest.fixture
def shimmed(shimmed: ShimmedToken) -> ShimmedToken:
    """The shimmed token, with a key."""
    shimmed.token.generate_key("EC:secp256r1", "epic")
    return shimmed


ONCE = {
    "session gone": (p11shim.CKR_SESSION_HANDLE_INVALID, "C_SignInit"),
    "session closed": (0xB0, "C_SignInit"),
    "key handle gone": (p11shim.CKR_KEY_HANDLE_INVALID, "C_SignInit"),
    "object handle gone": (0x82, "C_SignInit"),
    "operation left over": (0x90, "C_SignInit"),
    "logged out": (p11shim.CKR_USER_NOT_LOGGED_IN, "C_Sign"),
    "device error": (p11shim.CKR_DEVICE_ERROR, "C_Sign"),
    "device removed": (0x32, "C_Sign"),
    "not initialised": (p11shim.CKR_CRYPTOKI_NOT_INITIALIZED, "C_SignInit"),
}


@pytest.mark.parametrize(("value", "function"), ONCE.values(), ids=ONCE)
def test_lost_once(shimmed: ShimmedToken, value: int, function: str) -> None:
    """One failure of each kind: the signature is made all the same, in a new session."""
    shimmed.run(
        f"""
        with keystay.open_signer(sys.argv[1]) as signer:
            signer.sign(b"before")
            opened = shim.calls("C_OpenSession")
            shim.fail({function!r}, {value}, 1)
            signer.sign(b"lost")
            assert shim.calls("C_OpenSession") > opened
            finalised = shim.calls("C_Finalize")
            assert finalised == ({value} == 0x190), finalised
            signer.sign(b"after")
        """,
        shimmed.key_uri("epic"),
    )

    assert {CKR_OK} == set(shimmed.logins())


def test_lost_for_good(shimmed: ShimmedToken) -> None:
    """A device that goes on failing: one repetition, a clear error, and good when it is back."""
    output = shimmed.run(
        """
        with keystay.open_signer(sys.argv[1]) as signer:
            signed = shim.calls("C_Sign")
            shim.fail("C_Sign", 0x30)
            try:
                signer.sign(b"lost")
            except errors.BackendUnavailableError as error:
                print(error)
                assert "CKR_DEVICE_ERROR" in error.message and error.code == "device-error"
                assert type(error.__cause__).__name__ == "DeviceError"
            assert shim.calls("C_Sign") == signed + 2
            shim.fail("C_Sign", 0, 0)
            signer.sign(b"back")
        """,
        shimmed.key_uri("epic"),
    )

    assert "token 'keystay-fresh' of" in output
    assert [CKR_OK] == shimmed.logins()


def test_no_recovery_where_it_cannot_help(shimmed: ShimmedToken) -> None:
    """Another failure is reported at once, without a repetition, and spoils no session."""
    shimmed.run(
        """
        with keystay.open_signer(sys.argv[1]) as signer:
            signed = shim.calls("C_Sign")
            shim.fail("C_Sign", 0x80001234, 1)
            try:
                signer.sign(b"refused")
            except errors.BackendError as error:
                assert error.code == "device-refused" and "0x80001234" in error.message, error
            else:
                raise SystemExit("signed")
            assert shim.calls("C_Sign") == signed + 1
            signer.sign(b"after")
        """,
        shimmed.key_uri("epic"),
    )


def test_logged_out_by_others(shimmed: ShimmedToken) -> None:
    """Somebody else's C_Logout costs one more login, not the signature."""
    shimmed.run(
        """
        import pkcs11
        uri, module, pin_file = sys.argv[1:]
        with keystay.open_signer(uri) as signer:
            signer.sign(b"before")
            connection = signer._key._token._connection
            connection.module.cryptoki.logout(connection._holder.handle)
            signer.sign(b"after")
            signer.health()
        """,
        shimmed.key_uri("epic"),
        str(shimmed.module),
        str(shimmed.token.pin_file),
    )

    assert [CKR_OK, CKR_OK] == shimmed.logins()


def test_restart_at_most_every_30_seconds(shimmed: ShimmedToken) -> None:
    """A module that loses its device again and again is restarted once, by any thread."""
    shimmed.run(
        """
        import threading
        signer = keystay.open_signer(sys.argv[1], timeout=5)
        shim.fail("C_Sign", 0x190)
        caught = []
        def work():
            for _ in range(5):
                try:
                    signer.sign(b"lost")
                except errors.BackendUnavailableError as error:
                    caught.append(error)
        threads = [threading.Thread(target=work) for _ in range(8)]
        [t.start() for t in threads], [t.join() for t in threads]
        assert len(caught) == 40
        assert shim.calls("C_Finalize") == 1, shim.calls("C_Finalize")
        assert any("next attempt is in" in str(e) for e in caught)
        shim.fail("C_Sign", 0, 0)
        signer.sign(b"back")
        """,
        shimmed.key_uri("epic"),
    )

    assert [CKR_OK, CKR_OK] == shimmed.logins()


def test_restart_waits_for_calls_under_way(shimmed: ShimmedToken) -> None:
    """C_Finalize is never called while another thread is inside the module."""
    shimmed.run(
        """
        import threading, time
        signer = keystay.open_signer(sys.argv[1])
        signer.sign(b"warm")
        shim.delay("C_Sign", 0.5)
        slow = []
        thread = threading.Thread(target=lambda: slow.append(signer.sign(b"slow")))
        thread.start()
        time.sleep(0.1)
        shim.fail("C_SignInit", 0x190, 1)
        started = time.monotonic()
        signer.sign(b"restarts")
        thread.join()
        assert slow and shim.calls("C_Finalize") == 1
        assert time.monotonic() - started > 0.8  # the slow one first, then its own
        """,
        shimmed.key_uri("epic"),
    )


def test_hanging_call_does_not_stop_the_others(shimmed: ShimmedToken) -> None:
    """While one call hangs, a restart gives up in time and signatures go on."""
    shimmed.run(
        """
        import threading, time
        signer = keystay.open_signer(sys.argv[1])
        signer.sign(b"warm")
        shim.delay("C_Sign", 6)
        thread = threading.Thread(target=signer.sign, args=(b"hangs",), daemon=True)
        thread.start()
        time.sleep(0.1)
        shim.delay("C_Sign", 0)
        shim.fail("C_SignInit", 0x190, 1)
        started = time.monotonic()
        try:
            signer.sign(b"restarts")
        except errors.BackendTimeoutError as error:
            assert error.code == "module-busy", error
        else:
            raise SystemExit("restarted under a call")
        assert time.monotonic() - started < 4
        signer.sign(b"goes on")
        thread.join()
        """,
        shimmed.key_uri("epic"),
    )


@pytest.fixture
def remoted(fresh_softhsm: SoftHSM, monkeypatch: pytest.MonkeyPatch) -> Iterator[P11KitServer]:
    """A token in another process, for one test."""
    fresh_softhsm.generate_key("EC:secp384r1", "epic")
    with P11KitServer(fresh_softhsm) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        yield server


def test_connection_killed(remoted: P11KitServer) -> None:
    """The process that holds the key is killed: the next signature is made by its successor."""
    with keystay.open_signer(remoted.key_uri("epic")) as signer:
        signer.sign(b"before")
        # One, or two for a moment: a connection that was given up ends in its own time.
        before = set(remoted.children())
        assert remoted.kill_children()

        verify(signer.public_key, "ES384", b"after", signer.sign(b"after"))
        assert set(remoted.children()) - before


def test_server_down_and_back(remoted: P11KitServer) -> None:
    """While the server is down: clear errors inside the deadline. Back: it signs again."""
    with keystay.open_signer(remoted.key_uri("epic"), timeout=3) as signer:
        signer.sign(b"before")
        remoted.stop()
        for _ in range(3):
            started = time.monotonic()
            with pytest.raises(BackendUnavailableError) as caught:
                signer.sign(b"down")
            assert time.monotonic() - started < 3
            assert caught.value.hint
        with pytest.raises(BackendUnavailableError):
            signer.health()

        remoted.start()

        signer.sign(b"back")


def test_new_signer_on_a_dead_connection(remoted: P11KitServer) -> None:
    """A signer opened while another one's connection is dead works, and so does the other."""
    with keystay.open_signer(remoted.key_uri("epic")) as old:
        remoted.kill_children()
        with keystay.open_signer(remoted.key_uri("epic")) as new:
            new.sign(b"new")
            old.sign(b"old")


def test_key_replaced_meanwhile(remoted: P11KitServer) -> None:
    """Another key under the same label and id is an error, not a surprise."""
    with keystay.open_signer(remoted.key_uri("epic")) as signer:
        signer.sign(b"before")
        remoted.kill_children()
        for kind in ("privkey", "pubkey"):
            remoted.token.pkcs11_tool(
                "--login", "--delete-object", "--type", kind, "--label", "epic"
            )
        remoted.token.generate_key("EC:secp384r1", "epic")

        with pytest.raises(KeyChangedError, match="another one than was opened"):
            signer.sign(b"after")


def test_second_restart_is_refused(remoted: P11KitServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two losses within 30 s: the second one waits, with the reason; then it recovers."""
    with keystay.open_signer(remoted.key_uri("epic")) as signer:
        remoted.kill_children()
        signer.sign(b"recovered")
        remoted.kill_children()
        with pytest.raises(BackendUnavailableError, match="next attempt is in") as caught:
            signer.sign(b"too soon")
        assert "device-lost" == caught.value.code

        monkeypatch.setattr(modules, "RESTART_INTERVAL", 0.0)

        signer.sign(b"recovered again")


def test_broken_slot(shimmed: ShimmedToken, tmp_path: Path) -> None:
    """A slot that cannot be read does not hide the others."""
    shimmed.token.add_token("second")
    shimmed.run(
        """
        shim.fail("C_GetTokenInfo", 0x30, 1)
        try:
            keystay.open_signer(sys.argv[1]).close()
        except errors.KeyNotFoundError as error:  # it was the token's own slot that failed
            assert "unreadable slots: slot" in str(error) and "CKR_DEVICE_ERROR" in str(error)
            assert "'second'" in str(error)
        keystay.open_signer(sys.argv[1]).close()
        """,
        shimmed.key_uri("epic"),
    )
