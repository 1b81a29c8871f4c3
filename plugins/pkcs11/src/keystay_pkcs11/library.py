"""Loads a PKCS#11 module once for python-pkcs11 and for our own C calls, both on one instance.

p11-kit's client hands out another instance, with a connection of its own, at each call of
C_GetFunctionList. So the list to use is the very one python-pkcs11 got.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING

from pkcs11 import _pkcs11
from pkcs11.exceptions import PKCS11Error

from keystay.errors import BackendLoadError, ConfigurationError
from keystay_pkcs11.cryptoki import Cryptoki, FunctionListCopy
from keystay_pkcs11.errors import Place, translate

if TYPE_CHECKING:
    from pkcs11 import Slot

__all__ = ["Library", "load"]

# python-pkcs11's base class of whatever holds a function list: three pointers, that one first.
_POINTERS = 3


class Library(_pkcs11.lib):
    """python-pkcs11's library; initialising and finalising are `Module`'s.

    Attributes:
        cryptoki: Our own calls into the same instance.
    """

    cryptoki: Cryptoki
    _filtered: FunctionListCopy | None = None

    def initialize(self) -> None:
        """Nothing: `Module` has done it."""

    def finalize(self) -> None:
        """Nothing: `Module` does it."""

    def readable_slots(self) -> tuple[list[Slot], list[str]]:
        """The slots with a token in them, and what those said that cannot be read.

        python-pkcs11 lists none if it cannot read one. It then sees the module through a copy of
        its function list, whose C_GetSlotList leaves those out.

        Raises:
            PKCS11Error: The slots cannot be listed.
        """
        try:
            return self.get_slots(token_present=True), []
        except PKCS11Error:
            _, trouble = self.cryptoki.readable_slots()
            if not trouble:
                raise
        if self._filtered is None:
            self._filtered = self.cryptoki.with_slot_list(lambda: self.cryptoki.readable_slots()[0])
        pointer = ctypes.c_void_p.from_address(_pointer_to_list(self))
        unfiltered, pointer.value = pointer.value, self._filtered.address
        try:
            return self.get_slots(token_present=True), trouble
        finally:
            pointer.value = unfiltered

    def read_info(self) -> None:
        """C_GetInfo: who made the module. It must be initialised.

        Raises:
            PKCS11Error: It does not tell.
        """
        super().__init__(self.so)


def load(path: str) -> Library:
    """Load a module without initialising it.

    Args:
        path: Real path.

    Raises:
        ConfigurationError: It cannot be loaded, or is no PKCS#11 module.
        BackendLoadError: The python-pkcs11 installed is not one this was written for.
    """
    try:
        # Loaded for good: some modules crash when unloaded. And this tells why it cannot be.
        ctypes.CDLL(path).C_GetFunctionList  # noqa: B018
    except OSError as error:
        raise ConfigurationError(
            f"The PKCS#11 module {path} cannot be loaded: {error}.",
            cause="It is no shared library, is built for another architecture, or lacks a library "
            "it needs.",
            hint=_HINT,
            code="module-unloadable",
        ) from error
    except AttributeError as error:
        raise ConfigurationError(
            f"{path} is a library, but no PKCS#11 module: it has no C_GetFunctionList.",
            hint=_HINT,
            code="module-unloadable",
        ) from error
    try:
        # Without __init__, which wants the module initialised.
        library: Library = Library.__new__(Library, path)  # type: ignore[call-arg]
    except PKCS11Error as error:
        raise translate(error, "loading the module", Place(path)) from error
    # For good, at the interpreter's end as well: python-pkcs11 unloads a module with its library.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(library))
    library.cryptoki = Cryptoki(_function_list(library, path))
    return library


_HINT = (
    "Name the vendor's PKCS#11 library for this machine's architecture (`p11-kit list-modules`)."
)


def _function_list(library: Library, path: str) -> int:
    """Address of the CK_FUNCTION_LIST that python-pkcs11 uses.

    It does not show it; it stands in the object right behind what every Python object begins
    with. The size of the class proves that nothing else does.
    """
    holder = getattr(_pkcs11, "HasFuncList", None)
    size = getattr(holder, "__basicsize__", 0)
    address = None
    if size == object.__basicsize__ + _POINTERS * ctypes.sizeof(ctypes.c_void_p):
        address = ctypes.c_void_p.from_address(_pointer_to_list(library)).value
    if address is None:
        raise BackendLoadError(
            f"The installed python-pkcs11 keeps {path} in a way keystay-pkcs11 does not know.",
            hint="pip install 'python-pkcs11>=0.10.1,<0.11'",
        )
    return address


def _pointer_to_list(library: Library) -> int:
    return id(library) + object.__basicsize__
