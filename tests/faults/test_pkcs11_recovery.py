"""Lost sessions, logins and devices come back, or end in a clear error inside the deadline."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

import keystay
from keystay.errors import (
    BackendTimeoutError,
    BackendUnavailableError,
    KeyChangedError,
    KeyNotFoundError,
)
from keystay.signatures import verify
from keystay_pkcs11 import module as modules
from tests.support import p11shim
from tests.support.p11kit import P11KitServer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.p11shim import ShimmedToken
    from tests.support.softhsm import SoftHSM

CKR_OK = 0


ONCE = {
    "session gone": (p11shim.CKR_SESSION_HANDLE_INVALID, "C_SignInit"),
    "session closed": (0xB0, "C_SignInit"),
    "operation left over": (0x90, "C_SignInit"),
    "logged out": (p11shim.CKR_USER_NOT_LOGGED_IN, "C_Sign"),
    "device error": (p11shim.CKR_DEVICE_ERROR, "C_Sign"),
    "device removed": (0x32, "C_Sign"),
    "token not present": (0xE0, "C_SignInit"),
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


HANDLES = {"key": p11shim.CKR_KEY_HANDLE_INVALID, "object": 0x82}


@pytest.mark.parametrize("value", HANDLES.values(), ids=HANDLES)
def test_key_handle_lost(shimmed: ShimmedToken, value: int) -> None:
    """The lowest rung: the key is found again in the same session, and nobody else is disturbed."""
    shimmed.run(
        f"""
        with keystay.open_signer(sys.argv[1]) as signer:
            signer.sign(b"before")
            opened, closed = shim.calls("C_OpenSession"), shim.calls("C_CloseSession")
            searched = shim.calls("C_FindObjectsInit")
            shim.fail("C_SignInit", {value}, 1)
            signer.sign(b"lost")
            assert shim.calls("C_FindObjectsInit") > searched
            assert (opened, closed) == (shim.calls("C_OpenSession"), shim.calls("C_CloseSession"))
            shim.fail("C_SignInit", {value}, 2)  # again after it was found: the next rung
            signer.sign(b"lost")
            assert shim.calls("C_OpenSession") == opened + 1
            assert shim.calls("C_Finalize") == 0
        """,
        shimmed.key_uri("epic"),
    )

    assert [CKR_OK] == shimmed.logins()


def test_key_found_again_counts_as_new(shimmed: ShimmedToken) -> None:
    """Its first signature is verified again under verify="first", in every session."""
    shimmed.run(
        f"""
        from keystay.algorithms import get
        from keystay.backends import Deadline, SignRequest
        with keystay.open_signer(sys.argv[1], verify="first") as signer:
            key, algorithm = signer._key, get("ES256")
            def numbers():
                request = SignRequest(algorithm, b"x", Deadline.after(5))
                with key.lease(request.deadline) as one, key.lease(request.deadline) as two:
                    return {{one.sign(request).session, two.sign(request).session}}
            before = numbers()
            signer.health()
            assert 2 == len(before) and before == numbers()
            shim.fail("C_SignInit", {p11shim.CKR_KEY_HANDLE_INVALID}, 1)
            signer.sign(b"lost")
            assert not before & numbers()
            assert shim.calls("C_Finalize") == 0
        """,
        shimmed.key_uri("epic"),
    )


def test_lost_for_good(shimmed: ShimmedToken) -> None:
    """A device that goes on failing: once more on each rung, an error, good when it is back."""
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
                assert type(error.__cause__).__name__ == "DeviceError", error.__cause__
            else:
                raise SystemExit("signed")
            # In the session held, in a new one, and after a restart.
            assert shim.calls("C_Sign") == signed + 3, shim.calls("C_Sign")
            assert shim.calls("C_Finalize") == 1
            shim.fail("C_Sign", 0, 0)
            signer.sign(b"back")
        """,
        shimmed.key_uri("epic"),
    )

    assert "token 'keystay-fresh' of" in output
    assert [CKR_OK, CKR_OK] == shimmed.logins()


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
            connection = signer._key._token.connection
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


@pytest.mark.parametrize("function", ["C_GetSlotList", "C_OpenSession"])
def test_call_of_a_generation_that_is_over(shimmed: ShimmedToken, function: str) -> None:
    """Opening is let go by another thread's restart: it goes on in the new generation at once."""
    shimmed.token.add_token("second")
    shimmed.token.label = "second"
    shimmed.token.generate_key("EC:secp256r1", "epic")
    second = shimmed.key_uri("epic")
    shimmed.run(
        f"""
        import threading, time
        shim.vendor("Acme")
        first, second = sys.argv[1:]
        with keystay.open_signer(first) as signer:
            signer.sign(b"before")
            module = signer._key._module
            module._remoted, module._quiet = True, 0.3  # as behind p11-kit
            shim.hang({function!r}, 1)
            made, failed = [], []
            def open_other():
                try:
                    with keystay.open_signer(second) as other:
                        made.append(other.sign(b"opened"))
                except errors.KeystayError as error:
                    failed.append(error)
            thread = threading.Thread(target=open_other)
            asked = shim.calls({function!r})
            thread.start()
            while shim.calls({function!r}) == asked:
                time.sleep(0.01)
            shim.fail("C_SignInit", 0x190, 1)
            signer.sign(b"restarts")
            thread.join()
            assert made and not failed, failed
            assert shim.calls("C_Finalize") == 1
        """,
        second.replace("token=second", "token=keystay-fresh"),
        second,
    )


def test_connection_killed(remoted: P11KitServer) -> None:
    """The process that holds the key is killed: the next signature is made by its successor."""
    with keystay.open_signer(remoted.key_uri("epic")) as signer:
        signer.sign(b"before")
        assert 1 == remoted.kill_children()

        verify(signer.public_key, "ES384", b"after", signer.sign(b"after"))
        assert 1 == len(remoted.children())


def test_server_hangs(remoted: P11KitServer) -> None:
    """While it is stopped (as a daemon that swaps), deadlines hold; then it signs again."""
    with keystay.open_signer(remoted.key_uri("epic")) as signer:
        signer.sign(b"before")
        (child,) = remoted.children()
        os.kill(child, signal.SIGSTOP)
        try:
            for _ in range(2):
                started = time.monotonic()
                with pytest.raises(BackendTimeoutError, match=r"within 0\.3 s"):
                    signer.sign(b"hangs", timeout=0.3)
                assert time.monotonic() - started < 1.5
        finally:
            os.kill(child, signal.SIGCONT)

        verify(signer.public_key, "ES384", b"after", signer.sign(b"after"))
        assert [child] == remoted.children()


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
        with pytest.raises(BackendUnavailableError, match="not done again for") as caught:
            signer.sign(b"too soon")
        assert "device-lost" == caught.value.code

        monkeypatch.setattr(modules, "RESTART_INTERVAL", 0.0)

        signer.sign(b"recovered again")


def test_broken_token(shimmed: ShimmedToken) -> None:
    """A token that cannot be read does not hide the others, and is named."""
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


def test_broken_slot(shimmed: ShimmedToken) -> None:
    """A slot that does not even say what it is: the others work, and an error names it."""
    shimmed.token.add_token("second")
    shimmed.run(
        """
        import pkcs11
        from keystay.backends import Deadline
        from keystay_pkcs11.token import present_tokens
        uri = sys.argv[1]
        with keystay.open_signer(uri) as signer:
            broken = next(
                facts.slot_id
                for facts, _ in present_tokens(signer._key._module, Deadline.after(5))[0]
                if facts.label == "second"
            )
        shim.break_slot(int(broken))
        try:
            pkcs11.lib(sys.argv[2]).get_slots()
        except pkcs11.exceptions.DeviceError:
            pass  # so much for python-pkcs11
        else:
            raise SystemExit("the slot is not broken")
        for _ in range(2):
            with keystay.open_signer(uri) as signer:
                signer.sign(b"message")
        try:
            keystay.open_signer(uri.replace("keystay-fresh", "second"))
        except errors.KeyNotFoundError as error:
            assert f"unreadable slots: slot {broken}: CKR_DEVICE_ERROR" in str(error), error
            assert "'keystay-fresh'" in str(error)
        else:
            raise SystemExit("opened")
        """,
        shimmed.key_uri("epic"),
        str(shimmed.module),
    )


CLOSED_UNDER_US = """
import ctypes, sys
import keystay
from keystay.signatures import verify
uri, module = sys.argv[1:]
with keystay.open_signer(uri) as one, keystay.open_signer(uri) as two:
    one.sign(b"before"), two.sign(b"before")
    slot = one._key._token.connection.native.slot.slot_id
    for _ in range(3):
        assert 0 == ctypes.CDLL(module).C_CloseAllSessions(ctypes.c_ulong(slot))
        for signer in (one, two):
            verify(signer.public_key, "ES256", b"after", signer.sign(b"after"))
"""


def test_search_on_a_lost_session(shimmed: ShimmedToken) -> None:
    """A search that fails to begin, or to end, is recovered from without a word on stderr."""
    output = shimmed.run(
        """
        import gc
        with keystay.open_signer(sys.argv[1]) as signer:
            for function in ("C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal"):
                shim.fail(function, 0xB3, 1)
                signer.health()
                shim.fail(function, 0, 0)
                gc.collect()
        """,
        shimmed.key_uri("epic"),
    )

    assert "" == output


def test_sessions_closed_by_others(fresh_softhsm: SoftHSM) -> None:
    """Another user of the module in this process closes all sessions, and so logs out."""
    fresh_softhsm.generate_key("EC:secp256r1", "epic")

    fresh_softhsm.run_python(CLOSED_UNDER_US, fresh_softhsm.key_uri("epic"), fresh_softhsm.module)


MOVED_AWAY = """
import pathlib, sys, time
import keystay
from keystay.errors import BackendUnavailableError
uri, store = sys.argv[1], pathlib.Path(sys.argv[2])
away = store.with_name("away")
with keystay.open_signer(uri, timeout=5) as signer:
    signer.sign(b"before")
    store.rename(away)
    for _ in range(2):
        try:
            signer.sign(b"away")
        except BackendUnavailableError as error:
            assert error.hint
        else:
            raise SystemExit("signed")
    away.rename(store)
    for _ in range(3):
        signer.sign(b"back")
"""


def test_tokens_moved_away_and_back(fresh_softhsm: SoftHSM) -> None:
    """The folder of all tokens goes and comes back: SoftHSM sees it when started anew, so it is."""
    fresh_softhsm.generate_key("EC:secp256r1", "epic")
    store = fresh_softhsm.conf.with_name("tokens")

    fresh_softhsm.run_python(MOVED_AWAY, fresh_softhsm.key_uri("epic"), str(store))


@pytest.fixture
def imported(remoted: P11KitServer, tmp_path: Path) -> Callable[[], None]:
    """A function that puts the same key pair on the token, as `same` with id 77."""
    key = ec.generate_private_key(ec.SECP384R1())
    private, public = tmp_path / "private.der", tmp_path / "public.der"
    private.write_bytes(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(
        key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )

    def put() -> None:
        for path, kind in ((private, "privkey"), (public, "pubkey")):
            remoted.token.pkcs11_tool(
                "--login", "--write-object", str(path), "--type", kind, "--id", "77",
                "--label", "same", "--usage-sign",
            )  # fmt: skip

    return put


def remove(token: SoftHSM, label: str) -> None:
    """Delete a key pair."""
    for kind in ("privkey", "pubkey"):
        token.pkcs11_tool("--login", "--delete-object", "--type", kind, "--label", label)


def test_key_made_anew(remoted: P11KitServer, imported: Callable[[], None]) -> None:
    """The same key pair deleted and put back under its id: found again, in the same process."""
    imported()
    with keystay.open_signer(remoted.key_uri("same")) as signer:
        signer.sign(b"before")
        children = remoted.children()
        remove(remoted.token, "same")
        imported()

        verify(signer.public_key, "ES384", b"after", signer.sign(b"after"))
        assert children == remoted.children()


def test_other_key_made_under_its_id(remoted: P11KitServer, imported: Callable[[], None]) -> None:
    """Another key pair in its place is an error, also when nothing else was lost."""
    imported()
    with keystay.open_signer(remoted.key_uri("same")) as signer:
        signer.sign(b"before")
        remove(remoted.token, "same")
        remoted.token.generate_key("EC:secp384r1", "same", "77")

        with pytest.raises(KeyChangedError, match="another one than was opened"):
            signer.sign(b"after")


def test_key_deleted(remoted: P11KitServer) -> None:
    """A key that is gone for good: said by name each time; other keys go on."""
    remoted.token.generate_key("EC:secp384r1", "other", "02")
    with (
        keystay.open_signer(remoted.key_uri("epic")) as signer,
        keystay.open_signer(remoted.key_uri("other")) as other,
    ):
        remove(remoted.token, "epic")
        for _ in range(3):
            with pytest.raises(KeyNotFoundError, match="no private key with label 'epic'"):
                signer.sign(b"gone")
            other.sign(b"here")
