"""Loads the configuration and opens what it names.

What holds, in this order: a keyword argument, an environment variable, the file, the default.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from keystay.config.client import ClientConfig
from keystay.config.config import FILE_NAME, Config
from keystay.config.environment import FILE_VARIABLE, TABLES, General, Variables
from keystay.config.policy import PolicyConfig, require_tightened
from keystay.config.source import Source
from keystay.errors import ConfigurationError, did_you_mean
from keystay.http.settings import HttpSettings
from keystay.settings import Values, fields, read_table

if TYPE_CHECKING:
    from keystay.custody import Fact
    from keystay.settings import Place
    from keystay.signer import Signer

__all__ = ["load_config", "open_client_signer"]

T = TypeVar("T", bound=msgspec.Struct)

_PATHS = ("ca_bundle", "client_cert", "client_key")


def load_config(
    path: str | os.PathLike[str] | None = None, *, environ: Mapping[str, str] | None = None
) -> Config:
    """Load the configuration.

    Args:
        path: The file; default what KEYSTAY_CONFIG names, else `keystay.toml` in the working
            directory if there is one.
        environ: Default the process's environment.

    Raises:
        ConfigurationError: With file, line and key, or the variable, and what was expected.
    """
    environ = os.environ if environ is None else environ
    named = path if path is not None else environ.get(FILE_VARIABLE)
    found = Path(named) if named else Path(FILE_NAME)
    source = Source(found) if named or found.is_file() else None
    variables = Variables.read(environ, None if source is None else source.document)
    return _Loading(source, variables).config()


class _Loading:
    """Reads one file, or none, and the environment."""

    def __init__(self, source: Source | None, variables: Variables) -> None:
        self._source, self._variables = source, variables
        self._document: dict[str, object] = {} if source is None else dict(source.document)
        # Absolute: what stands beside it is looked for later, wherever the process is by then.
        self._folder = Path() if source is None else source.path.parent.absolute()

    def config(self) -> Config:
        known = (*fields(General), *[t for t in TABLES if t], "backends", "observers")
        for key in self._document:
            if key not in known:
                raise ConfigurationError(
                    f"{self._place('')(key)} there is no such key.",
                    hint=did_you_mean(key, [k for k in known if k not in fields(General)]),
                    code="config-key-unknown",
                )
        general = self._read(
            General, "", {k: v for k, v in self._document.items() if k in fields(General)}
        )
        http = self._read(HttpSettings, "http", self._table("http"))
        policy = self._policy()
        clients = {name: self._client(name, policy) for name in self._table("clients")}
        alone = self._environment_client(policy) if len(clients) != 1 else None
        source = self._source
        return Config(
            None if source is None else source.path,
            clients,
            alone,
            http,
            policy,
            self._plugins("backends"),
            self._plugins("observers"),
            folder=None if source is None else self._folder,
            state_dir=None if general.state_dir is None else self._folder / general.state_dir,
            variables=self._variables,
            source=source,
        )

    def _read(self, kind: type[T], table: str, values: Mapping[str, object]) -> T:
        """A table, with what the environment says instead."""
        given = self._relative(kind, values, self._folder)
        own = self._relative(kind, self._variables.of(table), Path().absolute())
        return read_table(kind, {**given, **own}, self._place(table))

    def _policy(self) -> PolicyConfig:
        """`[policy]`, which the environment can only tighten."""
        place = self._place("policy")
        general = PolicyConfig.read(self._table("policy"), place)
        own = self._variables.of("policy")
        return PolicyConfig.read(own, place, general) if own else general

    def _client(self, name: str, policy: PolicyConfig) -> ClientConfig:
        clients = self._table("clients")
        assert self._source is not None
        table = self._source.table(clients, name, ("clients",))
        is_only = len(clients) == 1
        where = ("clients", name)
        own = self._variables.of("clients") if is_only else {}
        in_file = self._source.place(where)

        def place(key: str | None) -> str:
            names = self._variables.names
            return f"{names['clients', key]}:" if key in own and key else in_file(key)

        rest = self._relative(ClientConfig, table, self._folder)
        rest |= self._relative(ClientConfig, own, Path().absolute())
        if "policy" not in rest:
            return read_table(ClientConfig, rest, place)
        del rest["policy"]
        client = read_table(ClientConfig, rest, place)
        in_policy = self._source.place((*where, "policy"))
        stricter = PolicyConfig.read(
            self._source.table(table, "policy", where), in_policy, self._in_file_policy()
        )
        return msgspec.structs.replace(client, policy=_tightened(stricter, policy, in_policy))

    def _in_file_policy(self) -> PolicyConfig:
        return PolicyConfig.read(self._table("policy"), self._place("policy"))

    def _environment_client(self, policy: PolicyConfig) -> ClientConfig | None:
        """The client that the environment describes alone."""
        own = self._relative(ClientConfig, self._variables.of("clients"), Path().absolute())
        needed = ("fhir_base_url", "key")
        if not own or (self._table("clients") and not all(own.get(key) for key in needed)):
            return None
        for key in (*needed, "client_id"):
            if not own.get(key) and (key in needed or key in own):
                raise ConfigurationError(
                    f"The environment describes a client, and KEYSTAY_{key.upper()} is not set.",
                    hint="KEYSTAY_FHIR_BASE_URL, KEYSTAY_CLIENT_ID and KEYSTAY_KEY belong "
                    "together; only a client that is not registered yet has no KEYSTAY_CLIENT_ID.",
                    code="environment-incomplete",
                )
        return read_table(ClientConfig, own, self._place("clients"))

    def _plugins(self, tables: str) -> dict[str, Values]:
        """The settings of backends or observers; each checks its own when it is used."""
        source, own = self._source, self._variables.within(tables)
        in_file = {} if source is None else source.tables(self._document, tables)
        found = {}
        for name in in_file.keys() | own.keys():
            values = {k: _reference_from(self._folder, v) for k, v in in_file.get(name, {}).items()}
            given = own.get(name, {})
            place = self._place(f"{tables}.{name}")
            found[name] = Values(values | given, place, given)
        return found

    def _table(self, name: str) -> dict[str, object]:
        return {} if self._source is None else self._source.table(self._document, name)

    def _place(self, table: str) -> Place:
        """Where the keys of a table stand: in a variable, or in the file."""
        names = self._variables.names
        where = tuple(table.split(".")) if table else ()
        in_file = None if self._source is None else self._source.place(where)

        def say(key: str | None) -> str:
            if key is not None and (table, key) in names:
                return f"{names[table, key]}:"
            return in_file(key) if in_file is not None else f"{key or 'environment'}:"

        return say

    @staticmethod
    def _relative(
        kind: type[msgspec.Struct], values: Mapping[str, object], folder: Path
    ) -> dict[str, object]:
        """Values with relative paths and references made to start at a folder."""
        known = fields(kind)
        made: dict[str, object] = {}
        for key, value in values.items():
            if key in _PATHS and isinstance(value, str):
                made[key] = str(folder / value)
            elif key == "store" or (key in known and known[key].extra.get("is_secret_reference")):
                made[key] = _reference_from(folder, value)
            else:
                made[key] = value
        return made


def open_client_signer(
    config: Config,
    name: str | None = None,
    *,
    uri: str | None = None,
    algorithm: str | None = None,
    kid: str | None = None,
    created: Fact | None = None,
) -> Signer:
    """Open the key of a configured client, under the configuration's policy.

    Args:
        config: A loaded configuration.
        name: The client.
        uri: Another key than the configured one; the rest then goes with it.
        algorithm: Its JWS algorithm; default by key type.
        kid: Its key id; default the thumbprint.
        created: When it was made, for a backend that cannot say.

    Raises:
        KeystayError: The client is not configured or its key cannot be opened.
    """
    from keystay.observers import open_observers
    from keystay.signer import open_signer

    client = config.client(name)
    if uri is None:
        uri, algorithm, kid = client.key, client.algorithm, client.kid
        created = client.created
    return open_signer(
        uri,
        algorithm=algorithm,
        kid=kid,
        backends=config.backends,
        policy=config.policy_of(client),
        enforce=config.enforces_policy,
        created=created,
        verify=client.verify,
        timeout=config.http.timeout,
        base_dir=config.base_dir_of(client),
        observers=open_observers(config.observers, base_dir=config.base_dir),
    )


def _tightened(own: PolicyConfig, general: PolicyConfig, place: Place) -> PolicyConfig:
    """A client's own policy, with what the environment demands beyond the file."""
    stricter = {
        key: getattr(general, key)
        for key, _ in general.loosened_by(own)
        if not isinstance(getattr(general, key), tuple)
    }
    own = msgspec.structs.replace(own, **stricter)
    require_tightened(own, general, place)
    return own


def _reference_from(folder: Path, value: object) -> object:
    """A `file:` reference to a relative path, made to start at the folder; all else as it is."""
    if not isinstance(value, str) or not value.startswith("file:") or value == "file:":
        return value
    return f"file:{folder.absolute() / value.removeprefix('file:')}"
