"""SoftHSM 2 with a token store, token and PINs of its own, gone when the test is.

SoftHSM reads `SOFTHSM2_CONF` when it is initialised, and sees the tokens that exist then. So a test
process has one store, and whoever breaks a PIN or needs another store works in a subprocess.
"""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.missing import fail_missing, require_program
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from collections.abc import Sequence

_MODULES = (
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
)
_PIN_VARIABLE = "KEYSTAY_TEST_PIN"


class SoftHSM:
    """One token in a store of its own.

    Attributes:
        module: The PKCS#11 library.
        label: The token's label.
        pin: The user PIN.
        pin_file: A file that holds the PIN, readable by its owner only.
        conf: SoftHSM's configuration file.
        env: What a process must have in its environment to see this token.
    """

    def __init__(self, directory: Path, *, label: str = "keystay-test") -> None:
        """Make the store and initialise the token."""
        self.module = find_module()
        self.label = label
        self.pin = f"pin{secrets.token_hex(8)}"
        self._so_pin = f"so{secrets.token_hex(8)}"
        WATCH.add("the token's PIN", self.pin)
        WATCH.add("the token's SO PIN", self._so_pin)
        store = directory / "tokens"
        store.mkdir(mode=0o700)
        self.conf = directory / "softhsm2.conf"
        self.conf.write_text(
            f"directories.tokendir = {store}\n"
            "objectstore.backend = file\n"
            "log.level = ERROR\n"
            "slots.removable = false\n"
        )
        self.pin_file = directory / "pin"
        self.pin_file.touch(mode=0o600)
        self.pin_file.write_text(f"{self.pin}\n")
        self.env = {"SOFTHSM2_CONF": str(self.conf)}
        self.add_token(label)

    def __repr__(self) -> str:
        """Show the token, not its PIN."""
        return f"<SoftHSM {self.label!r}>"

    @property
    def uri(self) -> str:
        """The start of a key URI of this token, without query."""
        return f"pkcs11:token={self.label}"

    @property
    def query(self) -> str:
        """The query of a key URI: module path and PIN source."""
        return f"module-path={self.module}&pin-source=file:{self.pin_file}"

    def key_uri(self, label: str) -> str:
        """Return the whole URI of a key."""
        return f"{self.uri};object={label}?{self.query}"

    def add_token(self, label: str) -> None:
        """Initialise one more token in the store, with the same PINs."""
        # softhsm2-util takes PINs as arguments only: good enough for tokens that live for a test.
        self.run([
            require_program("softhsm2-util", "softhsm2"), "--init-token", "--free",
            "--label", label, "--so-pin", self._so_pin, "--pin", self.pin,
        ])  # fmt: skip

    def generate_key(self, kind: str, label: str, key_id: str = "01") -> None:
        """Generate a key pair with OpenSC, so that nothing of keystay is involved.

        Args:
            kind: As OpenSC names it: `EC:secp384r1`, `rsa:3072`.
            label: The label of both objects.
            key_id: The id of both objects, hexadecimal.
        """
        self.pkcs11_tool(
            "--login", "--keypairgen", "--key-type", kind, "--label", label, "--id", key_id,
            "--usage-sign", "--sensitive",
        )  # fmt: skip

    def change_pin(self) -> None:
        """Give the token another user PIN; `pin_file` stays as it is."""
        new = WATCH.add("the token's new PIN", f"new{secrets.token_hex(8)}")
        env = {**self.env, f"{_PIN_VARIABLE}_NEW": new}
        change = ["--login", "--change-pin", "--new-pin", f"env:{_PIN_VARIABLE}_NEW"]
        run_pkcs11_tool(self.module, self.label, self.pin, env, change)
        self.pin = new

    def pkcs11_tool(self, *arguments: str) -> str:
        """Run OpenSC's pkcs11-tool on the token and return what it printed."""
        return run_pkcs11_tool(self.module, self.label, self.pin, self.env, arguments)

    def list_tokens(self) -> str:
        """Return what OpenSC lists of the store's tokens."""
        return list_tokens(self.module, self.env)

    def token_flags(self) -> str:
        """Return the token's flags in OpenSC's words, such as `user PIN count low`."""
        listing = self.list_tokens()
        found = re.search(rf": {re.escape(self.label)}\n(?:.*\n)*?\s*token flags\s*: (.*)", listing)
        assert found is not None, listing
        return found[1]

    def run(
        self, command: Sequence[str], *, timeout: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the token's environment; its output must hold no secret."""
        done = subprocess.run(
            command,
            env={**os.environ, **self.env},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        WATCH.check(done.stdout + done.stderr, f"the output of {Path(command[0]).name}")
        if check and done.returncode:
            raise AssertionError(
                f"{Path(command[0]).name} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
            )
        return done

    def run_python(
        self, source: str, *arguments: str, timeout: float = 60, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run Python source in a process of its own, in the token's environment."""
        return self.run([sys.executable, "-c", source, *arguments], timeout=timeout, check=check)


def find_module() -> str:
    """Return the path of SoftHSM's PKCS#11 library."""
    found = [*filter(os.path.exists, _MODULES)]
    return found[0] if found else fail_missing("SoftHSM's PKCS#11 library", "softhsm2")


def list_tokens(module: str, env: dict[str, str]) -> str:
    """Return what pkcs11-tool lists of a module's tokens; nobody logs in."""
    return _pkcs11_tool(["--module", module, "--list-token-slots"], env)


def run_pkcs11_tool(
    module: str, label: str, pin: str, env: dict[str, str], arguments: Sequence[str]
) -> str:
    """Run pkcs11-tool on a token, the PIN in its environment instead of its arguments."""
    token = ["--module", module, "--token-label", label, "--pin", f"env:{_PIN_VARIABLE}"]
    return _pkcs11_tool([*token, *arguments], {**env, _PIN_VARIABLE: pin})


def _pkcs11_tool(arguments: Sequence[str], env: dict[str, str]) -> str:
    done = subprocess.run(
        [require_program("pkcs11-tool", "opensc"), *arguments],
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    WATCH.check(done.stdout + done.stderr, "the output of pkcs11-tool")
    if done.returncode:
        raise AssertionError(
            f"pkcs11-tool {arguments} ended with {done.returncode}:\n{done.stderr}"
        )
    return done.stdout
