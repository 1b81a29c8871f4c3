"""The contract's part about which key it is, and where."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, get_args

import pytest

from keystay import jwk, signatures
from keystay.assertion import ClientAssertion
from keystay.custody import MINIMA, Evidence, Location, satisfies
from keystay.errors import KeyChangedError, KeyNotFoundError, PolicyError, SignatureInvalidError
from keystay.jwk import JWKSet
from keystay.testing.contract.base import MESSAGE, ContractBase, SwapKey, port_key
from keystay.testing.contract.verifiers import verify_with_joserfc

if TYPE_CHECKING:
    from collections.abc import Callable

    from keystay.signer import Signer

__all__ = ["IdentityTests"]


class IdentityTests(ContractBase):
    """It stays the key that was opened, published as it is, and honest about where it is."""

    def test_key_swap(self, opened: Callable[..., Signer], swap_key: SwapKey | None) -> None:
        """Another key in the place of the opened one never signs for it."""
        if swap_key is None:
            assert "swap" in self.cannot, (
                "provide the fixture swap_key, or say in cannot['swap'] why a test cannot"
            )
            return
        assert "swap" not in self.cannot, "in cannot, and swap_key is there all the same: swap"
        # Verified is only the first signature: the backend has to see the rest by itself.
        signer = opened(verify="first")
        public_key, kid, key_id = signer.public_key, signer.kid, signer.key_id
        signer.sign(MESSAGE)
        swap_key()
        noticed = 0
        for _ in range(3):
            try:
                signature = signer.sign(MESSAGE)
            except (KeyChangedError, KeyNotFoundError, SignatureInvalidError):
                noticed += 1
                continue
            signatures.verify(public_key, signer.algorithm, MESSAGE, signature)
        if (
            not noticed
        ):  # it holds on to the opened key: the other one is there, or nothing was shown
            assert opened().public_key != public_key, "swap_key changed nothing"
        assert (signer.public_key, signer.kid, signer.key_id) == (public_key, kid, key_id)

    def test_description_is_stable(self, signer: Signer) -> None:
        """The backend says the same of the key at every call."""
        key = port_key(signer)
        before = key.describe()
        signer.sign(MESSAGE)
        signer.health()
        after = key.describe()
        assert after.public_key == before.public_key
        assert tuple(after.algorithms) == tuple(before.algorithms)
        assert (after.key_id, after.label) == (before.key_id, before.label)
        assert after.custody == before.custody
        assert after.signs_here == before.signs_here

    def test_key_id_is_stable(self, opened: Callable[..., Signer]) -> None:
        """Opened again, it is the same key under the same ids."""
        first, second = opened(), opened()
        assert first.key_id
        assert (second.key_id, second.kid) == (first.key_id, first.kid)
        assert second.public_key == first.public_key

    def test_jwk_round_trip(self, signer: Signer) -> None:
        """The published JWK is the key, to other libraries as well."""
        published = JWKSet.from_json(JWKSet.from_signers([signer]).to_json())
        (member,) = published
        assert jwk.public_key_from_jwk(member) == signer.public_key
        assert member["kid"] == signer.kid
        signature = signer.sign(MESSAGE)
        verify_with_joserfc(dict(member), signer.algorithm, MESSAGE, signature)

    def test_assertion(self, signer: Signer) -> None:
        """A client assertion of more than 4096 bytes verifies with PyJWT."""
        import jwt

        size = 1000 if self._too_long(signer.algorithm) else 5000
        assertion = ClientAssertion(
            client_id="contract", signer=signer, extra_claims={"macaroon": "m" * size}
        ).build(audience="https://ehr.example.org/token")
        claims = jwt.decode(
            assertion,
            signer.public_key,  # type: ignore[arg-type]
            algorithms=[signer.algorithm],
            audience="https://ehr.example.org/token",
        )
        assert claims["sub"] == "contract"

    def test_custody_is_honest(self, opened: Callable[..., Signer]) -> None:
        """The location is one that the facts allow, with evidence, and policy goes by it."""
        signer = opened()
        custody = signer.custody
        assert custody.location in get_args(Location)
        assert custody.evidence in get_args(Evidence)
        assert custody.reason.strip(), "custody gives no reason"
        assert json.dumps(custody.to_dict())
        if self.expected_location is not None:
            assert custody.location == self.expected_location
        for name, weak in (("extractable", True), ("sensitive", False)):
            fact = custody.facts.get(name)
            if fact is not None and fact.value is weak:
                assert custody.location in ("in-process", "other-process"), (
                    f"a key with {name}={weak} cannot be {custody.location}"
                )
        if port_key(signer).describe().signs_here:
            assert custody.location == "in-process", (
                "signs_here is for keys in this process: elsewhere, each signature is verified"
            )
        for minimum in MINIMA:
            if satisfies(custody, minimum):
                opened(custody=minimum).sign(MESSAGE)
            else:
                with pytest.raises(PolicyError):
                    opened(custody=minimum)
