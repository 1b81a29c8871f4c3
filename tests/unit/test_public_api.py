"""The public face: light to import, complete, and typed as its users will use it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keystay

ROOT = Path(__file__).parents[2]
HEAVY = {
    "anyio", "asyncio", "boto3", "click", "cryptography", "email", "httpx", "importlib.metadata",
    "inspect", "keyring", "keystay_pem", "keystay_pkcs11", "logging", "msgspec", "pkcs11", "pluggy",
    "rich", "ssl", "urllib.request",
}  # fmt: skip


def modules_after(program: str) -> set[str]:
    """The modules a program has loaded in an interpreter of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"{program}\nimport sys, json; print(json.dumps([*sys.modules]))"],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout))


class TestImport:
    """`import keystay` costs next to nothing."""

    def test_loads_nothing_heavy(self) -> None:
        """Neither HTTP, cryptography nor a terminal library; of ours, what watches over imports."""
        # Less what the interpreter itself loads, for a .pth file of an editable install, say.
        loaded = modules_after("import keystay") - modules_after("")
        assert set() == HEAVY & loaded
        watch = {"keystay.concurrency", "keystay.concurrency.forks"}
        assert {"keystay", *watch} == {name for name in loaded if name.startswith("keystay")}

    def test_signatures_without_http(self) -> None:
        """Converting a signature loads no HTTP, no plugin machinery and no cryptography."""
        loaded = modules_after("import keystay; keystay.signatures.raw_to_der(b'1' * 64, 'ES256')")
        assert set() == {"httpx", "pluggy", "cryptography", "click", "rich"} & loaded

    def test_signing_without_http(self) -> None:
        """Opening a signer loads no HTTP and no terminal library."""
        loaded = modules_after("import keystay; keystay.open_signer, keystay.ClientAssertion")
        assert set() == {"httpx", "click", "rich"} & loaded


class TestNames:
    """What can be reached."""

    def test_all_is_sorted(self) -> None:
        """`__all__` is sorted and without repetition."""
        assert sorted(set(keystay.__all__)) == keystay.__all__

    def test_the_names_that_stay(self) -> None:
        """What the design promises is there."""
        assert {
            "AccessToken", "AsyncTokenClient", "ClientAssertion", "JWKSet", "KeystayError",
            "Signer", "TokenClient", "discover", "hookimpl", "load_config", "open_signer",
            "register_client", "signatures",
        } <= set(keystay.__all__)  # fmt: skip

    @pytest.mark.parametrize("name", keystay.__all__)
    def test_each_can_be_imported(self, name: str) -> None:
        """Every name leads to something, the same each time, by any way of importing."""
        program = (
            f"import keystay\nfirst = keystay.{name}\nfrom keystay import {name}\n"
            f"assert first is {name} is getattr(keystay, '{name}') is not None\n"
        )
        assert "keystay" in modules_after(program)

    def test_star_import(self) -> None:
        """`from keystay import *` brings all of them."""
        assert "keystay.signer" in modules_after(
            "from keystay import *\nimport keystay\nassert {*keystay.__all__} <= {*globals()}"
        )

    def test_dir(self) -> None:
        """dir() lists them, loaded or not."""
        assert set(keystay.__all__) <= set(dir(keystay))
        assert sorted(dir(keystay)) == dir(keystay)

    @pytest.mark.parametrize("name", ["nothing", "Signer_", "__wrapped__"])
    def test_unknown(self, name: str) -> None:
        """An unknown name is an AttributeError that says which."""
        with pytest.raises(AttributeError, match=f"module 'keystay' has no attribute '{name}'"):
            getattr(keystay, name)
        assert False is hasattr(keystay, name)


class TestTypes:
    """Typed for those who use it."""

    def test_marked(self) -> None:
        """Each distribution says that it is typed."""
        packages = [
            "src/keystay",
            "plugins/pem/src/keystay_pem",
            "plugins/pkcs11/src/keystay_pkcs11",
        ]
        assert [] == [p for p in packages if not (ROOT / p / "py.typed").is_file()]

    @pytest.mark.timeout(300)
    def test_consumer(self, tmp_path: Path) -> None:
        """A user's program passes mypy --strict, and what is wrong in it is found."""
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "mypy",
                "--strict",
                "--warn-unused-ignores",
                "--config-file=",
                f"--cache-dir={tmp_path}",
                str(ROOT / "tests/typing/consumer.py"),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env={**os.environ, "MYPYPATH": str(ROOT / "src")},
        )
        assert "Success: no issues found in 1 source file\n" == done.stdout, done.stdout
