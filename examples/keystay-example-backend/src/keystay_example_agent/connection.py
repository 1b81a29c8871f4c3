"""Asks the agent, and turns whatever goes wrong into keystay's errors."""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any

from keystay.errors import (
    AlgorithmError,
    BackendTimeoutError,
    BackendUnavailableError,
    KeyNotFoundError,
    LoginError,
)

if TYPE_CHECKING:
    from pathlib import Path

    from keystay.backends import Deadline, Secret

__all__ = ["Agent"]

_REFUSALS = {
    "denied": (LoginError, "The agent refuses the token.", "Check what token-source names."),
    "no-such-key": (KeyNotFoundError, "The agent has no such key.", "Check key= in the URI."),
    "bad-request": (AlgorithmError, "The agent cannot sign that.", "Use the key's algorithm."),
}


class Agent:
    """The way to the agent: a connection for each request, so threads and forks share nothing."""

    def __init__(self, path: Path, token: Secret) -> None:
        self._path, self._token = path, token

    def ask(self, deadline: Deadline, **request: str) -> dict[str, Any]:
        """Send one request and return the answer.

        Raises:
            BackendTimeoutError: No answer before the deadline.
            BackendUnavailableError: No agent, or no answer that makes sense.
            LoginError, KeyNotFoundError, AlgorithmError: What the agent says.
        """
        line = json.dumps(request | {"token": self._token.reveal()}).encode() + b"\n"
        try:
            with socket.socket(socket.AF_UNIX) as connection:
                self._send(connection, line, deadline)
                reply = json.loads(self._receive(connection, deadline))
        except TimeoutError as error:
            raise BackendTimeoutError(
                f"The agent at {self._path} did not answer within {deadline.seconds:g} s.",
                hint="Check that it runs and how busy it is.",
            ) from error
        except (OSError, ValueError) as error:
            raise BackendUnavailableError(
                f"The agent at {self._path} gives no answer ({type(error).__name__}).",
                hint="Check that it runs: its socket is the path in the key URI.",
            ) from error
        if "error" in reply:
            kind, message, hint = _REFUSALS.get(
                reply["error"], (BackendUnavailableError, "The agent failed.", "Read its log.")
            )
            raise kind(message, hint=hint)
        return dict(reply)

    def _send(self, connection: socket.socket, line: bytes, deadline: Deadline) -> None:
        deadline.check("Asking the agent")
        connection.settimeout(deadline.remaining)
        connection.connect(str(self._path))
        connection.sendall(line)

    def _receive(self, connection: socket.socket, deadline: Deadline) -> bytes:
        reply = b""
        while not reply.endswith(b"\n"):
            deadline.check("Waiting for the agent")
            connection.settimeout(deadline.remaining)
            chunk = connection.recv(1 << 16)
            if not chunk:
                raise ConnectionError("the agent hung up")
            reply += chunk
        return reply
