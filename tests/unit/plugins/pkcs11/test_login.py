"""A refused PIN is remembered without being kept, and flags are heeded."""

from __future__ import annotations

import logging

import pytest
from pkcs11 import TokenFlag

from keystay.backends import SecretResolver
from keystay.errors import LoginError
from keystay_pkcs11.errors import Place
from keystay_pkcs11.login import Credentials, RefusedPins, check_flags, choose_pin

PLACE = Place("/m.so", "prod")
TOKEN = ("/m.so", "prod", "01")
USER, OFFICER = 1, 0


def test_refused_pins() -> None:
    """The same PIN at the same token is refused; another PIN or token is not."""
    refused = RefusedPins()
    refused.add(TOKEN, b"wrong-pin")

    with pytest.raises(LoginError) as caught:
        refused.check(TOKEN, b"wrong-pin", PLACE)
    assert "pin-incorrect" == caught.value.code
    assert "not tried again" in caught.value.message
    refused.check(TOKEN, b"other-pin", PLACE)
    refused.check(("/m.so", "prod", "02"), b"wrong-pin", PLACE)


def test_refused_pins_do_not_keep_the_pin() -> None:
    """Only a hash is kept, salted anew in each process."""
    first, second = RefusedPins(), RefusedPins()
    first.add(TOKEN, b"wrong-pin")
    second.add(TOKEN, b"wrong-pin")

    assert b"wrong-pin" not in repr(vars(first)).encode()
    assert first._seen != second._seen


REFUSALS = [
    (USER, TokenFlag.USER_PIN_LOCKED, "pin-locked"),
    (USER, TokenFlag.USER_PIN_FINAL_TRY, "pin-final-try"),
    (USER, TokenFlag.USER_PIN_FINAL_TRY | TokenFlag.USER_PIN_LOCKED, "pin-locked"),
    (OFFICER, TokenFlag.SO_PIN_LOCKED, "pin-locked"),
    (OFFICER, TokenFlag.SO_PIN_FINAL_TRY, "pin-final-try"),
    (0x80000001, TokenFlag.USER_PIN_FINAL_TRY, "pin-final-try"),
]


@pytest.mark.parametrize(("user", "flags", "code"), REFUSALS)
def test_check_flags(user: int, flags: TokenFlag, code: str) -> None:
    """No login where one more failure would lock the token."""
    with pytest.raises(LoginError) as caught:
        check_flags(flags, user, PLACE)

    assert code == caught.value.code
    assert caught.value.hint


@pytest.mark.parametrize("user", [USER, OFFICER])
def test_check_flags_of_the_other(user: int) -> None:
    """The other user's counter does not matter."""
    other = TokenFlag.SO_PIN_FINAL_TRY if user == USER else TokenFlag.USER_PIN_FINAL_TRY

    check_flags(other, user, PLACE)


def test_warn_if_low(caplog: pytest.LogCaptureFixture) -> None:
    """A counter that is low is worth a warning."""
    with caplog.at_level(logging.WARNING):
        check_flags(TokenFlag.USER_PIN_COUNT_LOW, USER, PLACE)
        assert not caplog.text
        resolver = SecretResolver(lambda *_: "the-provided-pin")
        choose_pin(Credentials("", resolver, USER), TokenFlag.USER_PIN_COUNT_LOW, TOKEN, PLACE)

    assert "wrong PIN was tried on token 'prod'" in caplog.text


def test_pin_missing() -> None:
    """Without a reference the error says how to give one."""
    with pytest.raises(LoginError) as caught:
        Credentials(None, SecretResolver(), USER).pin(PLACE)

    assert "pin-missing" == caught.value.code
    assert "pin-source=file:" in (caught.value.hint or "")


def test_provider() -> None:
    """A callable may answer instead of a reference, and is told what for."""
    asked = []

    def provide(reference: str, purpose: str) -> str:
        asked.append((reference, purpose))
        return "the-provided-pin"

    pin = Credentials(None, SecretResolver(provide), USER).pin(PLACE)

    assert b"the-provided-pin" == pin
    assert [("", "the PIN of token prod")] == asked


def test_repr() -> None:
    """Credentials show nothing."""
    resolver = SecretResolver(lambda *_: "the-provided-pin")
    credentials = Credentials("env:X", resolver, USER)
    credentials.pin(PLACE)

    assert "provided" not in repr(credentials)
