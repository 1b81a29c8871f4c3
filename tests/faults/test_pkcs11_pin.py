"""A wrong PIN is tried once; one that could lock the token is not tried at all.

The shim counts C_Login over all processes. Each test has a token of its own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support import p11shim
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.p11shim import ShimmedToken

CKR_OK, CKR_PIN_INCORRECT = 0, 0xA0
OPEN = """
    uri = sys.argv[1]
    try:
        keystay.open_signer(uri)
    except errors.LoginError as error:
        print(error.code)
        print(error)
    else:
        print("opened")
"""


@pytest.fixture
def wrong_pin(shimmed: ShimmedToken, tmp_path: Path) -> str:
    """The key's URI with another PIN."""
    path = tmp_path / "wrong-pin"
    path.write_text(WATCH.add("the wrong PIN", "wrong-pin-7c1f"))
    path.chmod(0o600)
    return shimmed.key_uri("epic").replace(str(shimmed.token.pin_file), str(path))


def test_wrong_pin_once(shimmed: ShimmedToken, wrong_pin: str) -> None:
    """Eight threads at once, then other signers and the store: one attempt on the counter."""
    output = shimmed.run(
        """
        import threading
        from keystay import key_uri
        from keystay.backends import BackendContext
        from keystay_pkcs11.store import Pkcs11Store
        codes, start = [], threading.Barrier(8)
        def work():
            start.wait()
            try:
                keystay.open_signer(sys.argv[1])
            except errors.LoginError as error:
                codes.append((error.code, "not tried again" in str(error)))
        threads = [threading.Thread(target=work) for _ in range(8)]
        [t.start() for t in threads], [t.join() for t in threads]
        assert [("pin-incorrect", True)] * 8 == codes, codes
        work_again = [
            lambda: keystay.open_signer(sys.argv[1]),
            lambda: keystay.open_signer(sys.argv[1] + "&rw=true"),
            lambda: Pkcs11Store.open(key_uri.parse(sys.argv[1]), BackendContext()),
        ]
        for call in work_again:
            try:
                call()
            except errors.LoginError as error:
                assert error.code == "pin-incorrect"
                print(error)
            else:
                raise SystemExit("logged in")
        assert shim.calls("C_Login") == 1
        """,
        wrong_pin,
    )

    assert [CKR_PIN_INCORRECT] == shimmed.logins()
    assert "user PIN count low" in shimmed.token.token_flags()
    assert "token 'keystay-fresh' of" in output
    assert "pin-source" in output


def test_right_pin_after_wrong(shimmed: ShimmedToken, wrong_pin: str) -> None:
    """The right PIN is tried in the same process: only the refused one is remembered."""
    shimmed.run(
        """
        wrong, right = sys.argv[1:]
        for uri, works in ((wrong, False), (right, True), (wrong, False)):
            try:
                keystay.open_signer(uri).close()
                assert works
            except errors.LoginError:
                assert not works
        """,
        wrong_pin,
        shimmed.key_uri("epic"),
    )

    assert [CKR_PIN_INCORRECT, CKR_OK] == shimmed.logins()


def test_wrong_pin_in_forked_child(shimmed: ShimmedToken, wrong_pin: str) -> None:
    """A child knows what its parent tried."""
    shimmed.run(
        """
        import os
        def attempt():
            try:
                keystay.open_signer(sys.argv[1])
            except errors.LoginError as error:
                return error.code == "pin-incorrect"
        assert attempt()
        if not (child := os.fork()):
            os._exit(0 if attempt() else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        """,
        wrong_pin,
    )

    assert [CKR_PIN_INCORRECT] == shimmed.logins()


FLAGS = {
    "final try": (p11shim.CKF_USER_PIN_FINAL_TRY, "pin-final-try", "by hand with the right PIN"),
    "locked": (p11shim.CKF_USER_PIN_LOCKED, "pin-locked", "--init-pin"),
}


@pytest.mark.parametrize(("flag", "code", "hint"), FLAGS.values(), ids=FLAGS)
def test_flags_refuse(shimmed: ShimmedToken, flag: int, code: str, hint: str) -> None:
    """No login, not even with the right PIN, when one failure more would lock the token."""
    output = shimmed.run(f"shim.token_flags(on={flag})\n" + dedented(OPEN), shimmed.key_uri("epic"))

    assert code == output.splitlines()[0]
    assert hint in output
    assert [] == shimmed.logins()


def test_flag_low_warns(shimmed: ShimmedToken) -> None:
    """A counter that is low is reported, and the login is made."""
    output = shimmed.run(
        f"""
        import logging
        logging.basicConfig()
        shim.token_flags(on={p11shim.CKF_USER_PIN_COUNT_LOW})
        keystay.open_signer(sys.argv[1]).close()
        """,
        shimmed.key_uri("epic"),
    )

    assert "A wrong PIN was tried on token" in output
    assert [CKR_OK] == shimmed.logins()


RETURNS = {
    "locked": (0xA4, "pin-locked"),
    "expired": (0xA3, "pin-expired"),
    "length": (0xA2, "pin-invalid"),
    "invalid": (0xA1, "pin-invalid"),
    "none set": (0x102, "pin-not-initialized"),
    "other user": (0x104, "login-other-user"),
}


@pytest.mark.parametrize(("value", "code"), RETURNS.values(), ids=RETURNS)
def test_login_refused(shimmed: ShimmedToken, value: int, code: str) -> None:
    """Each refusal has its code, a remedy, and is not repeated by itself."""
    # SoftHSM says that none is set of a token that is being written: see the next test.
    vendor = "shim.vendor('Acme')\n" if code == "pin-not-initialized" else ""
    source = f"{vendor}shim.fail('C_Login', {value})\n" + dedented(OPEN)

    output = shimmed.run(source, shimmed.key_uri("epic"))

    assert code == output.splitlines()[0]
    assert "Remedy: " in output
    assert [value] == shimmed.logins()


def test_token_is_being_written(shimmed: ShimmedToken) -> None:
    """Another process logs in to SoftHSM, which writes the token: for a moment without a PIN."""
    no_pin = 0x102
    source = f"shim.fail('C_Login', {no_pin}, times=1)\n" + dedented(OPEN)

    output = shimmed.run(source, shimmed.key_uri("epic"))

    assert "opened\n" == output
    assert [no_pin, CKR_OK] == shimmed.logins()


def test_no_login_required(shimmed: ShimmedToken) -> None:
    """A token without a login asks for no PIN."""
    shimmed.run(
        f"""
        shim.token_flags(off={p11shim.CKF_LOGIN_REQUIRED})
        asked = []
        try:
            keystay.open_signer(sys.argv[1], secrets=lambda *what: asked.append(what))
        except errors.KeyNotFoundError:
            pass  # SoftHSM does want a login to show its keys
        assert not asked
        """,
        shimmed.key_uri("epic"),
    )

    assert [] == shimmed.logins()


def test_logged_in_by_others(shimmed: ShimmedToken) -> None:
    """Whoever else logged in in this process is joined, without a PIN, and stays logged in."""
    shimmed.run(
        """
        import pkcs11
        uri, module, pin_file = sys.argv[1:]
        token = pkcs11.lib(module).get_token(token_label="keystay-fresh")
        session = token.open(user_pin=open(pin_file).read().strip())
        with keystay.open_signer(uri) as signer:
            signer.sign(b"message")
        assert len(list(session.get_objects({pkcs11.Attribute.LABEL: "epic"}))) == 2
        """,
        shimmed.key_uri("epic").partition("&pin-source")[0],
        str(shimmed.module),
        str(shimmed.token.pin_file),
    )

    assert [CKR_OK] == shimmed.logins()


def test_one_login_for_many(shimmed: ShimmedToken) -> None:
    """Eight threads, two signers: one login; all closed: logged out, and again one login."""
    shimmed.run(
        """
        import threading
        for _ in range(2):
            with keystay.open_signer(sys.argv[1]) as one, keystay.open_signer(sys.argv[1]) as two:
                threads = [
                    threading.Thread(target=signer.sign, args=(b"message",))
                    for signer in (one, two) for _ in range(4)
                ]
                [t.start() for t in threads], [t.join() for t in threads]
        assert shim.calls("C_Logout") == 2, shim.calls("C_Logout")
        assert shim.calls("C_Finalize") == 2
        assert shim.calls("C_OpenSession") == shim.calls("C_CloseSession")
        """,
        shimmed.key_uri("epic"),
    )

    assert [CKR_OK, CKR_OK] == shimmed.logins()


@pytest.fixture
def careful(shimmed: ShimmedToken) -> ShimmedToken:
    """The shimmed token, with a key that wants the PIN for each signature."""
    shimmed.token.pkcs11_tool(
        "--login", "--keypairgen", "--key-type", "EC:secp256r1", "--label", "careful", "--id", "07",
        "--usage-sign", "--always-auth",
    )  # fmt: skip
    return shimmed


def test_always_authenticate(careful: ShimmedToken) -> None:
    """A key that wants the PIN for each signature gets it."""
    careful.run(
        """
        with keystay.open_signer(sys.argv[1]) as signer:
            assert signer.custody.facts["always_authenticate"].value is True
            signer.sign(b"one"), signer.sign(b"two")
        """,
        careful.key_uri("careful"),
    )

    assert [CKR_OK] * 3 == careful.logins()


@pytest.mark.parametrize(("flag", "code", "hint"), FLAGS.values(), ids=FLAGS)
def test_flags_refuse_careful_key(careful: ShimmedToken, flag: int, code: str, hint: str) -> None:
    """Where one failure more would lock the token, the PIN of a signature is not sent either."""
    output = careful.run(
        f"""
        with keystay.open_signer(sys.argv[1]) as signer:
            shim.token_flags(on={flag})
            try:
                signer.sign(b"message")
            except errors.LoginError as error:
                print(error.code, error)
            else:
                raise SystemExit("signed")
        """,
        careful.key_uri("careful"),
    )

    assert code == output.split()[0]
    assert hint in output
    assert [CKR_OK] == careful.logins()


@pytest.mark.parametrize("value", [0xA0, 0xA1, 0xA2])
def test_refused_for_careful_key(careful: ShimmedToken, value: int) -> None:
    """A PIN that a signature was refused for is not sent again, whatever is wrong with it."""
    careful.run(
        f"""
        with keystay.open_signer(sys.argv[1]) as signer:
            shim.fail("C_Login", {value})
            for _ in range(3):
                try:
                    signer.sign(b"message")
                except errors.LoginError:
                    pass
                else:
                    raise SystemExit("signed")
        """,
        careful.key_uri("careful"),
    )

    assert [CKR_OK, value] == careful.logins()


def test_pin_changed_for_careful_key(careful: ShimmedToken) -> None:
    """Eight threads sign with a key that wants the PIN each time: a wrong one is tried once."""
    careful.run(
        """
        import threading
        codes, start = [], threading.Barrier(8)
        with keystay.open_signer(sys.argv[1]) as signer:
            shim.fail("C_Login", 0xA0)
            shim.delay("C_Login", 0.05)
            def work():
                start.wait()
                try:
                    signer.sign(b"message")
                except errors.LoginError as error:
                    codes.append(error.code)
            threads = [threading.Thread(target=work) for _ in range(8)]
            [t.start() for t in threads], [t.join() for t in threads]
        assert codes == ["pin-incorrect"] * 8, codes
        """,
        careful.key_uri("careful"),
    )

    assert [CKR_OK, CKR_PIN_INCORRECT] == careful.logins()


def test_careful_key_left_behind(careful: ShimmedToken) -> None:
    """Behind p11-kit a call may never return: its turn passes to others at the next restart.

    Whoever waited for that turn signs on the new connection, and a waiter that nobody waits for
    any more uses no handle of the old one, also when its turn comes.
    """
    careful.run(
        """
        import threading, time
        shim.vendor("Acme")
        def waits_for(condition):
            until = time.monotonic() + 10
            while not condition():
                assert time.monotonic() < until
                time.sleep(0.01)
        with (
            keystay.open_signer(sys.argv[1]) as signer,
            keystay.open_signer(sys.argv[2]) as other,
        ):
            other.sign(b"before")
            module = signer._key._module
            module._remoted, module._quiet = True, 0.3
            shim.hang("C_Sign", 1)
            made = []
            def stranded():
                try:
                    signer.sign(b"hangs", timeout=0.2)
                except errors.BackendTimeoutError:
                    made.append("gave up")
            thread = threading.Thread(target=stranded)
            thread.start(), thread.join()
            asked = shim.calls("C_SignInit")
            waiting = threading.Thread(
                target=lambda: made.append(signer.sign(b"waits", timeout=8))
            )
            waiting.start()
            time.sleep(0.2)
            assert shim.calls("C_SignInit") == asked  # it is not its turn
            workers = module.workers
            shim.fail("C_SignInit", 0x190, 1)
            other.sign(b"restarts")
            waiting.join()
            assert made[0] == "gave up" and len(made) == 2
            signer.sign(b"after", timeout=2)
            asked = shim.calls("C_SignInit")
            shim.release()
            waits_for(lambda: not workers.abandoned)
            assert shim.calls("C_SignInit") == asked
        """,
        careful.key_uri("careful"),
        careful.key_uri("epic"),
    )


def test_pin_changed_meanwhile(shimmed: ShimmedToken) -> None:
    """A login lost after the PIN was changed is tried once, and not again."""
    shimmed.run(
        """
        signer = keystay.open_signer(sys.argv[1])
        signer.sign(b"message")
        connection = signer._key._token.connection
        connection.module.cryptoki.logout(connection._holder.handle)
        shim.fail("C_Login", 0xA0)
        for _ in range(3):
            try:
                signer.sign(b"message")
            except errors.LoginError as error:
                assert error.code == "pin-incorrect", error
            else:
                raise SystemExit("signed")
        """,
        shimmed.key_uri("epic"),
    )

    assert [CKR_OK, CKR_PIN_INCORRECT] == shimmed.logins()


def dedented(source: str) -> str:
    """Source that begins at the margin, to be joined to other source."""
    import textwrap

    return textwrap.dedent(source)
