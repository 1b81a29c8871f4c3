"""Which PKCS#11 mechanism makes a JWS algorithm's signature, and what it is given.

Mechanisms that take a digest come first: they are the portable set (SoftHSM has no
CKM_ECDSA_SHA384, openCryptoki's soft token no CKM_SHA384_RSA_PKCS), and only the digest
travels. Those that hash come second.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pkcs11 import MechanismFlag
from pkcs11.exceptions import PKCS11Error

from keystay.algorithms import ALGORITHMS, for_key
from keystay.signatures import digest_info
from keystay_pkcs11.errors import TEXTS

if TYPE_CHECKING:
    from pkcs11 import Slot

    from keystay.backends import SignRequest

__all__ = ["Plan", "mechanism_flags", "plan", "plans_for_key", "signing_mechanisms"]

Input = Literal["digest-info", "digest", "message"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How to make one algorithm's signature.

    Attributes:
        name: The mechanism's name, such as `CKM_ECDSA`.
        mechanism: CKM number.
        parameter: The mechanism parameter's bytes; empty for none.
        input: What is signed: DER DigestInfo, the digest, or the message.
        digest_size: Bytes the digest must have; 0 where the message is signed.
    """

    name: str
    mechanism: int
    parameter: bytes
    input: Input
    digest_size: int = 0

    def data(self, request: SignRequest) -> bytes:
        """The bytes that go to the token.

        Raises:
            AlgorithmError: The message is needed and only its digest is known.
            SignatureInvalidError: The digest has a length that the hash does not yield; SoftHSM,
                for one, would sign it.
        """
        if self.input == "message":
            if request.message is None:
                raise TEXTS.error("message-needed", mechanism=self.name)
            return request.message
        digest = request.digest or b""
        if (size := len(digest)) != self.digest_size:
            name = request.algorithm.name
            raise TEXTS.error("digest-length", algorithm=name, size=size, due=self.digest_size)
        return digest_info(digest, request.algorithm) if self.input == "digest-info" else digest


# PKCS #11 v3.1: mechanisms (sections 6.1, 6.3), MGFs (6.1.8).
_RSA_PKCS, _RSA_PKCS_PSS, _ECDSA, _EDDSA = 0x0001, 0x000D, 0x1041, 0x1057
_HASHES = {"sha256": 0x0250, "sha384": 0x0260, "sha512": 0x0270}
_MGF1 = {"sha256": 2, "sha384": 3, "sha512": 4}
_HASHED_RSA = {"sha256": 0x0040, "sha384": 0x0041, "sha512": 0x0042}
_HASHED_PSS = {"sha256": 0x0043, "sha384": 0x0044, "sha512": 0x0045}
_HASHED_ECDSA = {"sha256": 0x1044, "sha384": 0x1045, "sha512": 0x1046}


def plan(algorithm: str, mechanisms: Collection[int]) -> Plan | None:
    """The way to make `algorithm`'s signature with these mechanisms, the best first; or None.

    Args:
        algorithm: JWS algorithm.
        mechanisms: CKM numbers the token can sign with.
    """
    return next((p for p in _candidates(algorithm) if p.mechanism in mechanisms), None)


def plans_for_key(kty: str, curve: str | None, mechanisms: Collection[int]) -> dict[str, Plan]:
    """The plan for each algorithm that a kind of key can do, the default algorithm first."""
    found = {name: plan(name, mechanisms) for name in for_key(kty, curve)}
    return {name: way for name, way in found.items() if way is not None}


def signing_mechanisms(slot: Slot) -> frozenset[int]:
    """CKM numbers of the mechanisms that the slot's token signs with.

    Raises:
        PKCS11Error: The slot fails.
    """
    able = set()
    for mechanism in slot.get_mechanisms():
        flags = mechanism_flags(slot, int(mechanism))
        # A mechanism that is listed and has no information is taken to sign.
        if flags is None or flags & MechanismFlag.SIGN:
            able.add(int(mechanism))
    return frozenset(able)


def mechanism_flags(slot: Slot, mechanism: int) -> MechanismFlag | None:
    """A mechanism's flags, or None where the slot does not give them."""
    try:
        return slot.get_mechanism_info(mechanism).flags  # type: ignore[arg-type]
    except PKCS11Error:
        return None


def _candidates(name: str) -> tuple[Plan, ...]:
    algorithm = ALGORITHMS[name]
    hashed, size = algorithm.hash_name, algorithm.digest_size
    if hashed is None:
        return (Plan("CKM_EDDSA", _EDDSA, b"", "message"),)
    upper = hashed.upper()
    if algorithm.family == "ECDSA":
        return (
            Plan("CKM_ECDSA", _ECDSA, b"", "digest", size),
            Plan(f"CKM_ECDSA_{upper}", _HASHED_ECDSA[hashed], b"", "message"),
        )
    if algorithm.family == "RSASSA-PSS":
        # CK_RSA_PKCS_PSS_PARAMS: hash, mask generation function, salt length (RFC 7518 §3.5).
        parameter = struct.pack("@LLL", _HASHES[hashed], _MGF1[hashed], size)
        return (
            Plan("CKM_RSA_PKCS_PSS", _RSA_PKCS_PSS, parameter, "digest", size),
            Plan(f"CKM_{upper}_RSA_PKCS_PSS", _HASHED_PSS[hashed], parameter, "message"),
        )
    return (
        Plan("CKM_RSA_PKCS", _RSA_PKCS, b"", "digest-info", size),
        Plan(f"CKM_{upper}_RSA_PKCS", _HASHED_RSA[hashed], b"", "message"),
    )
