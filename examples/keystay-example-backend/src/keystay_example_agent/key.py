"""An opened key of the agent."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import load_der_public_key

from keystay.backends import BackendSignature, Deadline, KeyDescription
from keystay.custody import Custody
from keystay.errors import AlgorithmError, KeyChangedError, LoginError, SignerClosedError
from keystay_example_agent.connection import Agent

if TYPE_CHECKING:
    from keystay.backends import BackendContext, SignRequest
    from keystay.key_uri import KeyURI

__all__ = ["AgentKey"]


class AgentKey:
    """A key of the agent; the private key never comes here."""

    def __init__(self, agent: Agent, name: str, deadline: Deadline) -> None:
        self._agent, self._name, self._closed = agent, name, False
        answer = agent.ask(deadline, do="describe", key=name)
        self._description = KeyDescription(
            public_key=load_der_public_key(base64.b64decode(answer["public_key"])),
            algorithms=tuple(answer["algorithms"]),
            key_id=answer["id"],
            label=name,
            custody=Custody("other-process", "reported", "The agent holds the key and signs."),
        )

    @classmethod
    def open(cls, uri: KeyURI, context: BackendContext) -> AgentKey:
        """Open the key a URI names."""
        uri.require_known(query=("key", "token-source"))
        reference = uri.query.get("token-source")
        token = context.secrets.resolve(reference, "the agent's token")
        if token is None:
            raise LoginError(
                "The key URI names no token.",
                hint="Add &token-source=file:/run/secrets/agent-token to it.",
            )
        agent = Agent(context.base_dir / uri.path, token)
        return cls(agent, uri.query.get("key", "default"), Deadline.after(context.timeout))

    def describe(self) -> KeyDescription:
        """What is known about the key; the same at every call."""
        return self._description

    def sign(self, request: SignRequest) -> BackendSignature:
        """Have the agent sign the digest."""
        self._check_open()
        digest, algorithm = request.digest, request.algorithm
        if digest is None or len(digest) != algorithm.digest_size:
            raise AlgorithmError(f"{algorithm.name} needs a digest of its own length.")
        answer = self._agent.ask(
            request.deadline,
            do="sign",
            key=self._name,
            algorithm=algorithm.name,
            digest=base64.b64encode(digest).decode(),
        )
        # The id that comes with *this* signature: keystay compares it with the one described.
        return BackendSignature(base64.b64decode(answer["signature"]), "der", answer["id"])

    def health(self, deadline: Deadline) -> None:
        """Ask for the key; does not sign."""
        self._check_open()
        if self._agent.ask(deadline, do="describe", key=self._name)["id"] != (
            self._description.key_id
        ):
            raise KeyChangedError(f"The agent's key {self._name} is another one than was opened.")

    def close(self) -> None:
        """Nothing is held open; only remember."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise SignerClosedError(f"The agent's key {self._name} is closed.")
