"""A loaded configuration: which clients there are, and what holds for all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from keystay.config.client import ClientConfig
from keystay.config.policy import PolicyConfig
from keystay.errors import ConfigurationError, did_you_mean
from keystay.http.settings import HttpSettings

if TYPE_CHECKING:
    from keystay.config.environment import Variables
    from keystay.config.source import Source

__all__ = ["FILE_NAME", "Config"]

FILE_NAME = "keystay.toml"
_STATES = "keystay-keys"


@dataclass(frozen=True)
class Config:
    """A loaded configuration.

    Attributes:
        path: The file, or None when there is none.
        clients: By name.
        environment_client: The client the environment describes, or None.
        http: How to reach servers.
        policy: What keys are accepted, where a client has no stricter policy.
        backends: Settings by URI scheme.
        observers: Settings by observer.
        folder: Where the file is, as an absolute path; by default that of `path`.
        enforces_policy: Whether a key that policy refuses is refused when it is opened.
        state_dir: Where keystay keeps what it has to keep; None for beside the file.
        variables: The environment variables that say something.
        source: The file's text.
    """

    path: Path | None = None
    clients: Mapping[str, ClientConfig] = field(default_factory=dict)
    environment_client: ClientConfig | None = None
    http: HttpSettings = field(default_factory=HttpSettings)
    policy: PolicyConfig = field(default_factory=PolicyConfig)
    backends: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    observers: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    enforces_policy: bool = True
    folder: Path | None = None
    state_dir: Path | None = None
    variables: Variables | None = field(default=None, repr=False)
    source: Source | None = field(default=None, repr=False)

    @property
    def base_dir(self) -> Path:
        """Where relative paths in the file start."""
        return self.folder or (self.path.parent if self.path else Path())

    @property
    def states(self) -> Path:
        """The folder of rotation states and of public keys kept for publishing.

        Raises:
            ConfigurationError: `state_dir` is set, and there are states beside the file still.
        """
        beside = self.base_dir / _STATES
        if self.state_dir is None:
            return beside
        if self.state_dir.absolute() != beside.absolute() and any(beside.glob("*.json")):
            raise ConfigurationError(
                f"There are states of rotations in {beside}, and state_dir names {self.state_dir}.",
                cause="A state says which key signs; without it the key of the file would.",
                hint=f"Move what is in {beside} to {self.state_dir}, or leave state_dir out.",
                code="state-elsewhere",
            )
        return self.state_dir

    @property
    def own_state_dir(self) -> Path:
        """The folder for what is not the file's but this user's: no rotation state.

        `state_dir`, else what systemd gives (`$STATE_DIRECTORY`), else the user's own (XDG Base
        Directory Specification).
        """
        if self.state_dir is not None:
            return self.state_dir
        if given := os.environ.get("STATE_DIRECTORY"):
            return Path(given.split(":")[0])
        home = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
        return Path(home).expanduser() / "keystay"

    def base_dir_of(self, client: ClientConfig) -> Path:
        """Where a client's key URI starts: the environment's where the process does."""
        return Path() if "key" in self.overridden(client) else self.base_dir

    def overridden(self, client: ClientConfig) -> Mapping[str, str]:
        """The variables that say something of a client, by key."""
        is_environments = client is self.environment_client or len(self.clients) == 1
        if self.variables is None or not is_environments:
            return {}
        return {key: name for (t, key), name in self.variables.names.items() if t == "clients"}

    def policy_of(self, client: ClientConfig) -> PolicyConfig:
        """What is demanded of a client's key."""
        return client.policy or self.policy

    def unenforced(self) -> Config:
        """The same, opening keys that policy refuses: to look at them, or to replace them."""
        return replace(self, enforces_policy=False)

    def client_name(self, name: str | None = None) -> str | None:
        """What the client that `client(name)` returns is called; None for the environment's."""
        client = self.client(name)
        if name is None and client is not self.environment_client:
            return next(iter(self.clients))
        return name

    def client(self, name: str | None = None) -> ClientConfig:
        """A client by name; without one, the environment's or the only one in the file.

        Raises:
            ConfigurationError: There is no such client, or a choice to make.
        """
        known = ", ".join(sorted(self.clients)) or "none"
        where = str(self.path) if self.path else f"no {FILE_NAME} was found"
        if name is not None:
            return self._named(name, where)
        if self.environment_client is not None:
            return self.environment_client
        if len(self.clients) == 1:
            return next(iter(self.clients.values()))
        if self.clients:
            raise ConfigurationError(
                f"{where} describes several clients and none was named.",
                hint=f"Name one: {known}.",
                code="client-not-named",
            )
        raise ConfigurationError(
            f"No client is configured ({where}).",
            hint=f"Write [clients.NAME] into {FILE_NAME}, or set KEYSTAY_FHIR_BASE_URL, "
            "KEYSTAY_CLIENT_ID and KEYSTAY_KEY.",
            code="client-missing",
        )

    def _named(self, name: str, where: str) -> ClientConfig:
        if name not in self.clients:
            raise ConfigurationError(
                f"There is no client {name!r} ({where}).",
                hint=did_you_mean(name, sorted(self.clients))
                if self.clients
                else f"Add [clients.{name}] to {FILE_NAME}, or name the file with KEYSTAY_CONFIG.",
                code="client-unknown",
            )
        of_clients = [] if self.variables is None else [*self.variables.of("clients")]
        if of_clients and len(self.clients) > 1:
            assert self.variables is not None
            variables = sorted(self.variables.names["clients", key] for key in of_clients)
            raise ConfigurationError(
                f"The client {name!r} was named, and the environment sets {', '.join(variables)}.",
                cause=f"{where} describes several clients; to which of them the variables belong "
                "cannot be told.",
                hint="Unset the variables, or leave the name out to use the environment's client.",
                code="client-ambiguous",
            )
        return self.clients[name]
