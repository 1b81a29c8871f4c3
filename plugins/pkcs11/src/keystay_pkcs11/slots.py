"""What a slot can do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pkcs11 import MechanismFlag
from pkcs11.exceptions import PKCS11Error

if TYPE_CHECKING:
    from pkcs11 import Slot

__all__ = ["mechanism_flags", "signing_mechanisms"]


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
