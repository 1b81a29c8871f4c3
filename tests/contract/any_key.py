"""The contract for a key that exists: a real one in AWS, in Google Cloud, on an HSM.

    KEYSTAY_TEST_KEY=awskms:///alias/test python -m pytest tests/contract/any_key.py

| variable              | means                                                                |
|-----------------------|----------------------------------------------------------------------|
| `KEYSTAY_TEST_KEY`    | its key URI; credentials and PIN are found as always                 |
| `KEYSTAY_TEST_CANNOT` | JSON: what the key, or its store, cannot do, and why; default `{}`   |
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import keystay
from keystay.testing import SignerContract

if TYPE_CHECKING:
    from keystay.testing.signer_contract import OpenSigner

KEY = os.environ["KEYSTAY_TEST_KEY"]
GIVEN = {
    "swap": "the key is given: nothing here may replace it",
    "secrets": "credentials and PIN are found as always: nobody tells them here",
}


class TestAnyKey(SignerContract):
    ecdsa_signatures = 100
    soak_signatures = 5
    cannot: ClassVar = {**GIVEN, **json.loads(os.environ.get("KEYSTAY_TEST_CANNOT", "{}"))}

    @pytest.fixture
    def open_signer(self) -> OpenSigner:
        def open_signer(*args: str, **options: Any) -> keystay.Signer:
            return keystay.open_signer(KEY, backends=keystay.load_config().backends, **options)

        return open_signer
