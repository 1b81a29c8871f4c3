"""The contract for the backend that KEYSTAY_TEST_FAULT names; run by test_faulty.py."""

from __future__ import annotations

import importlib
import os
from importlib.metadata import EntryPoint
from typing import TYPE_CHECKING

import pytest

import keystay
from keystay.backends.registry import GROUP, Registry
from keystay.testing import SignerContract
from tests.contract.faulty.honest import PIN, Store

if TYPE_CHECKING:
    from typing import Any

    from keystay.testing.signer_contract import OpenSigner, Slow, SwapKey

FAULT = f"tests.contract.faulty.{os.environ['KEYSTAY_TEST_FAULT']}"
SETTINGS = getattr(importlib.import_module(FAULT), "SETTINGS", {})
ENTRY_POINT = EntryPoint("faulty", f"{FAULT}:BACKEND", GROUP)


class TestFaulty(SignerContract):
    keys = ("P-384", "RSA-2048")
    expected_location = SETTINGS.get("expected_location")
    ecdsa_signatures = SETTINGS.get("ecdsa_signatures", 50)
    soak_signatures = 10
    timeout = 1.0

    @pytest.fixture
    def open_signer(self) -> OpenSigner:
        registry = Registry(lambda: (ENTRY_POINT,))

        def open_signer(*args: str, **options: Any) -> keystay.Signer:
            return keystay.open_signer(f"faulty:{args[0]}", registry=registry, **options)

        return open_signer

    @pytest.fixture
    def secrets(self) -> list[str]:
        return [PIN]

    @pytest.fixture
    def slow(self) -> Slow:
        return Store.slow

    @pytest.fixture
    def swap_key(self, contract_key: str) -> SwapKey:
        return lambda: Store.swap(contract_key)
