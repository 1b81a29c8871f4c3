"""The reach into python-pkcs11 (ADR 5): one instance of a module for its calls and for ours.

These calls are made through ctypes, for python-pkcs11 does not make them the way they are needed:

- `C_Initialize`: python-pkcs11 passes NULL, which promises a single thread, and then lets threads
  in; SoftHSM crashes. Here it gets CKF_OS_LOCKING_OK (PKCS #11 v3.1, section 5.4.1).
- `C_Login`: python-pkcs11 logs in while it opens a session, and loses that session on failure.
- `C_GetSlotInfo`: python-pkcs11 lists no slot if it cannot read one of them.
- `C_GetSessionInfo`: shows whether a user is logged in, without spending a PIN attempt.
- `C_SignInit`, `C_Sign`: python-pkcs11 asks for the size first, one more round trip on a remoted
  module, and costs three times as much.

All of them release the GIL. p11-kit's client returns another instance, with a connection of its
own, at each call of C_GetFunctionList, so the function list used is the one python-pkcs11 got.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from contextlib import suppress
from ctypes import CFUNCTYPE, POINTER, byref, c_ulong, c_void_p
from typing import TYPE_CHECKING, Any

from pkcs11 import _pkcs11
from pkcs11.exceptions import PKCS11Error

from keystay_pkcs11.errors import TEXTS, Place, ckr_name, exception_for, translate

if TYPE_CHECKING:
    from pkcs11 import Attribute, Object, Slot
    from pkcs11 import Session as NativeSession

__all__ = [
    "CKU_CONTEXT_SPECIFIC", "Cryptoki", "Library", "Mechanism", "SignBuffer", "find_objects",
    "load",
]  # fmt: skip

CKU_CONTEXT_SPECIFIC = 2
_CKR_OK = 0
_CKR_USER_ALREADY_LOGGED_IN = 0x100
_CKR_CRYPTOKI_ALREADY_INITIALIZED = 0x191
_CKF_OS_LOCKING_OK = 0x2
_CKU_SO, _CKU_USER = 0, 1
# CK_STATE of a session while that user is logged in, read-only and read-write.
_STATES = {_CKU_USER: frozenset((1, 3)), _CKU_SO: frozenset((4,))}

# Positions in CK_FUNCTION_LIST, after the version (pkcs11f.h).
_INITIALIZE, _FINALIZE, _GET_SLOT_INFO = 0, 1, 5
_GET_SESSION_INFO, _LOGIN, _LOGOUT, _SIGN_INIT, _SIGN = 15, 18, 19, 42, 43
_FUNCTIONS = 68  # in every CK_FUNCTION_LIST of version 2, which is what python-pkcs11 goes by
# CK_SLOT_INFO: description and manufacturer, flags, two versions of two bytes each.
_DESCRIPTION_BYTES = 64
_SLOT_INFO_BYTES = _DESCRIPTION_BYTES + 32 + ctypes.sizeof(c_ulong) + 4
# python-pkcs11's base class of everything with a function list: three pointers, that one first.
_POINTERS = 3
_SEARCH_BATCH = 10


class _InitializeArgs(ctypes.Structure):
    # The last member is NSS's: where the standard has pReserved it has LibraryParameters, and
    # then a pReserved of its own that must be NULL. Other modules do not look that far.
    _fields_ = (
        ("create_mutex", c_void_p), ("destroy_mutex", c_void_p), ("lock_mutex", c_void_p),
        ("unlock_mutex", c_void_p), ("flags", c_ulong), ("reserved", ctypes.c_char_p),
        ("nss_reserved", c_void_p),
    )  # fmt: skip


class _SessionInfo(ctypes.Structure):
    _fields_ = (
        ("slot_id", c_ulong), ("state", c_ulong), ("flags", c_ulong), ("device_error", c_ulong),
    )  # fmt: skip


class _Mechanism(ctypes.Structure):
    _fields_ = (("mechanism", c_ulong), ("parameter", c_void_p), ("length", c_ulong))


class Mechanism:
    """A CK_MECHANISM, made once and only read from then on.

    Args:
        number: CKM number.
        parameter: The parameter structure's bytes; empty for none.
    """

    __slots__ = ("_parameter", "_struct", "address")

    def __init__(self, number: int, parameter: bytes) -> None:
        self._parameter = ctypes.create_string_buffer(parameter, len(parameter) or 1)
        pointer = ctypes.addressof(self._parameter) if parameter else None
        self._struct = _Mechanism(number, pointer, len(parameter))
        self.address = ctypes.addressof(self._struct)


class SignBuffer:
    """Room for one session's signatures.

    Args:
        size: Bytes; more than any signature asked for.
    """

    __slots__ = ("address", "data", "length", "length_address", "size")

    def __init__(self, size: int = 1024) -> None:
        self.size = size
        self.data = (ctypes.c_char * size)()
        self.address = ctypes.addressof(self.data)
        self.length = c_ulong(size)
        self.length_address = ctypes.addressof(self.length)


class Cryptoki:
    """The functions of one module.

    Args:
        function_list: Address of its CK_FUNCTION_LIST.
    """

    def __init__(self, function_list: int) -> None:
        # The version's two bytes are padded to a pointer's size.
        functions = ctypes.cast(
            function_list + ctypes.sizeof(c_void_p), POINTER(c_void_p * (_SIGN + 1))
        ).contents

        def function(position: int, *arguments: type) -> ctypes._CFunctionType:
            return CFUNCTYPE(c_ulong, *arguments)(functions[position] or 0)

        self._initialize = function(_INITIALIZE, c_void_p)
        self._finalize = function(_FINALIZE, c_void_p)
        self._session_info = function(_GET_SESSION_INFO, c_ulong, c_void_p)
        self._login = function(_LOGIN, c_ulong, c_ulong, c_void_p, c_ulong)
        self._logout = function(_LOGOUT, c_ulong)
        self._sign_init = function(_SIGN_INIT, c_ulong, c_void_p, c_ulong)
        self._sign = function(_SIGN, c_ulong, c_void_p, c_ulong, c_void_p, c_void_p)

    def initialize(self, arguments: str | None) -> bool:
        """C_Initialize for many threads.

        Args:
            arguments: What the module wants in pReserved (NSS), or None.

        Returns:
            False if this process had it initialised already.
        """
        reserved = arguments.encode() if arguments is not None else None
        init = _InitializeArgs(None, None, None, None, _CKF_OS_LOCKING_OK, reserved, None)
        value = self._initialize(byref(init))
        if value == _CKR_CRYPTOKI_ALREADY_INITIALIZED:
            return False
        _check(value)
        return True

    def finalize(self) -> None:
        """C_Finalize. No other call into the module may be under way."""
        _check(self._finalize(None))

    def logged_in(self, session: int, user_type: int) -> bool:
        """Whether that user is logged in, by the session's state.

        Args:
            session: Session handle.
            user_type: CKU number; for a vendor's, any login counts.
        """
        info = _SessionInfo()
        _check(self._session_info(session, byref(info)))
        return info.state in _STATES.get(user_type, _STATES[_CKU_USER] | _STATES[_CKU_SO])

    def login(self, session: int, user_type: int, pin: bytes | None) -> bool:
        """C_Login.

        Args:
            session: Session handle.
            user_type: CKU number.
            pin: The PIN, or None to have it entered at the device.

        Returns:
            False if this process was logged in already.
        """
        value = self._login(session, user_type, pin, len(pin) if pin is not None else 0)
        if value == _CKR_USER_ALREADY_LOGGED_IN:
            return False
        _check(value)
        return True

    def logout(self, session: int) -> None:
        """C_Logout: for every session of this process with that token."""
        _check(self._logout(session))

    def sign(
        self,
        session: int,
        mechanism: Mechanism,
        key: int,
        data: bytes,
        buffer: SignBuffer,
        authenticate: Callable[[], object] | None = None,
    ) -> bytes:
        """C_SignInit and C_Sign; the session must not be in use elsewhere.

        Args:
            session: Session handle.
            mechanism: How to sign.
            key: Object handle of the private key.
            data: What to sign.
            buffer: The session's.
            authenticate: Called between the two, for keys with CKA_ALWAYS_AUTHENTICATE.
        """
        if value := self._sign_init(session, mechanism.address, key):
            raise exception_for(value)
        if authenticate is not None:
            authenticate()
        buffer.length.value = buffer.size
        if value := self._sign(session, data, len(data), buffer.address, buffer.length_address):
            raise exception_for(value)
        return buffer.data[: buffer.length.value]  # type: ignore[return-value]


class _TolerantList:
    """A copy of a CK_FUNCTION_LIST whose C_GetSlotInfo succeeds for every slot.

    The description of a slot that fails then says so: python-pkcs11 lists none if one fails.

    Args:
        original: Address of the list to copy; the copy must outlive its use.
    """

    MARK = "\x1funreadable: "

    def __init__(self, original: int) -> None:
        size = ctypes.sizeof(c_void_p)
        self._copy = ctypes.create_string_buffer(
            ctypes.string_at(original, size * (_FUNCTIONS + 1)), size * (_FUNCTIONS + 1)
        )
        self.address = ctypes.addressof(self._copy)
        entry = c_void_p.from_address(self.address + size * (_GET_SLOT_INFO + 1))
        prototype = CFUNCTYPE(c_ulong, c_ulong, c_void_p)
        self._get_slot_info = prototype(entry.value or 0)
        self._callback = prototype(self._describe_slot)  # kept: C code holds its address
        entry.value = ctypes.cast(self._callback, c_void_p).value

    def _describe_slot(self, slot: int, info: int) -> int:
        if value := self._get_slot_info(slot, info):
            text = f"{self.MARK}{ckr_name(exception_for(value))}".encode()
            ctypes.memset(info, 0, _SLOT_INFO_BYTES)
            ctypes.memset(info, ord(" "), _DESCRIPTION_BYTES)
            ctypes.memmove(info, text, min(len(text), _DESCRIPTION_BYTES))
        return _CKR_OK


class Library(_pkcs11.lib):
    """python-pkcs11's library; initialising and finalising are `Module`'s.

    Attributes:
        cryptoki: Our own calls into the same instance.
    """

    cryptoki: Cryptoki
    _list: _TolerantList

    def initialize(self) -> None:
        """Nothing: `Module` has done it."""

    def finalize(self) -> None:
        """Nothing: `Module` does it."""

    def readable_slots(self) -> tuple[list[Slot], list[str]]:
        """The slots with a token in them, and what is wrong with those that cannot be read.

        Raises:
            PKCS11Error: The slots cannot be listed.
        """
        readable, unreadable = [], []
        for slot in self.get_slots(token_present=True):
            _, is_unreadable, reason = slot.slot_description.partition(_TolerantList.MARK)
            if is_unreadable:
                unreadable.append(f"slot {slot.slot_id}: {reason}")
            else:
                readable.append(slot)
        return readable, unreadable

    def read_info(self) -> None:
        """C_GetInfo: description and manufacturer of the module. It must be initialised.

        Raises:
            PKCS11Error: It fails.
        """
        super().__init__(self.so)


class _Search(_pkcs11.SearchIter):  # type: ignore[name-defined,misc]
    """python-pkcs11's search, without its complaints from `__del__` after the token was lost."""

    def _finalize(self, silent: bool = False) -> None:
        # What was found is known by now, and the next call reports what was lost.
        with suppress(PKCS11Error):
            super()._finalize(silent)


def find_objects(session: NativeSession, template: dict[Attribute, Any]) -> list[Object]:
    """The objects that match a template, read to the end: a session has one search at a time."""
    with _Search(session, template, _SEARCH_BATCH) as search:
        return [item for batch in search for item in batch]


def load(path: str) -> Library:
    """Load a module without initialising it.

    Args:
        path: Real path.

    Raises:
        ConfigurationError: It cannot be loaded, or is no PKCS#11 module.
        BackendLoadError: The python-pkcs11 installed is not one this was written for.
    """
    try:
        # Loaded for good: some modules crash when unloaded. And the linker's reason is shown.
        ctypes.CDLL(path).C_GetFunctionList  # noqa: B018
    except (OSError, AttributeError) as error:
        is_library = isinstance(error, AttributeError)
        situation = "module-not-pkcs11" if is_library else "module-not-loaded"
        raise TEXTS.error(situation, path=path, error=error) from error
    try:
        # Without __init__, which wants the module initialised.
        library: Library = Library.__new__(Library, path)  # type: ignore[call-arg]
    except PKCS11Error as error:
        raise translate(error, "loading the module", Place(path)) from error
    # For good, at the interpreter's end as well: python-pkcs11 unloads a module with its library.
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(library))
    pointer = _function_list(library, path)
    assert pointer.value is not None
    library.cryptoki = Cryptoki(pointer.value)
    library._list = _TolerantList(pointer.value)
    pointer.value = library._list.address
    return library


def _function_list(library: Library, path: str) -> c_void_p:
    """Where python-pkcs11 keeps the address of the CK_FUNCTION_LIST that it uses.

    It is not public; it stands in the object right behind what every Python object begins with.
    The size of the class proves that nothing else does.
    """
    size = getattr(getattr(_pkcs11, "HasFuncList", None), "__basicsize__", 0)
    if size == object.__basicsize__ + _POINTERS * ctypes.sizeof(c_void_p):
        pointer = c_void_p.from_address(id(library) + object.__basicsize__)
        if pointer.value is not None:
            return pointer
    raise TEXTS.error("python-pkcs11-unknown", path=path)


def _check(value: int) -> None:
    if value != _CKR_OK:
        raise exception_for(value)
