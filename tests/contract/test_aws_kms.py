"""The contract, for keys in AWS KMS (an emulator of it, through the real SDK)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, ClassVar

import pytest

import keystay
from keystay.testing import SignerContract
from tests.support.ministack import SPECS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from keystay.testing.signer_contract import OpenSigner, Slow, SwapKey
    from tests.support.aws_fixtures import KmsUri
    from tests.support.kms_proxy import KmsProxy
    from tests.support.ministack import MiniStack

pytestmark = pytest.mark.long


class TestAwsKms(SignerContract):
    """Every type of key, by an alias."""

    keys = tuple(SPECS)
    cannot: ClassVar = {"long": "Ed25519 needs MessageType RAW, which AWS limits to 4096 bytes"}
    soak_signatures = 5

    @pytest.fixture
    def open_signer(
        self, aws_environment: MiniStack, kms_uri: KmsUri, contract_key: str
    ) -> OpenSigner:
        alias = f"alias/contract-{contract_key}"
        aws_environment.point(alias, aws_environment.key(contract_key))

        def open_signer(*args: str, **options: Any) -> keystay.Signer:
            return keystay.open_signer(kms_uri(alias), **options)

        return open_signer

    @pytest.fixture
    def secrets(self, ministack: MiniStack) -> list[str]:
        return [ministack.admin.secret]

    @pytest.fixture
    def slow(self, kms_proxy: KmsProxy) -> Slow:
        @contextlib.contextmanager
        def slow(seconds: float) -> Iterator[None]:
            kms_proxy.delay("Sign", seconds, times=None)
            yield
            kms_proxy.clear()

        return slow

    @pytest.fixture
    def swap_key(self, ministack: MiniStack, contract_key: str) -> SwapKey:
        def swap() -> None:
            other = ministack.make_key(KeySpec=SPECS[contract_key])
            ministack.point(f"alias/contract-{contract_key}", other)

        return swap
