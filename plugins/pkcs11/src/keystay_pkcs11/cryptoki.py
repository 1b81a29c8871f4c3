"""The C calls that python-pkcs11 does not make the way they are needed, through ctypes.

- `C_Initialize`: python-pkcs11 passes NULL, which promises a single thread, and then lets threads
  in; SoftHSM crashes. Here it gets CKF_OS_LOCKING_OK (PKCS #11 v3.1, section 5.4.1).
- `C_Login`: python-pkcs11 logs in while it opens a session, and loses that session on failure.
- `C_GetSlotList`, `C_GetSlotInfo`: python-pkcs11 lists no slot if it cannot read one of them.
- `C_GetSessionInfo`: tells whether somebody is logged in, without spending a PIN attempt.
- `C_SignInit`, `C_Sign`: python-pkcs11 asks for the size first, one more round trip on a remoted
  module, and costs three times as much.

All of them release the GIL. Everything else is python-pkcs11's.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import CFUNCTYPE, POINTER, byref, c_ubyte, c_ulong, c_void_p

from pkcs11.exceptions import PKCS11Error

from keystay_pkcs11.errors import ckr_name, exception_for

__all__ = ["CKU_CONTEXT_SPECIFIC", "Cryptoki", "FunctionListCopy", "Mechanism", "SignBuffer"]

CKU_CONTEXT_SPECIFIC = 2
_CKR_OK = 0
_CKR_GENERAL_ERROR = 0x5
_CKR_USER_ALREADY_LOGGED_IN = 0x100
_CKR_CRYPTOKI_ALREADY_INITIALIZED = 0x191
_CKF_OS_LOCKING_OK = 0x2
_CKU_SO, _CKU_USER = 0, 1
# CK_STATE of a session while that user is logged in, read-only and read-write.
_STATES = {_CKU_USER: frozenset((1, 3)), _CKU_SO: frozenset((4,))}

# Positions in CK_FUNCTION_LIST, after the version (pkcs11f.h).
_INITIALIZE, _FINALIZE, _GET_SLOT_LIST, _GET_SLOT_INFO = 0, 1, 4, 5
_GET_SESSION_INFO, _LOGIN, _LOGOUT, _SIGN_INIT, _SIGN = 15, 18, 19, 42, 43
_FUNCTIONS = 68  # in every CK_FUNCTION_LIST of version 2, which is what python-pkcs11 goes by
_CKR_BUFFER_TOO_SMALL = 0x150
_SLOT_INFO_BYTES = 256  # more than a CK_SLOT_INFO has


class _InitializeArgs(ctypes.Structure):
    # The last member is NSS's: where the standard has pReserved it has LibraryParameters, and
    # then a pReserved of its own that must be NULL. Other modules do not look that far.
    _fields_ = (
        ("create_mutex", c_void_p),
        ("destroy_mutex", c_void_p),
        ("lock_mutex", c_void_p),
        ("unlock_mutex", c_void_p),
        ("flags", c_ulong),
        ("reserved", ctypes.c_char_p),
        ("nss_reserved", c_void_p),
    )


class _SessionInfo(ctypes.Structure):
    _fields_ = (
        ("slot_id", c_ulong),
        ("state", c_ulong),
        ("flags", c_ulong),
        ("device_error", c_ulong),
    )


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


class FunctionListCopy:
    """A CK_FUNCTION_LIST with a C_GetSlotList of its own; must outlive whoever uses it.

    Args:
        original: Address of the list to copy.
        slots: Returns the slot ids to give; may raise PKCS11Error.
    """

    def __init__(self, original: int, slots: Callable[[], list[int]]) -> None:
        def get_slot_list(_present: int, ids: int | None, count: int) -> int:
            try:
                found = slots()
            except PKCS11Error:
                return _CKR_GENERAL_ERROR
            room = c_ulong.from_address(count)
            given, room.value = room.value, len(found)
            if ids is not None:
                if given < len(found):
                    return _CKR_BUFFER_TOO_SMALL
                given_ids = (c_ulong * len(found))(*found)
                ctypes.memmove(ids, given_ids, ctypes.sizeof(given_ids))
            return _CKR_OK

        self._callback = CFUNCTYPE(c_ulong, c_ubyte, c_void_p, c_void_p)(get_slot_list)
        size = ctypes.sizeof(c_void_p)
        self._copy = ctypes.create_string_buffer(
            ctypes.string_at(original, size * (_FUNCTIONS + 1)), size * (_FUNCTIONS + 1)
        )
        self.address = ctypes.addressof(self._copy)
        entry = c_void_p.from_address(self.address + size * (_GET_SLOT_LIST + 1))
        entry.value = ctypes.cast(self._callback, c_void_p).value


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

        self._list = function_list
        self._slot_list = function(_GET_SLOT_LIST, c_ubyte, c_void_p, c_void_p)
        self._slot_info = function(_GET_SLOT_INFO, c_ulong, c_void_p)
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
            False if somebody in this process had done it already.
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

    def readable_slots(self) -> tuple[list[int], list[str]]:
        """Ids of the slots with a token in them, and what those said that cannot be read."""
        count = c_ulong()
        _check(self._slot_list(1, None, byref(count)))
        ids = (c_ulong * max(1, count.value))()
        _check(self._slot_list(1, byref(ids), byref(count)))
        good, trouble = [], []
        info = (c_ubyte * _SLOT_INFO_BYTES)()
        for slot in ids[: count.value]:
            if value := self._slot_info(slot, byref(info)):
                trouble.append(f"slot {slot}: {ckr_name(exception_for(value))}")
            else:
                good.append(slot)
        return good, trouble

    def with_slot_list(self, slots: Callable[[], list[int]]) -> FunctionListCopy:
        """A copy of the function list whose C_GetSlotList gives what `slots` returns."""
        return FunctionListCopy(self._list, slots)

    def logged_in(self, session: int, user_type: int) -> bool:
        """Whether that user is logged in, as the session's state tells.

        Args:
            session: Session handle.
            user_type: CKU number; for a vendor's, whoever is logged in counts.
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
            False if somebody in this process had logged in already.
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
        self, session: int, mechanism: Mechanism, key: int, data: bytes, buffer: SignBuffer
    ) -> bytes:
        """C_SignInit and C_Sign; the session must not be in use elsewhere."""
        if value := self._sign_init(session, mechanism.address, key):
            raise exception_for(value)
        buffer.length.value = buffer.size
        if value := self._sign(session, data, len(data), buffer.address, buffer.length_address):
            raise exception_for(value)
        return buffer.data[: buffer.length.value]  # type: ignore[return-value]

    def sign_confirmed(
        self,
        session: int,
        mechanism: Mechanism,
        key: int,
        data: bytes,
        buffer: SignBuffer,
        pin: bytes | None,
    ) -> bytes:
        """As `sign`, with the PIN in between: for keys with CKA_ALWAYS_AUTHENTICATE."""
        if value := self._sign_init(session, mechanism.address, key):
            raise exception_for(value)
        self.login(session, CKU_CONTEXT_SPECIFIC, pin)
        buffer.length.value = buffer.size
        _check(self._sign(session, data, len(data), buffer.address, buffer.length_address))
        return buffer.data[: buffer.length.value]  # type: ignore[return-value]


def _check(value: int) -> None:
    if value != _CKR_OK:
        raise exception_for(value)
