"""Reads keystay.toml, and tells a fault with file, line where it can be found, key and remedy."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import msgspec

from keystay.config.checks import faults
from keystay.config.models import ClientConfig, File, HttpSettings, PolicyConfig
from keystay.errors import ConfigurationError, did_you_mean

__all__ = ["read_file"]

Table = TypeVar("Table", bound=msgspec.Struct)
Where = tuple[str, ...]

_MAX_TIMEOUT = 600
_SECRET_KEYS = re.compile(r"(?i)(?:^|_)(?:pin|password|passphrase|secret|private_key|token)$")
# Only to point at a line: tables and keys as people write them.
_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?$")
_PART = re.compile(r"\"([^\"]*)\"|'([^']*)'|([A-Za-z0-9_-]+)")
_KEY = re.compile(r"\s*([A-Za-z0-9_-]+|\"[^\"]*\"|'[^']*')\s*=")
_MISSING = re.compile(r"Object missing required field `(\w+)`")


def read_file(path: Path) -> File:
    """Read and check the file.

    Raises:
        ConfigurationError: It is missing, unreadable, or something in it cannot be.
    """
    source = _Source(path)
    document = source.document
    source.refuse_unknown((), document, File)
    clients = source.table(document, "clients")
    http = source.convert(("http",), source.table(document, "http"), HttpSettings)
    file = File(
        clients={
            name: source.convert(("clients", name), table, ClientConfig)
            for name, table in clients.items()
        },
        http=http,
        policy=source.convert(("policy",), source.table(document, "policy"), PolicyConfig),
        backends={
            name: source.table(source.table(document, "backends"), name, ("backends",))
            for name in source.table(document, "backends")
        },
    )
    for name, client in file.clients.items():
        for key, error in faults(client):
            raise source.fault(
                ("clients", name),
                key,
                error.message,
                cause=error.cause,
                hint=error.hint,
                code=error.code,
            )
    if not 0 < http.timeout <= _MAX_TIMEOUT:
        raise source.fault(
            ("http",),
            "timeout",
            f"The timeout is not between 0 and {_MAX_TIMEOUT} seconds.",
            code="config-value-invalid",
        )
    return file


class _Source:
    """The file's text, and where in it things stand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.text = path.read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigurationError(
                f"There is no configuration file {path}.",
                hint="Correct KEYSTAY_CONFIG, or write the file.",
                code="config-missing",
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ConfigurationError(
                f"The configuration file {path} cannot be read: {why}.", code="config-unreadable"
            ) from error
        try:
            self.document = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            # Its message says what was expected and where; it quotes keys, no values.
            raise ConfigurationError(
                f"{path} is not valid TOML: {error}.",
                hint='Strings need quotes: key = "pkcs11:token=prod;object=epic".',
                code="config-syntax",
            ) from None

    def table(self, parent: dict[str, Any], name: str, where: Where = ()) -> dict[str, Any]:
        """A table inside another, empty when it is not there."""
        found = parent.get(name, {})
        if not isinstance(found, dict):
            title = ".".join((*where, name))
            raise self.fault(where, name, f"[{title}] is not a table.", code="config-value-invalid")
        return found

    def convert(self, where: Where, table: object, kind: type[Table]) -> Table:
        """A table as its type."""
        if not isinstance(table, dict):
            raise self.fault(
                where[:-1], where[-1], f"[{'.'.join(where)}] is not a table.",
                code="config-value-invalid",
            )  # fmt: skip
        self.refuse_unknown(where, table, kind)
        try:
            return msgspec.convert(table, kind)
        except msgspec.ValidationError as error:
            # msgspec's messages name types and keys, never values.
            message, _, location = str(error).partition(" - at `$.")
            if missing := _MISSING.match(message):
                raise self.fault(
                    where,
                    None,
                    f"the required key {missing[1]!r} is missing.",
                    code="config-key-missing",
                ) from None
            key = re.split(r"[.`\[]", location)[0]
            raise self.fault(where, key, f"{message}.", code="config-value-invalid") from None

    def refuse_unknown(self, where: Where, table: dict[str, Any], kind: type[Any]) -> None:
        """Unknown keys, with the nearest known name; secrets, with the way to refer to them."""
        known = tuple(get_type_hints(kind))
        for key in table:
            if key in known:
                continue
            if _SECRET_KEYS.search(key):
                raise self.fault(
                    where,
                    key,
                    "a secret does not belong into this file.",
                    hint='Refer to it from the key URI: key = "pkcs11:token=prod;object=epic'
                    '?pin-source=file:/run/secrets/pin", or passphrase-source=… for a PEM file.',
                    code="config-secret",
                )
            raise self.fault(
                where,
                key,
                "there is no such key.",
                hint=did_you_mean(key, known),
                code="config-key-unknown",
            )

    def fault(
        self,
        where: Where,
        key: str | None,
        message: str,
        *,
        code: str,
        cause: str | None = None,
        hint: str | None = None,
    ) -> ConfigurationError:
        """An error that points at a key, or at its table when `key` is None."""
        title = f" [{'.'.join(where)}]" if where else ""
        name = f" {key}" if key else ""
        return ConfigurationError(
            f"{self._at(where, key)}:{title}{name}: {message}", cause=cause, hint=hint, code=code
        )

    def _at(self, where: Where, key: str | None) -> str:
        """`file:line` of a key, of its table when the key is not found, or just the file."""
        table: Where = ()
        table_line = 0
        for number, line in enumerate(self.text.splitlines(), 1):
            if header := _HEADER.match(line):
                table = tuple("".join(part) for part in _PART.findall(header[1]))
                if key is not None and table == (*where, key):
                    return f"{self.path}:{number}"
                if table == where:
                    table_line = number
            elif (
                key is not None
                and table == where
                and (found := _KEY.match(line))
                and found[1].strip("\"'") == key
            ):
                return f"{self.path}:{number}"
        return f"{self.path}:{table_line}" if table_line else str(self.path)
