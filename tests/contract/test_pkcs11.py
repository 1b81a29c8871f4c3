"""The contract, for keys on a SoftHSM token: in this process, and through p11-kit in another."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, ClassVar

import pytest

import keystay
from keystay.testing import SignerContract
from tests.contract.mechanism_table import Listed, MechanismTable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from keystay.testing.signer_contract import OpenSigner, SwapKey
    from tests.support.p11kit import P11KitServer
    from tests.support.softhsm import SoftHSM

KINDS = {
    "P-256": "EC:secp256r1",
    "P-384": "EC:secp384r1",
    "P-521": "EC:secp521r1",
    "RSA-2048": "rsa:2048",
    "RSA-3072": "rsa:3072",
    "RSA-4096": "rsa:4096",
    "Ed25519": "EC:edwards25519",
}


class Keys:
    """The keys of a token, each made by OpenSC when first asked for."""

    def __init__(self, token: SoftHSM, prefix: str) -> None:
        self._token, self._prefix = token, prefix
        self._ids = itertools.count(0xC0)
        self._made: dict[str, str] = {}

    def label(self, key_type: str) -> str:
        """The label of the key of a type."""
        label = f"{self._prefix}-{key_type}"
        if key_type not in self._made:
            self._made[key_type] = f"{next(self._ids):x}"
            self._token.generate_key(KINDS[key_type], label, self._made[key_type])
        return label

    def replace(self, key_type: str) -> None:
        """Put another key under the same label and id."""
        key_id = self._made[key_type]
        for kind in ("privkey", "pubkey"):
            self._token.pkcs11_tool("--login", "--delete-object", "--type", kind, "--id", key_id)
        self._token.generate_key(KINDS[key_type], f"{self._prefix}-{key_type}", key_id)


@pytest.fixture(scope="module")
def token_keys(softhsm: SoftHSM) -> Keys:
    return Keys(softhsm, "contract")


class TestSoftHSM(SignerContract):
    """The library works in this process."""

    keys = tuple(KINDS)
    expected_location = "in-process"

    @pytest.fixture
    def secrets(self, softhsm: SoftHSM) -> list[str]:
        return [softhsm.pin]

    @pytest.fixture
    def open_signer(self, softhsm: SoftHSM, token_keys: Keys) -> OpenSigner:
        def open_signer(*args: str, **options: Any) -> keystay.Signer:
            return keystay.open_signer(softhsm.key_uri(token_keys.label(args[0])), **options)

        return open_signer

    @pytest.fixture
    def swap_key(self, token_keys: Keys, contract_key: str) -> SwapKey:
        return lambda: token_keys.replace(contract_key)


class TestP11Kit(MechanismTable, SignerContract):
    """The same token in another process."""

    keys = tuple(name for name in KINDS if name != "Ed25519")
    cannot: ClassVar = {"Ed25519": "p11-kit 0.24 does not pass CKM_EDDSA on"}
    expected_location = "other-process"
    ecdsa_signatures = 200

    @pytest.fixture
    def secrets(self, p11kit: P11KitServer) -> list[str]:
        return [p11kit.token.pin]

    @pytest.fixture
    def listed(self, p11kit: P11KitServer) -> Iterator[Listed]:
        with Listed.of(p11kit.key_uri("any"), {}) as found:
            yield found

    @pytest.fixture
    def open_signer(self, p11kit: P11KitServer, token_keys: Keys) -> OpenSigner:
        def open_signer(*args: str, **options: Any) -> keystay.Signer:
            return keystay.open_signer(p11kit.key_uri(token_keys.label(args[0])), **options)

        return open_signer

    @pytest.fixture
    def swap_key(self, token_keys: Keys, contract_key: str) -> SwapKey:
        return lambda: token_keys.replace(contract_key)
