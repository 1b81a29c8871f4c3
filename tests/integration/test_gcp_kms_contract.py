"""The contract where tests/contract does not go: REST, an external key, a SHA-256-only key."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

import pytest

import keystay
from keystay.testing import SignerContract
from tests.support.gcp_kms_server import KEY_RING, GcpKmsServer, key_for
from tests.support.gcp_kms_server_rest import GcpKmsRestServer
from tests.support.private_keys import spellings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from keystay.testing.signer_contract import OpenSigner, Slow, SwapKey

_RAW = "RAW keys pad by PKCS #1 v1.5 alone"
_FIXED = "Google fixed the key to another algorithm"


class _Google(SignerContract):
    """Keys of our Google Cloud KMS; names in `keys` are Google's algorithms."""

    server: ClassVar[type[GcpKmsServer]] = GcpKmsServer
    level: ClassVar[str] = "SOFTWARE"
    expected_location = "other-process"

    @pytest.fixture
    def kms(self) -> Iterator[GcpKmsServer]:
        with self.server() as server:
            yield server

    @pytest.fixture
    def open_signer(self, kms: GcpKmsServer) -> OpenSigner:
        uris: dict[str, str] = {}

        def open_signer(*args: str, **options: Any) -> keystay.Signer:
            if args[0] not in uris:
                uris[args[0]] = kms.add(args[0], args[0], level=self.level)
            return keystay.open_signer(uris[args[0]], **options)

        return open_signer

    @pytest.fixture
    def secrets(self, kms: GcpKmsServer, open_signer: OpenSigner, contract_key: str) -> list[str]:
        open_signer(contract_key).close()  # which makes the key
        (version,) = kms.service.versions.values()
        return spellings(version.private_key)

    @pytest.fixture
    def slow(self, kms: GcpKmsServer) -> Slow:
        @contextmanager
        def slow(seconds: float) -> Iterator[None]:
            kms.service.faults.delay = seconds
            yield
            kms.service.faults.delay = 0.0

        return slow

    @pytest.fixture
    def swap_key(self, kms: GcpKmsServer, contract_key: str) -> SwapKey:
        # A version never changes its key; what can happen is that another version answers.
        def swap() -> None:
            kms.service.faults.name = f"{KEY_RING}/cryptoKeys/{contract_key}/cryptoKeyVersions/2"
            kms.service.faults.signs_as = key_for(contract_key, 1)

        return swap


class TestRest(_Google):
    """Over REST."""

    server = GcpKmsRestServer
    keys = ("RSA_SIGN_RAW_PKCS1_2048", "EC_SIGN_P384_SHA384")
    cannot: ClassVar = {"PS256": _RAW, "PS384": _RAW, "PS512": _RAW}
    ecdsa_signatures = 50
    soak_signatures = 10


class TestSha256(_Google):
    """An RSA key that Google fixed to RS256."""

    keys = ("RSA_SIGN_PKCS1_2048_SHA256",)
    cannot: ClassVar = dict.fromkeys(("RS384", "RS512", "PS256", "PS384", "PS512"), _FIXED)


class TestExternal(_Google):
    """An external key manager's key, which takes the message."""

    level = "EXTERNAL"
    keys = ("EC_SIGN_P256_SHA256",)
    ecdsa_signatures = 50
