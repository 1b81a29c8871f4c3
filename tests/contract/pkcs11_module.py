"""The contract for any PKCS#11 module; `tests.support.pkcs11_modules` runs it in a process.

| variable                   | means                                                               |
|----------------------------|---------------------------------------------------------------------|
| `KEYSTAY_TEST_MODULE`      | absolute path of the module                                         |
| `KEYSTAY_TEST_TOKEN`       | the token's label                                                   |
| `KEYSTAY_TEST_PIN_FILE`    | a file with its PIN, mode 0600                                      |
| `KEYSTAY_TEST_KEY_TYPES`   | types of keys, separated by commas                                  |
| `KEYSTAY_TEST_CANNOT`      | JSON: what the module cannot do, and why                            |
| `KEYSTAY_TEST_LOCATION`    | where its keys are, if that is known                                |
| `KEYSTAY_TEST_INIT_ARGS`   | what C_Initialize is given in pReserved, if anything                |
| `KEYSTAY_TEST_LABEL`       | prefix of the keys' labels; those that are missing are generated    |
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

import keystay
from keystay.backends import BackendContext, GeneratesKeys
from keystay.backends.registry import default_registry
from keystay.key_uri import parse
from keystay.testing import SignerContract
from tests.contract.mechanism_table import Listed, MechanismTable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from keystay.testing.signer_contract import OpenSigner

ENV = os.environ
PIN = Path(ENV["KEYSTAY_TEST_PIN_FILE"]).read_text().strip()
LABEL = ENV.get("KEYSTAY_TEST_LABEL", "contract")
INIT_ARGS = ENV.get("KEYSTAY_TEST_INIT_ARGS")
SETTINGS: dict[str, object] = {"init_args": INIT_ARGS} if INIT_ARGS else {}
KINDS = {"P-256": "EC:secp256r1", "P-384": "EC:secp384r1", "P-521": "EC:secp521r1"}


def uri(key_type: str) -> str:
    return (
        f"pkcs11:token={ENV['KEYSTAY_TEST_TOKEN']};object={LABEL}-{key_type}"
        f"?module-path={ENV['KEYSTAY_TEST_MODULE']}&pin-source=file:{ENV['KEYSTAY_TEST_PIN_FILE']}"
    )


def generate(key_type: str, number: int) -> None:
    """With OpenSC; with keystay where OpenSC cannot start the module."""
    if INIT_ARGS:
        store = default_registry().open_store(parse(uri(key_type)), BackendContext(SETTINGS))
        assert isinstance(store, GeneratesKeys)
        store.generate_key(key_type)
        store.close()
        return
    kind = KINDS.get(key_type) or key_type.lower().replace("-", ":")
    subprocess.run(
        [
            "pkcs11-tool", "--module", ENV["KEYSTAY_TEST_MODULE"],
            "--token-label", ENV["KEYSTAY_TEST_TOKEN"], "--login", "--pin", "env:KEYSTAY_TEST_PIN",
            "--keypairgen", "--key-type", kind, "--label", f"{LABEL}-{key_type}",
            "--id", f"{number:02x}", "--usage-sign",
        ],
        env={**ENV, "KEYSTAY_TEST_PIN": PIN},
        check=True,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture(scope="module")
def generated() -> None:
    for number, key_type in enumerate(TestModule.keys, start=0xA0):
        generate(key_type, number)


class TestModule(MechanismTable, SignerContract):
    keys = tuple(ENV["KEYSTAY_TEST_KEY_TYPES"].split(","))
    cannot: ClassVar = {
        "swap": "shown on SoftHSM: tests/contract/test_pkcs11.py",
        **json.loads(ENV.get("KEYSTAY_TEST_CANNOT", "{}")),
    }
    expected_location: ClassVar[Any] = ENV.get("KEYSTAY_TEST_LOCATION")
    ecdsa_signatures = int(ENV.get("KEYSTAY_TEST_ECDSA", "500"))
    soak_signatures = int(ENV.get("KEYSTAY_TEST_SOAK", "10"))

    @pytest.fixture
    def secrets(self) -> list[str]:
        return [PIN]

    @pytest.fixture
    def listed(self) -> Iterator[Listed]:
        with Listed.of(uri(self.keys[0]), SETTINGS) as found:
            yield found

    @pytest.fixture
    def open_signer(self, generated: None) -> OpenSigner:
        def open_signer(*args: str, **options: Any) -> keystay.Signer:
            return keystay.open_signer(uri(args[0]), backends={"pkcs11": SETTINGS}, **options)

        return open_signer
