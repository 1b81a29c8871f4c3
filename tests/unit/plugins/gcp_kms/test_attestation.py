"""An HSM's attestation: chain, signature and key. The certificates are this test's own.

No attestation of a real HSM has been verified with this code.
"""

from __future__ import annotations

import gzip
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from google.cloud import kms_v1

from keystay_gcp_kms.attestation import AttestationInvalid, load_roots, verify
from keystay_gcp_kms.custody import Attestation, judge
from keystay_gcp_kms.settings import Settings

NOW = datetime(2026, 6, 1, tzinfo=UTC)
RSA = [rsa.generate_private_key(65537, 2048) for _ in range(4)]
KEYS: dict[str, Any] = {
    "P-384": ec.generate_private_key(ec.SECP384R1()).public_key(),
    "RSA-2048": RSA[3].public_key(),
}


def certificate(
    subject: str, key: Any, issuer: str, signer: Any, *, ends: datetime | None = None
) -> x509.Certificate:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    return (
        x509.CertificateBuilder()
        .subject_name(name(subject))
        .issuer_name(name(issuer))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=400))
        .not_valid_after(ends or NOW + timedelta(days=400))
        .sign(signer, hashes.SHA256())
    )


ROOT = certificate("root", RSA[0], "root", RSA[0])
CARD = certificate("card", RSA[1], "root", RSA[0])
PARTITION = certificate("partition", RSA[2], "card", RSA[1])


def pem(found: x509.Certificate) -> str:
    return found.public_bytes(Encoding.PEM).decode()


def statement(kind: str) -> bytes:
    point: bytes
    numbers = KEYS[kind].public_numbers()
    if kind == "P-384":
        point = b"\x04" + numbers.x.to_bytes(48, "big") + numbers.y.to_bytes(48, "big")
    else:
        point = numbers.n.to_bytes(256, "big")
    return b"header" + point + b"attributes"


def attestation(
    kind: str = "P-384",
    *,
    content: bytes | None = None,
    text: bytes | None = None,
    chain: tuple[x509.Certificate, ...] = (PARTITION, CARD),
) -> kms_v1.KeyOperationAttestation:
    text = statement(kind) if text is None else text
    signed = text + RSA[2].sign(text, padding.PKCS1v15(), hashes.SHA256())
    return kms_v1.KeyOperationAttestation(
        format="CAVIUM_V2_COMPRESSED",
        content=gzip.compress(signed) if content is None else content,
        cert_chains={
            "google_partition_certs": [pem(c) for c in chain[:1]],
            "google_card_certs": [pem(c) for c in chain[1:]],
        },
    )


@pytest.mark.parametrize("kind", KEYS)
def test_verified(kind: str) -> None:
    """A good chain, a good signature, this key."""
    assert "CN=root" == verify(attestation(kind), KEYS[kind], [ROOT], now=NOW)


def test_a_trusted_intermediate_will_do() -> None:
    """Whoever is trusted ends the chain."""
    assert "CN=card" == verify(attestation(), KEYS["P-384"], [CARD], now=NOW)


FORGED = certificate("root", RSA[3], "root", RSA[3])
EXPIRED = certificate("partition", RSA[2], "card", RSA[1], ends=NOW - timedelta(days=1))
REFUSED: dict[str, tuple[kms_v1.KeyOperationAttestation, str]] = {
    "none": (kms_v1.KeyOperationAttestation(), "there is none"),
    "not gzip": (attestation(content=b"a statement"), "gzip"),
    "cut off": (attestation(content=gzip.compress(statement("P-384") * 9)[:-9]), "cut off"),
    "bomb": (attestation(content=gzip.compress(bytes(1 << 21))), "too long"),
    "short": (attestation(content=gzip.compress(b"x" * 256)), "too short"),
    "changed": (attestation(content=gzip.compress(statement("P-384") + bytes(256))), "signature"),
    "no certificates": (attestation(chain=()), "no certificate came along"),
    "another's certificate": (attestation(chain=(CARD,)), "signature"),
    "another key": (attestation("RSA-2048"), "another key"),
    "gap in the chain": (attestation(chain=(PARTITION,)), "root"),
    "expired": (attestation(chain=(EXPIRED, CARD)), "root"),
}


@pytest.mark.parametrize(("given", "why"), REFUSED.values(), ids=REFUSED)
def test_refused(given: kms_v1.KeyOperationAttestation, why: str) -> None:
    """What is not good in every part proves nothing."""
    with pytest.raises(AttestationInvalid, match=why):
        verify(given, KEYS["P-384"], [ROOT], now=NOW)


def test_forged_root() -> None:
    """A root of the same name with another key vouches for nothing."""
    with pytest.raises(AttestationInvalid, match="root"):
        verify(attestation(), KEYS["P-384"], [FORGED], now=NOW)


def test_roots_are_read() -> None:
    """All certificates of a PEM file; a file without one is an error."""
    assert [ROOT, CARD] == load_roots((pem(ROOT) + pem(CARD)).encode())
    with pytest.raises(ValueError, match=r".+"):
        load_roots(b"nothing")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Attestation(), ("hardware", "reported")),
        (Attestation("AA==", verified_by="CN=root"), ("hardware", "attested")),
        (Attestation("AA==", failure="it is about another key"), ("remote-service", "reported")),
        (Attestation(failure="there is none"), ("remote-service", "reported")),
    ],
)
def test_custody(given: Attestation, expected: tuple[str, str]) -> None:
    """With roots to go by, hardware needs a statement that verifies; it is kept either way."""
    found = judge("HSM", Settings(), {}, given)

    assert expected == (found.location, found.evidence)
    assert given.statement == found.statement
    software = judge("SOFTWARE", Settings(), {}, given)
    assert "remote-service" == software.location


def test_an_emulator_attests_nothing() -> None:
    """Whoever answers on this machine is not lifted by any statement."""
    local = Settings(endpoint="127.0.0.1:1")

    found = judge("HSM", local, {}, Attestation("AA==", verified_by="CN=root"))
    assert ("other-process", "asserted") == (found.location, found.evidence)
