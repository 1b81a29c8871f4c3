"""Every PKCS#11 exception becomes one of keystay's, with CKR, place, code and remedy."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from pkcs11 import exceptions
from pkcs11.exceptions import PKCS11Error

import keystay_pkcs11.errors
from keystay.errors import (
    AlgorithmError,
    BackendError,
    BackendUnavailableError,
    KeyUnusableError,
    LoginError,
)
from keystay_pkcs11.errors import Place, ckr_name, exception_for, is_lost, translate, translated

PLACE = Place("/usr/lib/hsm.so", "prod")
CLASSES = {
    name: kind
    for name, kind in vars(exceptions).items()
    if isinstance(kind, type) and issubclass(kind, PKCS11Error)
}
# What python-pkcs11 raises without a return value of its own.
WITHOUT_CKR = {
    "PKCS11Error", "NoSuchKey", "NoSuchToken", "MultipleObjectsReturned", "MultipleTokensReturned",
}  # fmt: skip
NUMBERS = {
    0xA0: ("CKR_PIN_INCORRECT", LoginError, "pin-incorrect"),
    0xA1: ("CKR_PIN_INVALID", LoginError, "pin-invalid"),
    0xA2: ("CKR_PIN_LEN_RANGE", LoginError, "pin-invalid"),
    0xA3: ("CKR_PIN_EXPIRED", LoginError, "pin-expired"),
    0xA4: ("CKR_PIN_LOCKED", LoginError, "pin-locked"),
    0x102: ("CKR_USER_PIN_NOT_INITIALIZED", LoginError, "pin-not-initialized"),
    0x103: ("CKR_USER_TYPE_INVALID", LoginError, "user-type-refused"),
    0x104: ("CKR_USER_ANOTHER_ALREADY_LOGGED_IN", LoginError, "login-other-user"),
    0x30: ("CKR_DEVICE_ERROR", BackendUnavailableError, "device-error"),
    0x32: ("CKR_DEVICE_REMOVED", BackendUnavailableError, "token-gone"),
    0xE1: ("CKR_TOKEN_NOT_RECOGNIZED", BackendUnavailableError, "token-gone"),
    0xB1: ("CKR_SESSION_COUNT", BackendUnavailableError, "session-count"),
    0xB3: ("CKR_SESSION_HANDLE_INVALID", BackendUnavailableError, "session-lost"),
    0x190: ("CKR_CRYPTOKI_NOT_INITIALIZED", BackendUnavailableError, "module-not-initialized"),
    0x70: ("CKR_MECHANISM_INVALID", AlgorithmError, "mechanism-refused"),
    0x68: ("CKR_KEY_FUNCTION_NOT_PERMITTED", KeyUnusableError, "key-refused"),
    0xB5: ("CKR_SESSION_READ_ONLY", BackendError, "token-read-only"),
    0xD1: ("CKR_TEMPLATE_INCONSISTENT", BackendError, "template-refused"),
    0x80000001: ("CKR 0x80000001", BackendError, "device-refused"),
}


@pytest.mark.parametrize("kind", CLASSES.values(), ids=CLASSES)
def test_every_class(kind: type[PKCS11Error]) -> None:
    """No class of python-pkcs11 is without place, name, cause or remedy."""
    error = translate(kind(), "signing", PLACE)

    assert "Signing failed: token 'prod' of /usr/lib/hsm.so returned" in error.message
    assert ckr_name(kind()) in error.message
    assert error.hint
    assert error.code != BackendError.code


@pytest.mark.parametrize("name", sorted(CLASSES.keys() - WITHOUT_CKR))
def test_every_class_has_its_ckr(name: str) -> None:
    """A class that stands for a return value is named by it, not by itself."""
    assert ckr_name(CLASSES[name]()).startswith("CKR_")


@pytest.mark.parametrize(
    ("value", "expected"), NUMBERS.items(), ids=[v[0] for v in NUMBERS.values()]
)
def test_number(value: int, expected: tuple[str, type[BackendError], str]) -> None:
    """A return value of our own C calls keeps its name, and has its family and code."""
    error = translate(exception_for(value), "signing", PLACE)

    assert expected == (ckr_name(exception_for(value)), type(error), error.code)


def test_words_are_used() -> None:
    """Whatever `errors.toml` says of a return value is said of one."""
    rows = tomllib.loads(Path(keystay_pkcs11.errors.__file__).with_suffix(".toml").read_text())
    said = {translate(exception_for(value), "signing", PLACE).cause for value in range(0x300)}

    assert not [n for n, row in rows.items() if n.startswith("CKR_") and row["cause"] not in said]


def test_text_of_python_pkcs11() -> None:
    """What python-pkcs11 has no class for is known by its text."""
    text = "Initialisation error (not initialized). Should never see this."

    assert "CKR_CRYPTOKI_NOT_INITIALIZED" == ckr_name(PKCS11Error(text))


def test_translated() -> None:
    """The block's PKCS#11 exceptions come out as keystay's, chained; others as they are."""
    with pytest.raises(LoginError) as caught, translated("logging in", PLACE):
        raise exceptions.PinLocked
    assert isinstance(caught.value.__cause__, exceptions.PinLocked)

    with pytest.raises(KeyError), translated("logging in", PLACE):
        raise KeyError


@pytest.mark.parametrize("value", [0xA0, 0xA1, 0xA2, 0xA3, 0xA4, 0x102, 0x104, 0x70, 0x68, 0x06])
def test_is_lost_never(value: int) -> None:
    """Recovery is not tried where it cannot help, and never over a PIN."""
    assert not is_lost(exception_for(value))


@pytest.mark.parametrize("value", [0x30, 0x32, 0xB0, 0xB3, 0x60, 0x82, 0x101, 0x190, 0xE0])
def test_is_lost(value: int) -> None:
    """A lost session, login, token or device is recovered."""
    assert is_lost(exception_for(value))
