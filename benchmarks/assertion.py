"""Building an assertion with the signature stubbed: what is ours alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import Algorithm

from benchmarks.contenders import AUDIENCE, CLIENT_ID, KID, claims
from benchmarks.measure import Goal, interleave
from keystay.assertion import ClientAssertion
from keystay.backends import BackendSignature, KeyDescription
from keystay.custody import Custody
from keystay.signer import Signer

SIGNATURE = bytes(range(96))


class StubKey:
    """A key that returns the same bytes every time; `verify="first"` is told they are good."""

    def __init__(self) -> None:
        public_key = ec.generate_private_key(ec.SECP384R1()).public_key()
        custody = Custody("in-process", "asserted", "There is no key.")
        self.description = KeyDescription(public_key, ("ES384",), "stub", "stub", custody)
        self.signature = BackendSignature(SIGNATURE, "raw", "stub")

    def describe(self) -> KeyDescription:
        return self.description

    def sign(self, request: Any) -> BackendSignature:
        return self.signature

    def health(self, deadline: Any) -> None: ...

    def close(self) -> None: ...


class StubAlgorithm(Algorithm):
    """The same for PyJWT."""

    def prepare_key(self, key: Any) -> Any:
        return key

    def sign(self, msg: bytes, key: Any) -> bytes:
        return SIGNATURE

    def verify(self, msg: bytes, key: Any, sig: bytes) -> bool:
        return True

    @staticmethod
    def to_jwk(key_obj: Any, as_dict: bool = False) -> Any:
        raise NotImplementedError

    @staticmethod
    def from_jwk(jwk: Any) -> Any:
        raise NotImplementedError


def run(*, smoke: bool) -> Iterator[Goal]:
    """Against PyJWT with its signature stubbed the same way."""
    signer = Signer(StubKey(), kid=KID, verify="first")
    signer._verification._verified.add((0, "ES384"))
    assertion = ClientAssertion(client_id=CLIENT_ID, signer=signer)
    peer = jwt.PyJWT()
    peer._jws.unregister_algorithm("ES384")
    peer._jws.register_algorithm("ES384", StubAlgorithm())
    times = interleave(
        {
            "keystay": lambda: assertion.build(AUDIENCE),
            "PyJWT": lambda: peer.encode(claims(), "stub", "ES384", {"kid": KID}),
        },
        calls=50 if smoke else 2000,
        rounds=2 if smoke else 25,
    )
    print(times.table("PyJWT"))
    yield Goal("keystay ÷ PyJWT", times.ratio("keystay", "PyJWT"), 0.35)
    yield Goal("keystay, µs", times.median("keystay") * 1e6, 6)
