"""Programs with a token client, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING

from tests.support.secrets_watch import WATCH
from tests.support.token_clients import CLIENT_ID, SCOPE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from keystay.testing import SmartTestServer

__all__ = ["ClientProcess"]

PRELUDE = f"""
import logging, os, signal, sys, threading, time, warnings
warnings.simplefilter("error")
logging.basicConfig(format="%(message)s")
logging.getLogger("keystay.backends").setLevel(logging.ERROR)  # a PEM key, as we know
import keystay

def make(**changes):
    return keystay.TokenClient(**{{**dict(
        fhir_base_url=sys.argv[1], client_id={CLIENT_ID!r}, scope={SCOPE!r},
        signer=keystay.open_signer("file:" + sys.argv[3]), own_signer=True,
        allow_insecure_loopback=True, retries=0, timeout=8,
    ), **changes}})

def fork(work):
    if child := os.fork():
        return child
    try:
        work()
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    os._exit(0)

def ended_well(child):
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0

def while_renewing(client, act):
    def wait():
        while not client._cache.is_renewing:
            time.sleep(0.01)
        # Its HTTP client is made, and the request on its way: that is a worker thread's.
        while not any(t.name == "keystay-worker" for t in threading.enumerate()):
            time.sleep(0.01)
        time.sleep(0.3)
        act()
    thread = threading.Thread(target=wait)
    thread.start()
    return thread
"""


class ClientProcess:
    """Runs programs that find `make(**changes)`: a client of the server, with one try only.

    Args:
        server: Whom the client asks.
        pem_file: Its key.
    """

    def __init__(self, server: SmartTestServer, pem_file: Path) -> None:
        self._server, self._pem_file = server, pem_file

    def command(self, program: str, *arguments: str) -> list[str]:
        """The command line that runs a program."""
        code = PRELUDE + textwrap.dedent(program)
        base, endpoint = self._server.fhir_base_url, self._server.token_endpoint
        return [sys.executable, "-c", code, base, endpoint, str(self._pem_file), *arguments]

    def run(
        self,
        program: str,
        *arguments: str,
        env: Mapping[str, str] | None = None,
        code: int = 0,
        timeout: float = 100,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end; it shows no secret, and exits with `code`."""
        done = subprocess.run(
            self.command(program, *arguments),
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
            env={**os.environ, **(env or {})},
        )
        assert code == done.returncode, done.stderr
        WATCH.check(done.stdout + done.stderr, "what a program printed")
        return done
