"""Where a token's private key is while it signs, as far as PKCS#11 lets us know.

The rules, the first that holds decides; on doubt the weaker claim:

| what we see                                                             | location      |
|-------------------------------------------------------------------------|---------------|
| module, token or manufacturer is one of known software, loaded directly  | in-process    |
| known software, behind p11-kit's remoting client                         | other-process |
| CKF_HW_SLOT on the slot and CKF_HW on the mechanism that signs           | hardware      |
| the module is p11-kit's remoting client                                  | other-process |
| anything else                                                            | in-process    |

Attributes such as CKA_SENSITIVE are facts, and never raise the location: SoftHSM reports
perfect ones for keys that it decrypts in this process.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Literal

from pkcs11 import MechanismFlag, SlotFlag, TokenFlag

from keystay.custody import Custody, Fact
from keystay_pkcs11.mechanisms import mechanism_flags

if TYPE_CHECKING:
    from pkcs11 import Token

    from keystay_pkcs11.cryptoki import Library
    from keystay_pkcs11.uri import TokenFacts

__all__ = ["SOFTWARE", "Evidence", "assess_custody", "computes_here", "gather", "is_remoted"]


@dataclass(frozen=True, slots=True)
class Software:
    """A PKCS#11 module known to compute in the process that loads it.

    Attributes:
        name: For the reason.
        word: Lower case; occurs in what the module or its token reports of itself.
        source: Where that is stated.
    """

    name: str
    word: str
    source: str


SOFTWARE = (
    Software("SoftHSM", "softhsm", "SoftHSMv2 src/lib/SoftHSM.cpp: C_GetInfo, C_GetTokenInfo"),
    Software("NSS softoken", "mozilla foundation", "NSS lib/softoken/pkcs11.c: manufacturerID"),
    Software("NSS softoken", "nss internal", "NSS lib/softoken/pkcs11.c: libraryDescription"),
    Software("openCryptoki's soft token", "ibm soft", "openCryptoki soft_specific.c: descr"),
    Software("openCryptoki's soft token", "model=soft\n", "openCryptoki soft_specific.c: model"),
    # It accelerates, with keys in the clear in this process.
    Software("openCryptoki's ICA token", "ibm ica", "openCryptoki ica_specific.c: descr"),
    Software("openCryptoki's ICA token", "model=ica\n", "openCryptoki ica_specific.c: model"),
    Software("Kryoptic", "kryoptic", "kryoptic src/lib.rs: MANUFACTURER_ID, LIBRARY_DESCRIPTION"),
    Software("a software TPM", "sw   tpm", "libtpms: TPM2_PT_VENDOR_STRING, as tpm2-pkcs11 has it"),
)
"""Software that signs in the process that loads it."""

_REMOTING = "p11-kit-client"


def computes_here(module: str, library: Library) -> bool:
    """Whether a module is known to be software that signs in the thread that calls it.

    Args:
        module: Its real path.
        library: python-pkcs11's library.
    """
    words = f"{library.library_description}\n{library.manufacturer_id}".lower()
    return not is_remoted(module) and any(s.word in words for s in SOFTWARE)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the module, the slot and the token report of themselves.

    Attributes:
        module: Real path of the module.
        words: Descriptions and manufacturers, lower case.
        facts: For the report; `hardware_slot` is CKF_HW_SLOT, and `hardware_mechanism` CKF_HW of
            the mechanism that signs.
    """

    module: str
    words: str
    facts: Mapping[str, str | bool]

    @property
    def claims_hardware(self) -> bool:
        """Whether both the slot and the mechanism do."""
        return self.facts["hardware_slot"] is self.facts["hardware_mechanism"] is True


def gather(reported: TokenFacts, token: Token, module: str, mechanism: int | None) -> Evidence:
    """Ask the token.

    Args:
        reported: What the token, its slot and its module report of themselves.
        token: python-pkcs11's token.
        module: Real path of the module.
        mechanism: CKM number of the mechanism that signs, or None.
    """
    flags = mechanism_flags(token.slot, mechanism) if mechanism is not None else None
    facts: dict[str, str | bool] = {
        "module": module,
        "token": reported.label,
        "token_serial": reported.serial,
        "token_manufacturer": reported.manufacturer,
        "token_model": reported.model,
        "token_firmware": "{}.{}".format(*token.firmware_version),
        "token_hardware": "{}.{}".format(*token.hardware_version),
        "login_required": bool(token.flags & TokenFlag.LOGIN_REQUIRED),
        "hardware_slot": bool(token.slot.flags & SlotFlag.HW_SLOT),
        "hardware_mechanism": bool(flags and flags & MechanismFlag.HW),
        "library": reported.library_description,
        "library_manufacturer": reported.library_manufacturer,
        "library_version": reported.library_version,
    }
    texts = (
        reported.manufacturer, f"model={reported.model}", reported.slot_description,
        reported.slot_manufacturer, reported.library_description, reported.library_manufacturer,
    )  # fmt: skip
    return Evidence(module, "".join(f"{text}\n" for text in texts).lower(), facts)


def assess_custody(evidence: Evidence, attributes: Mapping[str, bool]) -> Custody:
    """The custody of a key.

    Args:
        evidence: What `gather` found.
        attributes: What the token reports of the key (`sensitive`, …); facts only.
    """
    software = next((s.name for s in SOFTWARE if s.word in evidence.words), None)
    remoted = is_remoted(evidence.module)
    location: Literal["in-process", "other-process", "hardware"] = "in-process"
    if software and not remoted:
        reason = f"{software} is software that signs inside the process that loads it, this one."
    elif not software and evidence.claims_hardware:
        location = "hardware"
        reason = "The slot says it is hardware, and so does the mechanism that signs (CKF_HW)."
    elif remoted:
        location = "other-process"
        where = f"{software} works" if software else "the token is"
        reason = f"The module is p11-kit's remoting client: {where} in another process."
    else:
        reason = (
            "Nothing shows that the module does not sign inside this process: neither CKF_HW_SLOT "
            "with CKF_HW on the mechanism, nor remoting."
        )
    facts = {
        key: Fact(value, "reported") for key, value in {**evidence.facts, **attributes}.items()
    }
    return Custody(location, "reported", reason, facts)


def is_remoted(module: str) -> bool:
    """Whether a module is p11-kit's remoting client, by its path."""
    return PurePath(module).name.startswith(_REMOTING)
