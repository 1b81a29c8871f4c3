"""The contract's part about algorithms, encodings and bad signatures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from keystay import jwk, signatures
from keystay.algorithms import ALGORITHMS, for_key
from keystay.backends.port import SignRequest
from keystay.errors import AlgorithmError, KeystayError, SignatureInvalidError, did_you_mean
from keystay.signer import Signer
from keystay.testing.contract.base import LONG_MESSAGE, MESSAGE, ContractBase, port_key
from keystay.testing.contract.tampering import TAMPERINGS, TamperedKey
from keystay.testing.contract.verifiers import verify_elsewhere

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SignatureTests"]


KEY_TYPES = ("P-256", "P-384", "P-521", "RSA-2048", "RSA-3072", "RSA-4096", "Ed25519")
FEATURES = ("fork", "long", "secrets", "slow", "swap")


class SignatureTests(ContractBase):
    """Every signature is one that others verify; a bad one never leaves."""

    def test_every_algorithm_verifies_elsewhere(self, signer: Signer) -> None:
        """PyJWT and joserfc accept a signature by each algorithm claimed, of any length."""
        for name in signer.algorithms:
            for message in (b".", MESSAGE, LONG_MESSAGE):
                if message is LONG_MESSAGE and self._too_long(name):
                    with pytest.raises(KeystayError):
                        signer.sign(message, name)
                    continue
                signature = signer.sign(message, name)
                verify_elsewhere(signer.public_key, name, message, signature)

    def test_table_of_what_cannot_be_done(self, signer: Signer) -> None:
        """Each algorithm that fits the key is claimed or in `cannot`, and never in both."""
        for item in self.cannot:
            known = (*ALGORITHMS, *KEY_TYPES, *FEATURES)
            assert item in known, f"cannot has {item!r}. {did_you_mean(item, known)}"
            assert self.cannot[item].strip(), f"cannot[{item!r}] gives no reason"
        kty, curve, _ = jwk.key_kind(signer.public_key)
        fitting = for_key(kty, curve)
        unclaimed = [n for n in fitting if n not in signer.algorithms and n not in self.cannot]
        assert not unclaimed, f"neither claimed nor in cannot: {', '.join(unclaimed)}"
        wrong = [item for item in self.cannot if item in (*signer.algorithms, signer.key_type)]
        assert not wrong, f"in cannot, and claimed all the same: {', '.join(wrong)}"

    def test_algorithms_fit_the_key(self, opened: Callable[..., Signer]) -> None:
        """Only fitting algorithms are claimed; others are refused, when opening and later."""
        signer = opened()
        kty, curve, _ = jwk.key_kind(signer.public_key)
        claimed = port_key(signer).describe().algorithms
        assert claimed, "the key claims no algorithm"
        assert len(set(claimed)) == len(claimed), "an algorithm is claimed twice"
        foreign = [name for name in claimed if name not in for_key(kty, curve)]
        assert not foreign, f"algorithms that do not fit the key: {', '.join(foreign)}"
        assert signer.algorithm in claimed
        for name in (*(n for n in ALGORITHMS if n not in claimed), "none", "HS256"):
            with pytest.raises(AlgorithmError):
                signer.sign(MESSAGE, name)
            with pytest.raises(AlgorithmError):
                opened(algorithm=name)

    def test_many_ecdsa_signatures(self, signer: Signer) -> None:
        """Also short r and s come in full width, padded on the left."""
        algorithm = ALGORITHMS[signer.algorithm]
        size = algorithm.coordinate_size
        if not size:
            assert jwk.key_kind(signer.public_key)[0] != "EC"
            return
        wanted, made = self.ecdsa_signatures, 0
        short = {"r": False, "s": False}
        # A byte of r, or s, is zero in 1 of 256; both have occurred after 500 as a rule.
        while made < wanted or (wanted >= 500 and not all(short.values()) and made < 10 * wanted):
            message = MESSAGE + made.to_bytes(4, "big")
            signature = signer.sign(message)
            assert len(signature) == 2 * size
            signatures.verify(signer.public_key, algorithm, message, signature)
            short["r"] |= signature[0] == 0
            short["s"] |= signature[size] == 0
            made += 1
        assert wanted < 500 or all(short.values()), "no short r or s in ten times as many"

    def test_signature_length(self, signer: Signer) -> None:
        """A JOSE signature has the length that its algorithm and key give it."""
        _, _, bits = jwk.key_kind(signer.public_key)
        signature = signer.sign(MESSAGE)
        assert len(signature) == ALGORITHMS[signer.algorithm].signature_size(bits)

    def test_encoding_is_as_declared(self, signer: Signer) -> None:
        """What the backend returns has the encoding it names, and its own key id."""
        key, algorithm = port_key(signer), ALGORITHMS[signer.algorithm]
        result = key.sign(SignRequest(algorithm, MESSAGE, self._deadline()))
        assert result.key_id == key.describe().key_id
        assert result.encoding in ("raw", "der")
        value = result.value
        if result.encoding == "der":
            assert algorithm.kty == "EC", "only ECDSA signatures come as DER"
            value = signatures.der_to_raw(value, algorithm)
        signatures.verify(signer.public_key, algorithm, MESSAGE, value)
        assert value.hex() not in repr(result)

    def test_wrong_digest_length(self, signer: Signer) -> None:
        """A digest of another length is refused, by keystay and by the backend itself."""
        algorithm = ALGORITHMS[signer.algorithm]
        if not algorithm.digest_size:
            with pytest.raises(AlgorithmError):
                signer.sign_digest(bytes(64))
            return
        for size in (0, algorithm.digest_size - 1, algorithm.digest_size + 1, 1000):
            with pytest.raises(AlgorithmError):
                signer.sign_digest(bytes(size))
            request = SignRequest(algorithm, None, self._deadline(), bytes(size))
            try:
                port_key(signer).sign(request)
            except Exception:  # noqa: BLE001, S112  (whatever the library underneath says)
                continue
            pytest.fail(f"the backend signed {size} bytes as a digest for {algorithm.name}")

    def test_digest_signs_as_message(self, signer: Signer) -> None:
        """A signature of a digest is one of the message, wherever the backend takes digests."""
        for name in signer.algorithms:
            algorithm = ALGORITHMS[name]
            digest = algorithm.digest(MESSAGE)
            if digest is None:
                continue
            try:
                signature = signer.sign_digest(digest, name)
            except AlgorithmError as error:
                if error.code != "message-needed":
                    raise
                continue
            signatures.verify(signer.public_key, name, MESSAGE, signature)

    def test_bad_signatures_are_caught(self, signer: Signer) -> None:
        """A wrong mechanism, encoding, key or length never leaves the signer."""
        key = port_key(signer)
        for name, tamper in TAMPERINGS.items():
            with pytest.raises(KeystayError) as caught:
                Signer(TamperedKey(key, tamper)).sign(MESSAGE)
            assert caught.value.code in (
                "signature-invalid", "signature-malformed", "key-changed",
            ), f"{name}: {caught.value}"  # fmt: skip

    def test_first_of_each_session_is_verified(self, opened: Callable[..., Signer]) -> None:
        """`verify="first"` gives good signatures too, and catches a bad first one."""
        signer = opened(verify="first")
        for _ in range(3):
            verify_elsewhere(signer.public_key, signer.algorithm, MESSAGE, signer.sign(MESSAGE))
        with pytest.raises(SignatureInvalidError):
            Signer(TamperedKey(port_key(signer), TAMPERINGS["a flipped bit"]), verify="first").sign(
                MESSAGE
            )
