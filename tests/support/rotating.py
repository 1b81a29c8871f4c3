"""What a rotation needs around it: the real commands, the real publisher, and continuous load."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from keystay.cli.app import run
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

    from keystay import TokenClient

KEYSTAY = str(Path(sys.executable).parent / "keystay")


class Commands:
    """Runs `keystay` in a folder with a keystay.toml, each time as a process of its own.

    Args:
        folder: Where keystay.toml is.
        env: Added to the environment, such as a token's or a cloud's credentials.
    """

    def __init__(self, folder: Path, env: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("KEYSTAY_") and not name.lower().endswith("_proxy")
        }
        self.env = {**kept, **(env or {})}

    def __call__(self, *arguments: str, exits: int = 0) -> subprocess.CompletedProcess[str]:
        """Run a command, which must end with this exit code."""
        done = self._run(arguments)
        # `keystay token` alone prints a secret.
        shown = done.stderr if arguments[0] == "token" else done.stdout + done.stderr
        WATCH.check(shown, f"the output of keystay {arguments}")
        assert exits == done.returncode, f"keystay {arguments}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done

    def json(self, *arguments: str, exits: int = 0) -> Any:
        """As calling, with --json; what it prints."""
        return json.loads(self(*arguments, "--json", exits=exits).stdout)

    def error(self, *arguments: str, exits: int = 3) -> dict[str, Any]:
        """The error of a command that fails."""
        done = self(*arguments, "--json", exits=exits)
        found: dict[str, Any] = json.loads(done.stderr.strip().splitlines()[-1])["error"]
        return found

    def serve(self, *arguments: str) -> Publisher:
        """Start `keystay jwks serve`."""
        return Publisher(self, arguments)

    def _run(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [KEYSTAY, *arguments],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


class CommandsHere(Commands):
    """The same in this process, which has to be in the folder; `serve` is a process still."""

    def _run(self, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = run(arguments)
        return subprocess.CompletedProcess(arguments, code, out.getvalue(), err.getvalue())


class Publisher:
    """`keystay jwks serve` in a process of its own, for a `with` block.

    Attributes:
        url: The JWKS URL.
    """

    def __init__(self, commands: Commands, arguments: Sequence[str]) -> None:
        self._log = commands.folder / "serve.log"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [KEYSTAY, "jwks", "serve", "--port", "0", *arguments],
                cwd=commands.folder,
                env=commands.env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()
        if not self.url:
            self.close()
            raise AssertionError(self._log.read_text())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert 0 == self.close(), self._log.read_text()

    def close(self) -> int:
        """End it as a service manager does, and return its exit code."""
        self._process.terminate()
        code = self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code


class Load:
    """Threads that ask for tokens without a break, for a `with` block.

    Args:
        client: Asked for a new token each time.
        threads: How many.

    Attributes:
        errors: Of the requests that failed.
    """

    def __init__(self, client: TokenClient, threads: int = 4) -> None:
        self._client = client
        self._over = threading.Event()
        self._counts = [0] * threads
        self.errors: list[BaseException] = []
        self._threads = [
            threading.Thread(target=self._run, args=(number,), name=f"load-{number}")
            for number in range(threads)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def requests(self) -> int:
        """How many succeeded."""
        return sum(self._counts)

    def go_on(self, requests: int, *, timeout: float = 60) -> None:
        """Return when every thread has had so many more tokens."""
        wanted = [count + requests for count in self._counts]
        until = time.monotonic() + timeout
        while any(have < want for have, want in zip(self._counts, wanted, strict=True)):
            assert not self.errors, self.errors[0]
            assert time.monotonic() < until, "the load does not go on"
            time.sleep(0.01)

    def _run(self, number: int) -> None:
        while not self._over.wait(0.05):
            try:
                token = self._client.request_token()
            except BaseException as error:  # noqa: BLE001 - whatever it is, it is a failed request
                self.errors.append(error)
                return
            if not self._counts[number]:  # looking for thousands takes minutes
                WATCH.add("an access token", token.value)
            self._counts[number] += 1
