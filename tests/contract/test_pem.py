"""The contract, for software keys in PEM files."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import pytest

import keystay
from keystay.backends import BackendContext, GeneratesKeys, SecretResolver
from keystay.backends.registry import default_registry
from keystay.key_uri import parse
from keystay.testing import SignerContract

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from keystay.testing.signer_contract import OpenSigner, SwapKey
    from tests.support.secrets_watch import SecretsWatch

PASSPHRASE = "contract horse battery 8841"


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the key files are."""
    return tmp_path_factory.mktemp("pem")


class TestPem(SignerContract):
    """Every type of key, each encrypted."""

    keys = ("P-256", "P-384", "P-521", "RSA-2048", "RSA-3072", "RSA-4096", "Ed25519")
    expected_location = "in-process"
    cannot: ClassVar = {"slow": "a signature takes a millisecond here, and waits for nothing"}

    @pytest.fixture
    def secrets(self, secrets_watch: SecretsWatch) -> list[str]:
        return [secrets_watch.add("the passphrase of the contract", PASSPHRASE)]

    @pytest.fixture
    def open_signer(self, directory: Path) -> OpenSigner:
        def open_signer(*args: str, **options: Any) -> keystay.Signer:
            path = directory / f"{args[0]}.pem"
            if not path.exists():
                generate(path, args[0])
            return keystay.open_signer(f"file:{path}", secrets=passphrase, **options)

        return open_signer

    @pytest.fixture
    def swap_key(self, directory: Path, contract_key: str) -> Iterator[SwapKey]:
        path = directory / f"{contract_key}.pem"

        def swap() -> None:
            path.rename(directory / "kept")
            generate(path, contract_key)

        yield swap
        (directory / "kept").rename(path)


def passphrase(reference: str, purpose: str) -> str:
    return PASSPHRASE


def generate(path: Path, key_type: str) -> None:
    context = BackendContext(secrets=SecretResolver(passphrase))
    store = default_registry().open_store(parse(f"file:{path}"), context)
    assert isinstance(store, GeneratesKeys)
    store.generate_key(key_type)
