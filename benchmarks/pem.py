"""A whole assertion on a PEM key, against the raw signature and other libraries."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import keystay
from benchmarks.contenders import AUDIENCE, CLIENT_ID, KID, assertions
from benchmarks.measure import Goal, interleave

SAMPLE = b"x" * 300  # about the length of a signing input


def run(*, smoke: bool) -> Iterator[Goal]:
    """RS384 with RSA-3072, and ES384."""
    rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=3072)
    yield from compare(rsa_key, "RS384", (padding.PKCS1v15(), hashes.SHA384()), smoke=smoke)
    ec_key = ec.generate_private_key(ec.SECP384R1())
    yield from compare(ec_key, "ES384", (ec.ECDSA(hashes.SHA384()),), smoke=smoke)


def compare(key: Any, algorithm: str, arguments: tuple[Any, ...], *, smoke: bool) -> Iterator[Goal]:
    """One key: the raw signature by `cryptography`, keystay and the peers."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "client.pem")
        path.touch(mode=0o600)
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        with keystay.open_signer(f"file:{path}", kid=KID) as signer:
            assertion = keystay.ClientAssertion(client_id=CLIENT_ID, signer=signer)
            times = interleave(
                {
                    "raw signature": lambda: key.sign(SAMPLE, *arguments),
                    "keystay": lambda: assertion.build(AUDIENCE),
                    **assertions(key, algorithm),
                },
                calls=5 if smoke else 100,
                rounds=2 if smoke else 15,
            )
    print(f"\n {algorithm}")
    print(times.table("raw signature"))
    yield Goal(
        f"{algorithm}: whole assertion ÷ raw signature",
        times.ratio("keystay", "raw signature"),
        1.05,
    )
