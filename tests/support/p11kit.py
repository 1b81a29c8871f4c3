"""A SoftHSM token in another process, reached over a Unix socket through p11-kit.

`p11-kit server` keeps listening and forks a child for each connection. Ending the children is
what losing the HSM looks like to a client; ending the server is an HSM that stays away.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self

from tests.support.missing import fail_missing, require_program
from tests.support.softhsm import list_tokens, run_pkcs11_tool

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

    from tests.support.softhsm import SoftHSM

_START_TIMEOUT = 10.0
_ACCEPTS = "00010000"  # __SO_ACCEPTCON of linux/net.h: listen() was called


class P11KitServer:
    """Serves one token for as long as a `with` block runs.

    Attributes:
        client_module: The PKCS#11 library for the client's process.
        address: Where the server listens, as `P11_KIT_SERVER_ADDRESS` wants it.
        env: What a client process must have in its environment.
        token: The token that is served.
    """

    def __init__(
        self, token: SoftHSM, *, provider: str | None = None, env: Mapping[str, str] | None = None
    ) -> None:
        """Start to serve the token.

        Args:
            token: The token.
            provider: The PKCS#11 library that shows it; default the token's own.
            env: What that library wants in its environment besides the token's.
        """
        require_program("p11-kit", "p11-kit")
        self.client_module = find_client_module()
        self.token = token
        self._provider = provider or token.module
        self._provider_env = {**token.env, **(env or {})}
        # A Unix socket's path has at most 107 bytes, so not below pytest's temporary folder.
        self._directory = Path(tempfile.mkdtemp(prefix="p11-"))
        self._socket = self._directory / "s"
        self.address = f"unix:path={self._socket}"
        self.env = {"P11_KIT_SERVER_ADDRESS": self.address}
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def __repr__(self) -> str:
        """Show the token and the address."""
        return f"<P11KitServer of {self.token.label!r} at {self.address}>"

    @property
    def query(self) -> str:
        """The query of a key URI: module path and PIN source."""
        return f"module-path={self.client_module}&pin-source=file:{self.token.pin_file}"

    def key_uri(self, label: str) -> str:
        """Return the whole URI of a key."""
        return f"{self.token.uri};object={label}?{self.query}"

    def pkcs11_tool(self, *arguments: str) -> str:
        """Run OpenSC's pkcs11-tool through the server and return what it printed."""
        return run_pkcs11_tool(
            self.client_module, self.token.label, self.token.pin, self.env, arguments
        )

    def list_tokens(self) -> str:
        """Return what OpenSC lists of the tokens that the server shows."""
        return list_tokens(self.client_module, self.env)

    def start(self) -> None:
        """Start the server and wait until it listens."""
        self._process = subprocess.Popen(
            [
                "p11-kit", "server", "--foreground", "--provider", self._provider,
                "--name", str(self._socket), f"pkcs11:token={self.token.label}",
            ],
            env={**os.environ, **self._provider_env},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        self._wait_for(self._listens)

    def _wait_for(self, condition: Callable[[], bool]) -> None:
        assert self._process is not None
        until = time.monotonic() + _START_TIMEOUT
        while not condition():
            if self._process.poll() is not None or time.monotonic() > until:
                raise AssertionError(
                    f"p11-kit server did not do as it should: {self._process.poll()}"
                )
            time.sleep(0.01)

    def _listens(self) -> bool:
        """Ask the kernel: a connection, to see whether it is taken, would be a child to count."""
        for line in Path("/proc/net/unix").read_text().splitlines():
            _, _, _, flags, _, _, _, *path = line.split(maxsplit=7)
            if path == [str(self._socket)] and flags == _ACCEPTS:
                return True
        return False

    def children(self) -> list[int]:
        """Return the process ids of the open connections."""
        assert self._process is not None
        task = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in task.read_text().split() if _is_alive(pid)]

    def kill_children(self) -> int:
        """End every connection, as an HSM that restarts does; return how many there were."""
        found = self.children()
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._wait_for(lambda: not any(_is_alive(str(pid)) for pid in found))
        return len(found)

    def stop(self) -> None:
        """End the server and every connection; safe to repeat."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            # The server leads a process group of its own: this ends it and its children.
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        self._socket.unlink(missing_ok=True)

    def restart(self) -> None:
        """Stop, and serve again at the same address."""
        self.stop()
        self.start()

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)

    def __enter__(self) -> Self:
        """Return the running server."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


def _is_alive(pid: str) -> bool:
    """Tell whether a process runs: one that ended stays listed until its parent looks."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def find_client_module() -> str:
    """Return the path of p11-kit's client library."""
    found = [
        str(path)
        for root in ("/usr/lib", "/usr/lib64", "/usr/local/lib")
        for path in sorted(Path(root).glob("**/pkcs11/p11-kit-client.so"))
    ]
    return found[0] if found else fail_missing("p11-kit-client.so", "p11-kit-modules")
