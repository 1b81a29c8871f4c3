"""What is in a module's slots, and what they can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pkcs11 import MechanismFlag, TokenFlag
from pkcs11.exceptions import PKCS11Error

from keystay_pkcs11.errors import ckr_name
from keystay_pkcs11.selection import TokenFacts

if TYPE_CHECKING:
    from pkcs11 import Slot
    from pkcs11 import Token as NativeToken

    from keystay_pkcs11.library import Library

__all__ = ["mechanism_flags", "present_tokens", "signing_mechanisms"]


def present_tokens(
    library: Library,
) -> tuple[list[tuple[TokenFacts, NativeToken]], list[str]]:
    """The tokens there are, and what slots said that could not be read.

    Raises:
        PKCS11Error: The slots cannot be listed.
    """
    slots, trouble = library.readable_slots()
    found = []
    for slot in slots:
        try:
            native = slot.get_token()
        except PKCS11Error as error:
            trouble.append(f"slot {slot.slot_id}: {ckr_name(error)}")
        else:
            found.append((_facts(native, library), native))
    return found, trouble


def signing_mechanisms(slot: Slot) -> frozenset[int]:
    """CKM numbers of the mechanisms that the slot's token signs with.

    Raises:
        PKCS11Error: The slot fails.
    """
    able = set()
    for mechanism in slot.get_mechanisms():
        flags = mechanism_flags(slot, int(mechanism))
        # A module that tells nothing about a mechanism it lists is taken at its list's word.
        if flags is None or flags & MechanismFlag.SIGN:
            able.add(int(mechanism))
    return frozenset(able)


def mechanism_flags(slot: Slot, mechanism: int) -> MechanismFlag | None:
    """A mechanism's flags, or None where the slot does not tell."""
    try:
        return slot.get_mechanism_info(mechanism).flags  # type: ignore[arg-type]
    except PKCS11Error:
        return None


def _facts(token: NativeToken, library: Library) -> TokenFacts:
    slot = token.slot
    return TokenFacts(
        label=token.label,
        serial=token.serial.decode(errors="replace").rstrip("\0 "),
        model=token.model,
        manufacturer=token.manufacturer_id,
        slot_id=str(slot.slot_id),
        slot_description=slot.slot_description,
        slot_manufacturer=slot.manufacturer_id,
        library_description=library.library_description,
        library_manufacturer=library.manufacturer_id,
        library_version="{}.{}".format(*library.library_version),
        initialized=bool(token.flags & TokenFlag.TOKEN_INITIALIZED),
    )
