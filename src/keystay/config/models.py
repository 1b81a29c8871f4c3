"""The tables of keystay.toml, as types."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from pathlib import Path
from typing import Any, Literal

import msgspec

from keystay.custody import Fact
from keystay.errors import ConfigurationError, did_you_mean
from keystay.http.settings import HttpSettings
from keystay.policy import Policy
from keystay.smart.scopes import ScopeStyle

__all__ = ["ClientConfig", "Config", "File", "PolicyConfig"]

FILE_NAME = "keystay.toml"


class _Table(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A TOML table whose keys are known."""


class PolicyConfig(Policy, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """`[policy]` and `[clients.<name>.policy]`: the rules for keys, and one for publication.

    Attributes:
        require_published: Whether a token client only signs with a key it has seen at `jwks_url`.
    """

    require_published: bool = False


class ClientConfig(_Table, frozen=True, kw_only=True):
    """`[clients.<name>]`.

    Attributes:
        fhir_base_url: The FHIR server's base URL.
        client_id: Issued at registration; None until then.
        key: Key URI.
        scope: Scopes separated by blanks.
        scope_style: How `system/` scopes are sent: `as-written`, `v1`, `v2`, or `auto`, as the
            server advertises.
        algorithm: JWS algorithm; default by key type.
        kid: Default the RFC 7638 thumbprint.
        jwks_url: Sent as `jku`.
        token_endpoint: Skips discovery.
        allowed_origins: Besides the FHIR server's, for the bearer token.
        allow_insecure_loopback: Allow plain HTTP to this machine.
        assertion_lifetime: Seconds, at most 300.
        renewal_window: Share of a token's life, at its end, in which it is renewed; a minute
            at most.
        retries: How often a call tries again after broken connections, HTTP 429 and 5xx.
        signer_retries: The same after a device or key service that is not there.
        rate_limit: Token requests allowed, as requests/seconds; default no limit.
        clock_correction: What to do about a clock that differs: `on` or `warn`.
        verify: `always` or `first`.
        store: Where processes share the token: `file:` and a folder.
        store_key: Secret reference to the key that tokens are encrypted with there.
        vendor: Whose server it is: says how long JWK Sets are cached there. Default by URL.
        key_created: When `key` was made, for a backend that cannot say: a date.
        policy: What its key must be, at least as strict as `[policy]`; default that.
    """

    fhir_base_url: str
    key: str
    client_id: str | None = None
    scope: str = "system/*.rs"
    scope_style: ScopeStyle = "as-written"
    algorithm: str | None = None
    kid: str | None = None
    jwks_url: str | None = None
    token_endpoint: str | None = None
    allowed_origins: list[str] = []
    allow_insecure_loopback: bool = False
    assertion_lifetime: int = 240
    renewal_window: float = 0.2
    retries: int = 3
    signer_retries: int = 1
    rate_limit: str | None = None
    clock_correction: Literal["on", "warn"] = "on"
    verify: Literal["always", "first"] = "always"
    store: str | None = None
    store_key: str | None = None
    vendor: str | None = None
    key_created: date | None = None
    policy: PolicyConfig | None = None

    @property
    def created(self) -> Fact | None:
        """When `key` was made, as far as this file says."""
        return None if self.key_created is None else Fact(self.key_created.isoformat(), "asserted")

    def registered_id(self) -> str:
        """The client_id.

        Raises:
            ConfigurationError: There is none yet (`client-unregistered`).
        """
        if self.client_id is None:
            raise ConfigurationError(
                "The client has no client_id.",
                cause="It is not registered yet, or what registration returned is not written "
                "down.",
                hint="Register it (keystay register, or the vendor's portal), then write "
                'client_id = "…" into its table of keystay.toml, or set KEYSTAY_CLIENT_ID.',
                code="client-unregistered",
            )
        return self.client_id


class File(_Table, frozen=True, kw_only=True):
    """The whole file."""

    clients: dict[str, ClientConfig] = {}
    http: HttpSettings = HttpSettings()
    policy: PolicyConfig = PolicyConfig()
    backends: dict[str, dict[str, Any]] = {}
    observers: dict[str, dict[str, Any]] = {}


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

    @property
    def base_dir(self) -> Path:
        """Where relative paths in the file start."""
        return self.folder or (self.path.parent if self.path else Path())

    def base_dir_of(self, client: ClientConfig) -> Path:
        """Where a client's relative paths start: the environment's where the process does."""
        return Path() if client is self.environment_client else self.base_dir

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
            if name in self.clients:
                return self.clients[name]
            raise ConfigurationError(
                f"There is no client {name!r} ({where}).",
                hint=did_you_mean(name, sorted(self.clients))
                if self.clients
                else f"Add [clients.{name}] to {FILE_NAME}, or name the file with KEYSTAY_CONFIG.",
                code="client-unknown",
            )
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
