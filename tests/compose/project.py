"""A compose project of docker-compose.softhsm.yml for one test run, gone when it is."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from tests.support.p11kit import find_client_module
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from types import TracebackType

_ROOT = Path(__file__).parents[2]
_CONTAINERS = str(_ROOT / "tools" / "containers")
_UNPRIVILEGED = 10001
_START_TIMEOUT = 60.0


class Project:
    """The containers of one project; down with everything when the block ends.

    Attributes:
        name: The compose project's name.
        socket: Where `hsm` serves its token.
        pin_file: The PIN, for the container and for clients.
        env: What a client process must have in its environment.
    """

    def __init__(self) -> None:
        # Short: a Unix socket's path has at most 107 bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="hsm-"))
        self.name = f"keystay-{self._folder.name.rpartition('-')[2].strip('_').lower()}"
        self.socket = self._folder / "s" / "p11"
        self.socket.parent.mkdir(mode=0o700)
        self.pin_file = self._folder / "pin"
        self.pin_file.touch(mode=0o440)
        self.pin = WATCH.add("the container's PIN", os.urandom(12).hex())
        self.pin_file.write_text(f"{self.pin}\n")
        uid, gid = os.getuid(), os.getgid()
        if uid == 0:
            # Nothing in the container is root. The PIN stays root's, readable for its group.
            self._folder.chmod(0o711)
            uid = gid = _UNPRIVILEGED
            os.chown(self.socket.parent, uid, gid)
            os.chown(self.pin_file, 0, gid)
        self.uid = uid
        self._env = {
            **os.environ,
            "HSM_UID": str(uid),
            "HSM_GID": str(gid),
            "HSM_SOCKET_DIR": str(self.socket.parent),
            "HSM_PIN_FILE": str(self.pin_file),
        }
        self.client_module = find_client_module()
        self.env = {"P11_KIT_SERVER_ADDRESS": f"unix:path={self.socket}"}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.compose("down", "-v")
        finally:
            shutil.rmtree(self._folder, ignore_errors=True)

    def key_uri(self, label: str) -> str:
        """The whole URI of a key on the token."""
        return (
            f"pkcs11:token=keystay;object={label}?module-path={self.client_module}"
            f"&pin-source=file:{self.pin_file}"
        )

    def compose(self, *arguments: str, timeout: float = 300) -> str:
        """Run compose on the project; its output must hold no secret."""
        return self._run("compose", "-p", self.name, *arguments, timeout=timeout)

    def engine(self, *arguments: str) -> str:
        """Run docker or podman."""
        return self._run("engine", *arguments, timeout=60)

    def start(self) -> None:
        """Start `hsm` and wait until its health check succeeds."""
        self.compose("up", "-d", "hsm")
        until = time.monotonic() + _START_TIMEOUT
        while not self.healthy():
            assert time.monotonic() < until, self.logs()
            time.sleep(0.1)

    def healthy(self) -> bool:
        """Run the health check. Nothing triggers it on machines without systemd."""
        done = subprocess.run(
            [_CONTAINERS, "engine", "exec", self.container, "healthy"],
            env=self._env,
            capture_output=True,
            check=False,
            timeout=60,
        )
        return done.returncode == 0

    def kill(self) -> None:
        """End the container at once, as losing power does."""
        self.engine("kill", "--signal", "KILL", self.container)

    def logs(self) -> str:
        """What the container printed."""
        return self.engine("logs", self.container)

    @property
    def container(self) -> str:
        """The id of the container of `hsm`."""
        listed = self.engine("ps", "-a", "-q", "--filter", f"name=^{self.name}[-_]hsm")
        return listed.split()[0]

    def inspect(self) -> dict[str, Any]:
        """What the engine says of the container."""
        (found,) = json.loads(self.engine("inspect", self.container))
        return dict(found)

    def left(self) -> list[str]:
        """The names of the project's containers and volumes that exist."""
        name = f"name={self.name}"
        containers = self.engine("ps", "-a", "--format", "{{.Names}}", "--filter", name)
        volumes = self.engine("volume", "ls", "--format", "{{.Name}}", "--filter", name)
        return [*containers.split(), *volumes.split()]

    def _run(self, *arguments: str, timeout: float) -> str:
        done = subprocess.run(
            [_CONTAINERS, *arguments],
            env=self._env,
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        WATCH.check(done.stdout + done.stderr, f"the output of {arguments[0]}")
        if done.returncode:
            raise AssertionError(
                f"{' '.join(arguments)} ended with {done.returncode}:\n"
                f"{done.stdout[-3000:]}{done.stderr[-3000:]}"
            )
        return done.stdout
