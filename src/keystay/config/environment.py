"""Settings that environment variables give: `KEYSTAY_` and the setting's place in the file."""

# No annotations as text: msgspec would compile each of them at every start.

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from itertools import chain
from typing import Annotated

import msgspec

from keystay.config.client import ClientConfig
from keystay.config.policy import PolicyConfig
from keystay.errors import ConfigurationError, KeystayError
from keystay.http.settings import HttpSettings
from keystay.settings import environment_name, fields, from_text, setting

__all__ = ["FILE_VARIABLE", "TABLES", "General", "Variables"]

FILE_VARIABLE = "KEYSTAY_CONFIG"

_PLUGIN = re.compile(r"KEYSTAY_(BACKENDS|OBSERVERS)_([A-Z0-9]+)_([A-Z0-9_]+)")
# What Kubernetes sets for a service whose name begins with keystay.
_KUBERNETES = re.compile(
    r"KEYSTAY(?:_[A-Z0-9]+)*_(?:SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?"
    r"|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)?)"
)
_NAMED = re.compile(r"env:(KEYSTAY_[A-Z0-9_]+)")


class General(msgspec.Struct, frozen=True, kw_only=True):
    """What stands at the top of keystay.toml, before any table."""

    state_dir: Annotated[
        str | None,
        setting(
            "Folder for what keystay has to keep: the states of rotations, and public keys for "
            "publishing.",
            example='"/var/lib/keystay"',
            default="`keystay-keys/` beside the file",
        ),
    ] = None

    def faults(self) -> Iterator[tuple[str, KeystayError]]:
        """Each setting of the right type that still cannot be used."""
        if self.state_dir == "":
            yield (
                "state_dir",
                ConfigurationError(
                    "It names no folder.",
                    hint='Write state_dir = "/var/lib/keystay", or leave it out.',
                ),
            )


TABLES: Mapping[str, type[msgspec.Struct]] = {
    "": General,
    "clients": ClientConfig,
    "http": HttpSettings,
    "policy": PolicyConfig,
}
"""The tables of keystay.toml whose keys are keystay's own."""


@dataclass(frozen=True)
class Variables:
    """The variables that are set.

    Attributes:
        names: The variable of each setting, by table and key; `clients` is the client's table.
        values: Its value.
    """

    names: Mapping[tuple[str, str], str]
    values: Mapping[tuple[str, str], object]

    @classmethod
    def read(cls, environ: Mapping[str, str], referred: object = None) -> "Variables":
        """Read them.

        Args:
            environ: The environment.
            referred: What a file says; a reference in it may name a variable: `env:KEYSTAY_PIN`.

        Raises:
            ConfigurationError: One is not known (`environment-unknown`).
        """
        known = dict(_known())
        ours = {name: text for name, text in environ.items() if name.startswith("KEYSTAY_")}
        named = set(chain.from_iterable(map(_NAMED.findall, _texts([referred, ours]))))
        names, values = {}, {}
        for variable, text in ours.items():
            if variable in known:
                place = known[variable]
                names[place] = variable
                values[place] = from_text(fields(TABLES[place[0]])[place[1]], text)
            elif (found := _PLUGIN.fullmatch(variable)) and _is_installed(found[1], found[2]):
                table, name, key = (part.lower() for part in found.groups())
                names[f"{table}.{name}", key], values[f"{table}.{name}", key] = variable, text
            elif not (
                variable == FILE_VARIABLE
                or variable in named
                or variable.startswith("KEYSTAY_TEST_")
                or _KUBERNETES.fullmatch(variable)
            ):
                near = difflib.get_close_matches(variable, (*known, FILE_VARIABLE), n=1, cutoff=0.8)
                raise ConfigurationError(
                    f"The environment variable {variable} is not known.",
                    cause="No setting has this name; what begins with KEYSTAY_ is keystay's.",
                    hint=f"Did you mean {near[0]}?"
                    if near
                    else "Unset it. The names are KEYSTAY_ and a setting's place in keystay.toml, "
                    "such as KEYSTAY_HTTP_TIMEOUT.",
                    code="environment-unknown",
                )
        return cls(names, values)

    def of(self, table: str) -> dict[str, object]:
        """The values for one table."""
        return {key: value for (place, key), value in self.values.items() if place == table}

    def within(self, tables: str) -> dict[str, dict[str, object]]:
        """The values for the tables within one: `backends`."""
        found: dict[str, dict[str, object]] = {}
        for (place, key), value in self.values.items():
            outer, _, inner = place.partition(".")
            if outer == tables and inner:
                found.setdefault(inner, {})[key] = value
        return found


def _texts(value: object) -> Iterator[str]:
    """Every text in a document, however deep; its keys and comments are none."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping | list):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _texts(part)


def _is_installed(group: str, name: str) -> bool:
    """Whether a distribution provides the backend or observer; imports none."""
    points = metadata.entry_points(group=f"keystay.{group.lower()}")
    return name.lower() in {point.name for point in points}


def _known() -> Iterator[tuple[str, tuple[str, str]]]:
    for table, kind in TABLES.items():
        for key, field in fields(kind).items():
            if not field.is_table:
                prefix = "" if table == "clients" else table
                yield environment_name(prefix, key), (table, key)
