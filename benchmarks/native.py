"""Compiles and loads the C parts: the raw device, in this very process."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

HERE = Path(__file__).parent / "c"

CKM_RSA_PKCS = 0x1
CKM_ECDSA = 0x1041


class RawDevice:
    """A token of an initialised module, driven from C.

    Args:
        folder: Where to put the compiled library.
        module: The PKCS#11 library.
        token: The token's label.
    """

    def __init__(self, folder: Path, module: str, token: str) -> None:
        library = ctypes.CDLL(str(compiled(folder, "p11loop")))
        self._loop, slot = library.p11_loop, library.p11_slot
        self._loop.restype = ctypes.c_double
        slot.restype = ctypes.c_long
        self._functions = ctypes.c_void_p()
        self._module = ctypes.CDLL(module)
        self._module.C_GetFunctionList(ctypes.byref(self._functions))
        self._slot = slot(self._functions, token.encode())
        if self._slot < 0:
            raise LookupError(f"no token {token}")

    def seconds(self, label: str, mechanism: int, data: bytes, count: int, threads: int) -> float:
        """What `threads` threads with a session each take for `count` signatures each."""
        spent: float = self._loop(
            self._functions,
            ctypes.c_ulong(self._slot),
            label.encode(),
            ctypes.c_ulong(mechanism),
            data,
            ctypes.c_ulong(len(data)),
            ctypes.c_ulong(count),
            threads,
        )
        if spent < 0:
            raise RuntimeError(f"CKR {int(-spent):#x}")
        return spent


def compiled(folder: Path, name: str) -> Path:
    """Compile `c/<name>.c` to a shared library in `folder`."""
    target = folder / f"{name}.so"
    command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-pthread"]
    command += ["-I/usr/include/p11-kit-1", str(HERE / f"{name}.c"), "-o", str(target)]
    subprocess.run(command, check=True)
    return target
