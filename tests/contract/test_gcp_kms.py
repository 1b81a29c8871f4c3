"""The contract, for keys in Google Cloud KMS (our server for Google's own client).

A key there has one fixed algorithm, so each family of algorithms is a table of its own.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, ClassVar

import pytest

import keystay
from keystay.testing import SignerContract
from tests.support.gcp_kms_server import key_for
from tests.support.private_keys import spellings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from keystay.testing.signer_contract import OpenSigner, Slow, SwapKey
    from tests.support.gcp_kms_server import GcpKmsServer

pytestmark = pytest.mark.long

FIXED = "Google fixes a key's algorithm when the key is made"


class GcpKmsContract(SignerContract):
    """What the families share."""

    soak_signatures = 5

    @pytest.fixture
    def open_signer(self, gcp_kms: GcpKmsServer, contract_key: str) -> OpenSigner:
        uri = gcp_kms.add("contract", contract_key)

        def open_signer(*args: str, **options: Any) -> keystay.Signer:
            return keystay.open_signer(uri, **options)

        return open_signer

    @pytest.fixture
    def secrets(self, open_signer: OpenSigner, gcp_kms: GcpKmsServer) -> list[str]:
        (version,) = gcp_kms.service.versions.values()
        return spellings(version.private_key)

    @pytest.fixture
    def slow(self, gcp_kms: GcpKmsServer) -> Slow:
        @contextlib.contextmanager
        def slow(seconds: float) -> Iterator[None]:
            gcp_kms.service.faults.delay = seconds
            yield
            gcp_kms.service.faults.delay = 0.0

        return slow

    @pytest.fixture
    def swap_key(self, gcp_kms: GcpKmsServer, contract_key: str) -> SwapKey:
        def swap() -> None:
            faults = gcp_kms.service.faults
            faults.signs_as = key_for(contract_key, 1)
            faults.name = gcp_kms.service.called("AsymmetricSign")[-1].name[:-1] + "2"

        return swap


class TestCurves(GcpKmsContract):
    """Elliptic curves: one algorithm each anyway."""

    keys = ("EC_SIGN_P256_SHA256", "EC_SIGN_P384_SHA384", "EC_SIGN_ED25519")
    cannot: ClassVar = {"P-521": "Google has no such key", "ES512": "Google has no such key"}


class TestRaw(GcpKmsContract):
    """RSA keys for DigestInfo: the only way to RS384."""

    keys = ("RSA_SIGN_RAW_PKCS1_2048", "RSA_SIGN_RAW_PKCS1_3072")
    cannot: ClassVar = dict.fromkeys(("PS256", "PS384", "PS512"), "RAW keys pad as PKCS #1 v1.5")


class TestPss(GcpKmsContract):
    """PSS keys."""

    keys = ("RSA_SIGN_PSS_2048_SHA256",)
    cannot: ClassVar = dict.fromkeys(("RS256", "RS384", "RS512", "PS384", "PS512"), FIXED)
