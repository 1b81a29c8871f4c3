"""What a PKCS#11 return value means to the user.

python-pkcs11 raises a class for each return value, without a number and mostly without a text.
Here each becomes an error of keystay's family that names the module, the token and the CKR, and
says what to do; the original is chained. Nothing else leaves this plugin.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from pkcs11 import exceptions
from pkcs11.exceptions import PKCS11Error

from keystay.errors import (
    AlgorithmError,
    BackendError,
    BackendUnavailableError,
    KeyNotFoundError,
    KeyUnusableError,
    LoginError,
    SignerClosedError,
)

__all__ = [
    "CKR_DEVICE_ERROR", "KeyVanishedError", "Place", "ckr_name", "closed", "exception_for",
    "is_lost", "is_lost_handle", "translate", "translated",
]  # fmt: skip

CKR_DEVICE_ERROR = 0x30

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
_TEXTS = (
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


def closed(place: Place) -> SignerClosedError:
    """The error for what is used while, or after, it is closed."""
    return SignerClosedError(
        f"What was open on {place} was closed meanwhile.", hint="Close it after its last use."
    )


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
    for part, name in _TEXTS:
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


class _Rule(NamedTuple):
    """What return values mean to the user; `names` are theirs, without CKR_."""

    names: str
    kind: type[BackendError]
    code: str
    cause: str | None = None
    hint: str | None = None


_TRY_AGAIN = (
    "Try again; if it stays, check the device and whatever else uses this module in this process."
)
_CHECK_DEVICE = "Check the device, its daemon and its log; it is used again as soon as it answers."
_CHECK_PIN = "Check what pin-source refers to: exactly the PIN, on one line."
_ONE_USER_TYPE = "use one user type for the token."
# fmt: off
_RULES = (
    _Rule("DEVICE_ERROR GENERAL_ERROR FUNCTION_FAILED HOST_MEMORY FUNCTION_CANCELED CANCEL "
          "LIBRARY_LOAD_FAILED FIPS_SELF_TEST_FAILED TOKEN_RESOURCE_EXCEEDED",
          BackendUnavailableError, "device-error",
          "The HSM, its daemon or the connection to it has failed, or it is throttling.",
          _CHECK_DEVICE),
    _Rule("DEVICE_MEMORY", BackendUnavailableError, "device-error",
          "The token's memory is full.", _CHECK_DEVICE),
    _Rule("DEVICE_REMOVED TOKEN_NOT_PRESENT TOKEN_NOT_RECOGNIZED SLOT_ID_INVALID "
          "TOKEN_NOT_INITIALIZED", BackendUnavailableError, "token-gone",
          "The token was removed, or its daemon was stopped or restarted.",
          "Bring it back; it is found again by its label and serial."),
    _Rule("SESSION_CLOSED SESSION_HANDLE_INVALID OBJECT_HANDLE_INVALID KEY_HANDLE_INVALID "
          "OPERATION_ACTIVE OPERATION_NOT_INITIALIZED", BackendUnavailableError, "session-lost",
          "The token was reset or restarted, or another part of this process closed or logged out "
          "its sessions.", _TRY_AGAIN),
    _Rule("CRYPTOKI_NOT_INITIALIZED", BackendUnavailableError, "module-not-initialized",
          "Another part of this process finalised the module, or the process has forked.",
          _TRY_AGAIN),
    _Rule("SESSION_COUNT", BackendUnavailableError, "session-count",
          "The token has no session left: other processes, or max_sessions, use them up.",
          "Lower max_sessions in [backends.pkcs11], or close sessions elsewhere."),
    _Rule("CANT_LOCK", BackendUnavailableError, "module-not-thread-safe",
          "The module cannot lock with the operating system's primitives.",
          "Use a release of the module that supports CKF_OS_LOCKING_OK."),
    _Rule("PIN_INCORRECT", LoginError, "pin-incorrect",
          "The PIN is not this token's. It was tried once and is not tried again in this process.",
          "Correct the PIN that pin-source refers to and open the key again; the token counts "
          "failed logins."),
    _Rule("PIN_LOCKED", LoginError, "pin-locked", "Too many wrong PINs were tried.",
          "Have the security officer set a new PIN (pkcs11-tool --init-pin)."),
    _Rule("PIN_EXPIRED", LoginError, "pin-expired",
          "The token wants a new PIN before it is used.",
          "Change the PIN with the token's own tool (pkcs11-tool --change-pin)."),
    _Rule("PIN_INVALID", LoginError, "pin-invalid",
          "The PIN holds characters that the token does not take.", _CHECK_PIN),
    _Rule("PIN_LEN_RANGE", LoginError, "pin-invalid",
          "The PIN is shorter or longer than the token takes.", _CHECK_PIN),
    _Rule("PIN_TOO_WEAK", LoginError, "pin-invalid", "The token finds the PIN too weak.",
          _CHECK_PIN),
    _Rule("USER_PIN_NOT_INITIALIZED", LoginError, "pin-not-initialized",
          "The token has no user PIN yet.",
          "Have the security officer set it (pkcs11-tool --init-pin)."),
    _Rule("USER_TYPE_INVALID", LoginError, "user-type-refused",
          "The module does not know this user type.",
          "Leave user-type out, or see the module's manual."),
    _Rule("USER_ANOTHER_ALREADY_LOGGED_IN", LoginError, "login-other-user",
          "Another user type is logged in to this token in this process.",
          f"Log it out, or {_ONE_USER_TYPE}"),
    _Rule("USER_TOO_MANY_TYPES", LoginError, "login-other-user",
          "The token does not let so many users in at once.",
          f"Log others out, or {_ONE_USER_TYPE}"),
    _Rule("USER_NOT_LOGGED_IN", LoginError, "login-lost",
          "Another part of this process logged out of the token.",
          "Find what else uses this module in this process."),
    _Rule("MECHANISM_INVALID MECHANISM_PARAM_INVALID CURVE_NOT_SUPPORTED DOMAIN_PARAMS_INVALID "
          "DATA_INVALID DATA_LEN_RANGE", AlgorithmError, "mechanism-refused",
          "The token does not do this mechanism with this key, whatever its mechanism list says.",
          "Choose another algorithm, or see what the token allows: pkcs11-tool --module … -M."),
    _Rule("KEY_SIZE_RANGE KEY_TYPE_INCONSISTENT KEY_FUNCTION_NOT_PERMITTED KEY_EXHAUSTED "
          "KEY_CHANGED", KeyUnusableError, "key-refused",
          "The key's type, size or attributes do not allow the signature.",
          "Use a key with CKA_SIGN true, RSA of 2048 bits or more or on P-256, P-384 or P-521."),
    _Rule("TEMPLATE_INCOMPLETE TEMPLATE_INCONSISTENT ATTRIBUTE_TYPE_INVALID "
          "ATTRIBUTE_VALUE_INVALID ATTRIBUTE_READ_ONLY", BackendError, "template-refused",
          "The token does not accept an attribute that keystay sets on new keys.",
          "Generate the key with the vendor's tool (sensitive, not extractable, for signing)."),
    _Rule("SESSION_READ_ONLY SESSION_READ_ONLY_EXISTS TOKEN_WRITE_PROTECTED "
          "SESSION_READ_WRITE_SO_EXISTS", BackendError, "token-read-only",
          "The module wants read-write sessions, or the token is write-protected.",
          "Add rw=true to the key URI (or to [backends.pkcs11]); check the token's write "
          "protection."),
)
# fmt: on
_OTHERWISE = _Rule(
    "",
    BackendError,
    "device-refused",
    "The module refused the call.",
    "Look the return value up in the module's manual and in its log.",
)  # fmt: skip
_RULE_FOR = {name: rule for rule in _RULES for name in rule.names.split()}


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


def translate(error: PKCS11Error, what: str, place: Place) -> BackendError:
    """Make keystay's error for a PKCS#11 one; to be raised from it.

    Args:
        error: What python-pkcs11 or our own C calls raised.
        what: What was being done, such as `logging in`.
        place: Where.
    """
    if isinstance(error, KeyVanishedError):
        return error.error
    name = ckr_name(error)
    rule = _RULE_FOR.get(name.removeprefix("CKR_"), _OTHERWISE)
    return rule.kind(
        f"{what[:1].upper()}{what[1:]} failed: {place} returned {name}.",
        cause=rule.cause,
        hint=rule.hint,
        code=rule.code,
    )


@contextmanager
def translated(what: str, place: Place) -> Iterator[None]:
    """Turn every PKCS#11 exception of the block into keystay's; see `translate`."""
    try:
        yield
    except PKCS11Error as error:
        raise translate(error, what, place) from error
