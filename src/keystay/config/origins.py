"""Where each setting that holds comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from keystay.config.environment import TABLES
from keystay.settings import Field, Values, fields, read_plugin_table

if TYPE_CHECKING:
    from keystay.config.client import ClientConfig
    from keystay.config.config import Config

__all__ = ["Origin", "origins"]

SettingsOf = Callable[[str], type[msgspec.Struct] | None]


@dataclass(frozen=True, slots=True)
class Origin:
    """One setting.

    Attributes:
        table: As in the file: `http`, `clients.epic`; "" for the top.
        key: Its key.
        value: What holds, as TOML would have it; None for nothing. References to secrets, never
            secrets.
        origin: `keystay.toml:12`, the name of a variable, or `default`.
        unit: Such as `seconds`.
    """

    table: str
    key: str
    value: object
    origin: str
    unit: str


def origins(
    config: Config, name: str | None, backend: SettingsOf, observer: SettingsOf
) -> Iterator[Origin]:
    """Every setting that holds for a client, in the order of the reference.

    Args:
        config: A loaded configuration.
        name: The client; as for `Config.client`.
        backend: The Struct of a backend's settings, by URI scheme.
        observer: The same of an observer's, by name.

    Raises:
        KeystayError: There is no such client, or a plugin's table cannot be used.
    """
    client = config.client(name)
    title = config.client_name(name)
    found = _Origins(config)
    yield from found.of("", fields(TABLES[""]), {"state_dir": config.state_dir})
    own = {key: getattr(client, key) for key in fields(type(client)) if key != "policy"}
    yield from found.of_client(client, title, own)
    yield from found.of("http", fields(type(config.http)), msgspec.structs.asdict(config.http))
    policy = config.policy_of(client)
    where = "policy" if client.policy is None else f"clients.{title}.policy"
    yield from found.of(where, fields(type(policy)), msgspec.structs.asdict(policy), "policy")
    scheme = client.key.partition(":")[0]
    yield from found.of_plugin(
        f"backends.{scheme}", config.backends.get(scheme, {}), backend(scheme)
    )
    for each, table in config.observers.items():
        yield from found.of_plugin(f"observers.{each}", table, observer(each))


class _Origins:
    def __init__(self, config: Config) -> None:
        self._config = config
        self._names = {} if config.variables is None else config.variables.names

    def of(
        self,
        table: str,
        known: Mapping[str, Field],
        values: Mapping[str, object],
        also: str | None = None,
    ) -> Iterator[Origin]:
        """The settings of a table; `also` holds where the table itself says nothing."""
        for key, field in known.items():
            name = self._names.get((also or table, key))
            origin = name or self._in_file(table, key) or (also and self._in_file(also, key))
            yield _origin(table, key, values.get(key, field.default), origin or "default", field)

    def of_client(
        self, client: ClientConfig, title: str | None, values: Mapping[str, object]
    ) -> Iterator[Origin]:
        table = "environment" if title is None else f"clients.{title}"
        overridden = self._config.overridden(client)
        for key, field in fields(type(client)).items():
            if key in values:
                in_file = None if title is None else self._in_file(table, key)
                origin = overridden.get(key) or in_file or "default"
                yield _origin(table, key, values[key], origin, field)

    def of_plugin(
        self, table: str, values: Mapping[str, object], kind: type[msgspec.Struct] | None
    ) -> Iterator[Origin]:
        if kind is None:
            return
        required = {"required": True} if "required" in values else {}
        own = {key: value for key, value in values.items() if key not in required}
        if isinstance(values, Values):
            own = Values(own, values.place, values.variables)
        made = read_plugin_table(kind, own, table)
        yield from self.of(table, fields(kind), msgspec.structs.asdict(made))

    def _in_file(self, table: str, key: str) -> str | None:
        source = self._config.source
        where = tuple(table.split(".", 1)) if table else ()
        if table.endswith(".policy"):
            where = (*table.removesuffix(".policy").split(".", 1), "policy")
        if source is None:
            return None
        found: object = source.document
        for part in (*where, key):
            if not isinstance(found, dict) or part not in found:
                return None
            found = found[part]
        return source.at(where, key)


def _origin(table: str, key: str, value: object, origin: str, field: Field) -> Origin:
    plain = msgspec.to_builtins(value, enc_hook=str)
    if isinstance(plain, list | tuple | dict) and not plain:
        plain = None
    return Origin(table, key, plain, origin, str(field.extra.get("unit", "")))
