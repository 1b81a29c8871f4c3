"""Each JWS algorithm's mechanism, parameter and input."""

from __future__ import annotations

import hashlib
import struct

import pytest

from keystay.algorithms import get
from keystay.backends import Deadline, SignRequest
from keystay.errors import AlgorithmError, SignatureInvalidError
from keystay_pkcs11.mechanisms import plan, plans_for_key

# PKCS #11 v3.1, header file.
RSA_PKCS, RSA_PKCS_PSS, ECDSA, EDDSA = 0x01, 0x0D, 0x1041, 0x1057
SHA256_RSA, SHA384_RSA, SHA512_RSA = 0x40, 0x41, 0x42
SHA256_PSS, SHA384_PSS, SHA512_PSS = 0x43, 0x44, 0x45
ECDSA_SHA256, ECDSA_SHA384, ECDSA_SHA512 = 0x1044, 0x1045, 0x1046
EVERYTHING = {
    RSA_PKCS, RSA_PKCS_PSS, ECDSA, EDDSA, SHA256_RSA, SHA384_RSA, SHA512_RSA, SHA256_PSS,
    SHA384_PSS, SHA512_PSS, ECDSA_SHA256, ECDSA_SHA384, ECDSA_SHA512,
}  # fmt: skip
MESSAGE = b"header.claims"

PREHASHED = {
    "RS256": (RSA_PKCS, "digest-info"),
    "RS384": (RSA_PKCS, "digest-info"),
    "RS512": (RSA_PKCS, "digest-info"),
    "PS256": (RSA_PKCS_PSS, "digest"),
    "PS384": (RSA_PKCS_PSS, "digest"),
    "PS512": (RSA_PKCS_PSS, "digest"),
    "ES256": (ECDSA, "digest"),
    "ES384": (ECDSA, "digest"),
    "ES512": (ECDSA, "digest"),
    "EdDSA": (EDDSA, "message"),
}
HASHED = {
    "RS256": SHA256_RSA, "RS384": SHA384_RSA, "RS512": SHA512_RSA,
    "PS256": SHA256_PSS, "PS384": SHA384_PSS, "PS512": SHA512_PSS,
    "ES256": ECDSA_SHA256, "ES384": ECDSA_SHA384, "ES512": ECDSA_SHA512,
}  # fmt: skip
PSS_PARAMETERS = {"256": (0x250, 2, 32), "384": (0x260, 3, 48), "512": (0x270, 4, 64)}


def request(name: str, message: bytes | None = MESSAGE, digest: bytes | None = None) -> SignRequest:
    """A request to sign."""
    algorithm = get(name)
    return SignRequest(algorithm, message, Deadline.after(1), digest)


@pytest.mark.parametrize(("name", "expected"), PREHASHED.items(), ids=PREHASHED)
def test_prefers_prehashed(name: str, expected: tuple[int, str]) -> None:
    """With every mechanism at hand, the one that takes a digest is chosen."""
    found = plan(name, EVERYTHING)

    assert found is not None
    assert expected == (found.mechanism, found.input)


@pytest.mark.parametrize(("name", "expected"), HASHED.items(), ids=HASHED)
def test_falls_back_to_hashed(name: str, expected: int) -> None:
    """Without it, the one that hashes; it gets the message."""
    found = plan(name, EVERYTHING - {RSA_PKCS, RSA_PKCS_PSS, ECDSA})

    assert found is not None
    assert (expected, MESSAGE) == (found.mechanism, found.data(request(name)))


@pytest.mark.parametrize("mechanisms", [{RSA_PKCS_PSS}, {SHA384_PSS}], ids=["prehashed", "hashed"])
@pytest.mark.parametrize("size", PSS_PARAMETERS)
def test_pss_parameters(size: str, mechanisms: set[int]) -> None:
    """Hash, MGF1 and salt length of RFC 7518 §3.5 are said explicitly."""
    found = plan(f"PS{size}", mechanisms | ({0x43, 0x44, 0x45} if 0x44 in mechanisms else set()))

    assert found is not None
    assert PSS_PARAMETERS[size] == struct.unpack("@LLL", found.parameter)


@pytest.mark.parametrize("name", PREHASHED)
def test_none(name: str) -> None:
    """A token that has no fitting mechanism has no plan."""
    assert plan(name, {0x1085}) is None


def test_data_digest_info() -> None:
    """RSA gets the DER DigestInfo of the digest (RFC 8017 §9.2)."""
    found = plan("RS384", {RSA_PKCS})
    prefix = bytes.fromhex("3041300d060960864801650304020205000430")

    assert found is not None
    assert prefix + hashlib.sha384(MESSAGE).digest() == found.data(request("RS384"))


@pytest.mark.parametrize("name", [n for n, (_, i) in PREHASHED.items() if i != "message"])
def test_data_wrong_digest_length(name: str) -> None:
    """A digest of another length is refused: SoftHSM's CKM_ECDSA signs anything."""
    found = plan(name, EVERYTHING)

    assert found is not None
    with pytest.raises(SignatureInvalidError, match="has 1000 bytes"):
        found.data(request(name, None, bytes(1000)))


def test_data_message_needed() -> None:
    """A mechanism that hashes cannot do with a digest alone."""
    found = plan("ES384", {ECDSA_SHA384})

    assert found is not None
    with pytest.raises(AlgorithmError, match="CKM_ECDSA_SHA384 signs messages"):
        found.data(request("ES384", None, bytes(48)))


def test_plans_for_key() -> None:
    """A key's algorithms are those its kind and the token have in common, the default first."""
    assert ["RS384", "RS256", "RS512"] == list(plans_for_key("RSA", None, {RSA_PKCS, ECDSA}))
    assert ["ES384"] == list(plans_for_key("EC", "P-384", EVERYTHING))
    assert [] == list(plans_for_key("OKP", "Ed25519", EVERYTHING - {EDDSA}))
