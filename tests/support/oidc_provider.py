"""npm's oidc-provider in a process of its own: an authorization server that is not ours."""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pytest

from tests.support.missing import require_program

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType

_SERVERS = Path(__file__).parents[1] / "servers"
_START_TIMEOUT = 30.0
_STOP_TIMEOUT = 5.0


class OIDCProvider:
    """A running oidc-provider with a few FHIR answers beside it.

    Args:
        directory: Takes the configuration and the server's log.
        clients: Client metadata (RFC 7591 section 2): at least `client_id`, and `jwks` or
            `jwks_uri`.
        scopes: Scopes besides the usual `system/` ones for `*`, Patient and Observation.
        initial_access_token: Demanded for registration when given.
        report_assertions: Whether each assertion is an event, with its kid.

    Attributes:
        base_url: The issuer.
    """

    def __init__(
        self,
        directory: Path,
        clients: Sequence[Mapping[str, Any]] = (),
        *,
        scopes: Sequence[str] = (),
        initial_access_token: str | None = None,
        report_assertions: bool = False,
    ) -> None:
        """Start it and wait until it listens."""
        node = require_program("node", "nodejs npm")
        if not (_SERVERS / "node_modules" / "oidc-provider").is_dir():
            pytest.fail(
                "oidc-provider is not installed. `make test` installs it; by hand: npm ci in "
                "tests/servers",
                pytrace=False,
            )
        directory.mkdir(parents=True, exist_ok=True)
        config = directory / "oidc-provider.json"
        document = {
            "clients": clients,
            "scopes": scopes,
            "initial_access_token": initial_access_token,
            "report_assertions": report_assertions or None,
        }
        config.write_text(
            json.dumps({name: value for name, value in document.items() if value is not None})
        )
        self._log = directory / "oidc-provider.log"
        self._events: queue.Queue[dict[str, Any]] = queue.Queue()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [node, str(_SERVERS / "oidc_provider.mjs"), str(config)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self._reader = threading.Thread(target=self._read, name="oidc-provider-reader", daemon=True)
        self._reader.start()
        try:
            self.base_url: str = self.next_event("ready", timeout=_START_TIMEOUT)["base_url"]
        except AssertionError:
            self.close()
            raise

    def __repr__(self) -> str:
        """Show the issuer."""
        return f"<OIDCProvider {self.base_url}>"

    @property
    def token_endpoint(self) -> str:
        """The URL of the token endpoint."""
        return f"{self.base_url}/token"

    @property
    def fhir_base_url(self) -> str:
        """The FHIR base URL."""
        return f"{self.base_url}/fhir"

    @property
    def registration_endpoint(self) -> str:
        """The URL for dynamic registration (RFC 7591)."""
        return f"{self.base_url}/reg"

    def next_refusal(self, timeout: float = 5.0) -> dict[str, Any]:
        """Return the next refused token request, with `client_id`, `error` and real `reason`."""
        return self.next_event("refused", timeout=timeout)

    def next_event(self, name: str, *, timeout: float) -> dict[str, Any]:
        """Return the next event, which must be of this name.

        Raises:
            AssertionError: None came in time, or another one did.
        """
        try:
            event = self._events.get(timeout=timeout)
        except queue.Empty:
            log = self._log.read_text(errors="replace")
            raise AssertionError(
                f"oidc-provider said nothing in {timeout} s; its log:\n{log}"
            ) from None
        assert event["event"] == name, event
        return event

    def events(self) -> list[dict[str, Any]]:
        """Take every event that there is by now."""
        found = []
        while not self._events.empty():
            found.append(self._events.get())
        return found

    def close(self) -> None:
        """End the process and wait for it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(_STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        self._process.stdout.close()

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

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            try:
                self._events.put(json.loads(line))
            except ValueError:
                self._events.put({"event": "noise", "line": line.decode(errors="replace")})
        self._events.put({"event": "ended"})
