"""A PKCS#11 module that counts, delays, fails and lies on request, with SoftHSM behind it.

The shim is compiled for the test session. A test that uses it works in a subprocess, and there
controls it with `Shim`: the module keeps its faults in the memory of the process it is loaded in.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.missing import require_program
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from tests.support.softhsm import SoftHSM

_SOURCE = Path(__file__).with_suffix(".c")
_ROOT = Path(__file__).parents[2]

FUNCTIONS = (
    "C_Initialize", "C_Finalize", "C_GetInfo", "C_GetFunctionList", "C_GetSlotList",
    "C_GetSlotInfo", "C_GetTokenInfo", "C_GetMechanismList", "C_GetMechanismInfo", "C_InitToken",
    "C_InitPIN", "C_SetPIN", "C_OpenSession", "C_CloseSession", "C_CloseAllSessions",
    "C_GetSessionInfo", "C_GetOperationState", "C_SetOperationState", "C_Login", "C_Logout",
    "C_CreateObject", "C_CopyObject", "C_DestroyObject", "C_GetObjectSize", "C_GetAttributeValue",
    "C_SetAttributeValue", "C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal",
    "C_EncryptInit", "C_Encrypt", "C_EncryptUpdate", "C_EncryptFinal", "C_DecryptInit",
    "C_Decrypt", "C_DecryptUpdate", "C_DecryptFinal", "C_DigestInit", "C_Digest",
    "C_DigestUpdate", "C_DigestKey", "C_DigestFinal", "C_SignInit", "C_Sign",
)  # fmt: skip
"""In the order of CK_FUNCTION_LIST (pkcs11f.h), as far as tests need them."""

CKR_DEVICE_ERROR = 0x30
CKR_FUNCTION_FAILED = 0x06
CKR_KEY_HANDLE_INVALID = 0x60
CKR_PIN_INCORRECT = 0xA0
CKR_PIN_LOCKED = 0xA4
CKR_SESSION_HANDLE_INVALID = 0xB3
CKR_USER_NOT_LOGGED_IN = 0x101
CKR_CRYPTOKI_NOT_INITIALIZED = 0x190
CKF_LOGIN_REQUIRED = 0x04
CKF_USER_PIN_COUNT_LOW = 0x10000
CKF_USER_PIN_FINAL_TRY = 0x20000
CKF_USER_PIN_LOCKED = 0x40000


class Shim:
    """The shim as it is loaded in this process.

    Args:
        path: The compiled module.
    """

    def __init__(self, path: str) -> None:
        self._library = ctypes.CDLL(path)
        self._library.shim_calls.restype = ctypes.c_long
        self._library.shim_sessions.restype = ctypes.c_long

    def calls(self, function: str) -> int:
        """Return how often a function was called."""
        return int(self._library.shim_calls(FUNCTIONS.index(function)))

    def fail(self, function: str, value: int, times: int = -1) -> None:
        """Let a function return `value`, `times` times or (-1) until told otherwise (0)."""
        number = FUNCTIONS.index(function)
        self._library.shim_fail(number, ctypes.c_ulong(value), ctypes.c_long(times))

    def hang(self, function: str, times: int = -1) -> None:
        """Let a function not return, `times` times or always (-1), until `release`."""
        self._library.shim_hang(FUNCTIONS.index(function), ctypes.c_long(times))

    def release(self) -> None:
        """Let every call that hangs go on."""
        self._library.shim_release()

    def delay(self, function: str, seconds: float) -> None:
        """Let a function take longer."""
        microseconds = ctypes.c_long(int(seconds * 1e6))
        self._library.shim_delay(FUNCTIONS.index(function), microseconds)

    def skip(self, function: str) -> None:
        """Let a function do nothing and succeed."""
        self._library.shim_skip(FUNCTIONS.index(function), 1)

    def token_flags(self, *, on: int = 0, off: int = 0) -> None:
        """Let the token's flags differ."""
        self._library.shim_token_flags(ctypes.c_ulong(on), ctypes.c_ulong(off))

    def hardware(self, *, slot: bool, mechanism: bool) -> None:
        """Let the slot, the mechanisms or both claim to be hardware."""
        self._library.shim_hardware(ctypes.c_ulong(4 * slot), ctypes.c_ulong(mechanism))

    def vendor(self, name: str) -> None:
        """Let module, slot and token name another manufacturer and model."""
        self._library.shim_vendor(name.encode())

    def session_limit(self, limit: int) -> None:
        """Let there be no more sessions than that at once."""
        self._library.shim_session_limit(ctypes.c_long(limit))

    def sessions(self) -> int:
        """Return how many sessions are open."""
        return int(self._library.shim_sessions())

    def break_slot(self, slot: int) -> None:
        """Let a slot answer what it is with CKR_DEVICE_ERROR."""
        self._library.shim_break_slot(ctypes.c_long(slot))

    def attribute(self, kind: int, *, value: bool) -> None:
        """Let every object's attribute of that CKA number be that."""
        self._library.shim_attribute(ctypes.c_ulong(kind), int(value))


def compile_shim(directory: Path) -> Path:
    """Compile the module."""
    target = directory / "p11shim.so"
    subprocess.run(
        [
            require_program("gcc", "gcc"), "-O1", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC",
            _SOURCE, "-o", target,
        ],
        check=True,
    )  # fmt: skip
    return target


class ShimmedToken:
    """A SoftHSM token behind the shim, used in subprocesses.

    Attributes:
        token: The token.
        module: The compiled shim.
        log: Where every C_Login of every process is noted.
    """

    def __init__(self, token: SoftHSM, module: Path, directory: Path) -> None:
        self.token = token
        self.module = module
        self.log = directory / "logins"
        self.env = {
            **token.env, "P11SHIM_MODULE": token.module, "P11SHIM_LOG": str(self.log),
        }  # fmt: skip

    def key_uri(self, label: str, *, extra: str = "") -> str:
        """Return the URI of a key through the shim."""
        query = f"module-path={self.module}&pin-source=file:{self.token.pin_file}{extra}"
        return f"{self.token.uri};object={label}?{query}"

    def logins(self) -> list[int]:
        """Return what each C_Login returned, in order."""
        if not self.log.exists():
            return []
        return [int(line.split()[1]) for line in self.log.read_text().splitlines()]

    def run(self, source: str, *arguments: str, timeout: float = 60) -> str:
        """Run Python in a subprocess that must succeed, with `shim` and `keystay` at hand.

        Its output, standard error included, must hold no secret.
        """
        prelude = (
            "import sys, warnings; warnings.simplefilter('error')\n"
            "import keystay\n"
            "from keystay import errors\n"
            "from tests.support import p11shim\n"
            f"shim = p11shim.Shim({str(self.module)!r})\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", prelude + textwrap.dedent(source), *arguments],
            env={**os.environ, **self.env},
            cwd=_ROOT,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        output = done.stdout + done.stderr
        WATCH.check(output, "the output of the subprocess")
        assert done.returncode == 0, output
        return output
