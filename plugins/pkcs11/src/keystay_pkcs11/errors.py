"""What a PKCS#11 return value means to the user.

python-pkcs11 raises a class for each return value, without a number and mostly without a text.
Here each becomes an error of keystay's family that names the module, the token and the CKR, and
says what to do; the original is chained. Nothing else leaves this plugin. The words are in
`errors.toml`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pkcs11 import exceptions
from pkcs11.exceptions import PKCS11Error

from keystay.backends.error_texts import ErrorTexts
from keystay.errors import KeyNotFoundError, KeystayError

__all__ = [
    "TEXTS", "KeyVanishedError", "Place", "ckr_name", "exception_for",
    "is_lost", "is_lost_handle", "translate", "translated",
]  # fmt: skip

TEXTS = ErrorTexts("keystay_pkcs11")
"""Every error of this plugin that is not about a setting."""

# PKCS #11 v3.1, section 6.1.4 and its header file: every return value a token can give us.
_CKR = {
    0x001: "CANCEL", 0x002: "HOST_MEMORY", 0x003: "SLOT_ID_INVALID", 0x005: "GENERAL_ERROR",
    0x006: "FUNCTION_FAILED", 0x007: "ARGUMENTS_BAD", 0x008: "NO_EVENT",
    0x009: "NEED_TO_CREATE_THREADS", 0x00A: "CANT_LOCK", 0x010: "ATTRIBUTE_READ_ONLY",
    0x011: "ATTRIBUTE_SENSITIVE", 0x012: "ATTRIBUTE_TYPE_INVALID", 0x013: "ATTRIBUTE_VALUE_INVALID",
    0x01B: "ACTION_PROHIBITED", 0x020: "DATA_INVALID", 0x021: "DATA_LEN_RANGE",
    0x030: "DEVICE_ERROR", 0x031: "DEVICE_MEMORY", 0x032: "DEVICE_REMOVED",
    0x040: "ENCRYPTED_DATA_INVALID", 0x041: "ENCRYPTED_DATA_LEN_RANGE", 0x050: "FUNCTION_CANCELED",
    0x051: "FUNCTION_NOT_PARALLEL", 0x054: "FUNCTION_NOT_SUPPORTED", 0x060: "KEY_HANDLE_INVALID",
    0x062: "KEY_SIZE_RANGE", 0x063: "KEY_TYPE_INCONSISTENT", 0x064: "KEY_NOT_NEEDED",
    0x065: "KEY_CHANGED", 0x066: "KEY_NEEDED", 0x067: "KEY_INDIGESTIBLE",
    0x068: "KEY_FUNCTION_NOT_PERMITTED", 0x069: "KEY_NOT_WRAPPABLE", 0x06A: "KEY_UNEXTRACTABLE",
    0x070: "MECHANISM_INVALID", 0x071: "MECHANISM_PARAM_INVALID", 0x082: "OBJECT_HANDLE_INVALID",
    0x090: "OPERATION_ACTIVE", 0x091: "OPERATION_NOT_INITIALIZED", 0x0A0: "PIN_INCORRECT",
    0x0A1: "PIN_INVALID", 0x0A2: "PIN_LEN_RANGE", 0x0A3: "PIN_EXPIRED", 0x0A4: "PIN_LOCKED",
    0x0B0: "SESSION_CLOSED", 0x0B1: "SESSION_COUNT", 0x0B3: "SESSION_HANDLE_INVALID",
    0x0B4: "SESSION_PARALLEL_NOT_SUPPORTED", 0x0B5: "SESSION_READ_ONLY", 0x0B6: "SESSION_EXISTS",
    0x0B7: "SESSION_READ_ONLY_EXISTS", 0x0B8: "SESSION_READ_WRITE_SO_EXISTS",
    0x0C0: "SIGNATURE_INVALID", 0x0C1: "SIGNATURE_LEN_RANGE", 0x0D0: "TEMPLATE_INCOMPLETE",
    0x0D1: "TEMPLATE_INCONSISTENT", 0x0E0: "TOKEN_NOT_PRESENT", 0x0E1: "TOKEN_NOT_RECOGNIZED",
    0x0E2: "TOKEN_WRITE_PROTECTED", 0x0F0: "UNWRAPPING_KEY_HANDLE_INVALID",
    0x0F1: "UNWRAPPING_KEY_SIZE_RANGE", 0x0F2: "UNWRAPPING_KEY_TYPE_INCONSISTENT",
    0x100: "USER_ALREADY_LOGGED_IN", 0x101: "USER_NOT_LOGGED_IN", 0x102: "USER_PIN_NOT_INITIALIZED",
    0x103: "USER_TYPE_INVALID", 0x104: "USER_ANOTHER_ALREADY_LOGGED_IN",
    0x105: "USER_TOO_MANY_TYPES", 0x110: "WRAPPED_KEY_INVALID", 0x112: "WRAPPED_KEY_LEN_RANGE",
    0x113: "WRAPPING_KEY_HANDLE_INVALID", 0x114: "WRAPPING_KEY_SIZE_RANGE",
    0x115: "WRAPPING_KEY_TYPE_INCONSISTENT", 0x120: "RANDOM_SEED_NOT_SUPPORTED",
    0x121: "RANDOM_NO_RNG", 0x130: "DOMAIN_PARAMS_INVALID", 0x140: "CURVE_NOT_SUPPORTED",
    0x150: "BUFFER_TOO_SMALL", 0x170: "INFORMATION_SENSITIVE", 0x190: "CRYPTOKI_NOT_INITIALIZED",
    0x191: "CRYPTOKI_ALREADY_INITIALIZED", 0x1A0: "MUTEX_BAD", 0x1A1: "MUTEX_NOT_LOCKED",
    0x1B5: "EXCEEDED_MAX_ITERATIONS", 0x1B6: "FIPS_SELF_TEST_FAILED", 0x1B7: "LIBRARY_LOAD_FAILED",
    0x1B8: "PIN_TOO_WEAK", 0x1B9: "PUBLIC_KEY_INVALID", 0x200: "FUNCTION_REJECTED",
    0x201: "TOKEN_RESOURCE_EXCEEDED", 0x202: "OPERATION_CANCEL_FAILED", 0x203: "KEY_EXHAUSTED",
    0x208: "TOKEN_NOT_INITIALIZED",
}  # fmt: skip

# Classes that are not called after their CKR, and texts of those that have no class of their own.
_SPELLED_OTHERWISE = {
    "AnotherUserAlreadyLoggedIn": "USER_ANOTHER_ALREADY_LOGGED_IN",
    "FunctionCancelled": "FUNCTION_CANCELED",
    "TokenNotRecognised": "TOKEN_NOT_RECOGNIZED",
}
_WITHOUT_CLASS = (
    ("(not initialized)", "CRYPTOKI_NOT_INITIALIZED"),
    ("(already initialized)", "CRYPTOKI_ALREADY_INITIALIZED"),
    ("Buffer was too small", "BUFFER_TOO_SMALL"),
    ("Parallel not supported", "SESSION_PARALLEL_NOT_SUPPORTED"),
    ("User type invalid", "USER_TYPE_INVALID"),
    ("Failed to cancel operation", "OPERATION_CANCEL_FAILED"),
)
_NUMBER = re.compile(r"Unmapped error code 0x([0-9a-fA-F]+)")


def _classes() -> dict[str, type[PKCS11Error]]:
    squeezed = {name.replace("_", ""): name for name in _CKR.values()}
    found = {}
    for class_name, kind in vars(exceptions).items():
        if isinstance(kind, type) and issubclass(kind, PKCS11Error):
            name = _SPELLED_OTHERWISE.get(class_name) or squeezed.get(class_name.upper())
            if name is not None:
                found[name] = kind
    return found


_CLASSES = _classes()
_NAMES = {kind: name for name, kind in _CLASSES.items()}


def ckr_name(error: PKCS11Error) -> str:
    """The return value behind an exception, such as `CKR_PIN_INCORRECT`.

    The class's own name for what python-pkcs11 raises without a return value (`NoSuchKey`).
    """
    if (name := _NAMES.get(type(error))) is not None:
        return f"CKR_{name}"
    text = str(error)
    if found := _NUMBER.search(text):
        number = int(found[1], 16)
        return f"CKR_{_CKR[number]}" if number in _CKR else f"CKR 0x{number:08x}"
    for part, name in _WITHOUT_CLASS:
        if part in text:
            return f"CKR_{name}"
    return type(error).__name__


def exception_for(value: int) -> PKCS11Error:
    """The python-pkcs11 exception for a CK_RV other than CKR_OK."""
    if kind := _CLASSES.get(_CKR.get(value, "")):
        return kind()
    return PKCS11Error(f"Unmapped error code {value:#x}")


# What a new session, a new login or a new start of the module can mend.
_LOST = frozenset(
    f"CKR_{name}"
    for name in (
        "SESSION_HANDLE_INVALID", "SESSION_CLOSED", "OBJECT_HANDLE_INVALID", "KEY_HANDLE_INVALID",
        "USER_NOT_LOGGED_IN", "DEVICE_ERROR", "DEVICE_REMOVED", "CRYPTOKI_NOT_INITIALIZED",
        "TOKEN_NOT_PRESENT", "TOKEN_NOT_RECOGNIZED", "SLOT_ID_INVALID", "OPERATION_ACTIVE",
        "OPERATION_NOT_INITIALIZED",
    )
)  # fmt: skip


class KeyVanishedError(PKCS11Error):
    """A key that was there is not found any more.

    Some modules see a token that was away, or a key, only when they are started again.

    Args:
        error: What the user gets if that does not help.
    """

    def __init__(self, error: KeyNotFoundError) -> None:
        super().__init__(error.message)
        self.error = error


def is_lost(error: PKCS11Error) -> bool:
    """Whether recovery can help: the session, the login or the device is gone. Never a PIN."""
    return ckr_name(error) in _LOST or isinstance(error, KeyVanishedError)


def is_lost_handle(error: PKCS11Error) -> bool:
    """Whether the key's handle is what was lost, and the session may be good."""
    return ckr_name(error) in ("CKR_KEY_HANDLE_INVALID", "CKR_OBJECT_HANDLE_INVALID")


# What means the same to the user as another return value, whose words are used.
_ALIKE = {
    "DEVICE_ERROR": "GENERAL_ERROR FUNCTION_FAILED HOST_MEMORY FUNCTION_CANCELED CANCEL "
    "LIBRARY_LOAD_FAILED FIPS_SELF_TEST_FAILED TOKEN_RESOURCE_EXCEEDED",
    "DEVICE_REMOVED": "TOKEN_NOT_PRESENT TOKEN_NOT_RECOGNIZED SLOT_ID_INVALID "
    "TOKEN_NOT_INITIALIZED",
    "SESSION_CLOSED": "SESSION_HANDLE_INVALID OBJECT_HANDLE_INVALID KEY_HANDLE_INVALID "
    "OPERATION_ACTIVE OPERATION_NOT_INITIALIZED",
    "MECHANISM_INVALID": "MECHANISM_PARAM_INVALID CURVE_NOT_SUPPORTED DOMAIN_PARAMS_INVALID "
    "DATA_INVALID DATA_LEN_RANGE",
    "KEY_SIZE_RANGE": "KEY_TYPE_INCONSISTENT KEY_FUNCTION_NOT_PERMITTED KEY_EXHAUSTED KEY_CHANGED",
    "TEMPLATE_INCOMPLETE": "TEMPLATE_INCONSISTENT ATTRIBUTE_TYPE_INVALID ATTRIBUTE_VALUE_INVALID "
    "ATTRIBUTE_READ_ONLY",
    "SESSION_READ_ONLY": "SESSION_READ_ONLY_EXISTS TOKEN_WRITE_PROTECTED "
    "SESSION_READ_WRITE_SO_EXISTS",
}
_LIKE = {f"CKR_{name}": f"CKR_{like}" for like, names in _ALIKE.items() for name in names.split()}


@dataclass(frozen=True, slots=True)
class Place:
    """Where something happened, as messages name it.

    Attributes:
        module: The module's path.
        token: The token's label, or "" before one is chosen.
    """

    module: str
    token: str = ""

    def __str__(self) -> str:
        return f"token {self.token!r} of {self.module}" if self.token else self.module


def translate(error: PKCS11Error, what: str, place: Place) -> KeystayError:
    """Make keystay's error for a PKCS#11 one; to be raised from it.

    Args:
        error: What python-pkcs11 or our own C calls raised.
        what: What was being done, such as `logging in`.
        place: Where.
    """
    if isinstance(error, KeyVanishedError):
        return error.error
    name = ckr_name(error)
    situation, step = _LIKE.get(name, name), what[:1].upper() + what[1:]
    known = situation if situation in TEXTS else "refused"
    return TEXTS.error(known, step=step, place=place, value=name)


@contextmanager
def translated(what: str, place: Place) -> Iterator[None]:
    """Turn every PKCS#11 exception of the block into keystay's; see `translate`."""
    try:
        yield
    except PKCS11Error as error:
        raise translate(error, what, place) from error
