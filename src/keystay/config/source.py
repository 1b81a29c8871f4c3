"""The text of keystay.toml, and where in it things stand, for errors that point there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from keystay.errors import ConfigurationError, did_you_mean

__all__ = ["Source", "Where"]

Table = TypeVar("Table", bound=msgspec.Struct)
Where = tuple[str, ...]

_SECRET_KEYS = re.compile(r"(?i)(?:^|_)(?:pin|password|passphrase|secret|private_key|token)$")
_LONGEST_STATEMENT = 200
_MISSING = re.compile(r"Object missing required field `(\w+)`")


class Source:
    """The file's text, and where in it things stand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self.text = path.read_text(encoding="utf-8-sig")
        except FileNotFoundError:
            raise ConfigurationError(
                f"There is no configuration file {path}.",
                hint="Correct KEYSTAY_CONFIG, or write the file.",
                code="config-missing",
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not UTF-8 text"
            raise ConfigurationError(
                f"The configuration file {path} cannot be read: {why}.",
                hint="Check the path, that the user running this may read it, and that an editor "
                "saved it as UTF-8.",
                code="config-unreadable",
            ) from error
        try:
            self.document = tomllib.loads(self.text)
        except (ValueError, RecursionError) as error:
            # TOMLDecodeError says what was expected and where; it quotes keys, no values.
            why = str(error) if isinstance(error, tomllib.TOMLDecodeError) else "a value is too big"
            raise ConfigurationError(
                f"{path} is not valid TOML: {why}.",
                hint='Strings need quotes: key = "pkcs11:token=prod;object=epic".',
                code="config-syntax",
            ) from None

    def table(self, parent: dict[str, Any], name: str, where: Where = ()) -> dict[str, Any]:
        """A table inside another, empty when it is not there."""
        found = parent.get(name, {})
        if not isinstance(found, dict):
            raise self._not_a_table((*where, name))
        return found

    def tables(self, parent: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
        """The tables inside a table of tables."""
        found = self.table(parent, name)
        return {inner: self.table(found, inner, (name,)) for inner in found}

    def convert(self, where: Where, table: object, kind: type[Table]) -> Table:
        """A table as its type."""
        if not isinstance(table, dict):
            raise self._not_a_table(where)
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
                    hint=f'Add {missing[1]} = "…" to [{".".join(where)}].',
                    code="config-key-missing",
                ) from None
            key = re.split(r"[.`\[]", location)[0]
            raise self.fault(
                where, key, f"{message}.", hint=_due(kind, key), code="config-value-invalid"
            ) from None

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

    def _not_a_table(self, where: Where) -> ConfigurationError:
        title = ".".join(where)
        return self.fault(
            where[:-1],
            where[-1],
            f"[{title}] is not a table.",
            hint=f"Write [{title}] on a line of its own, and its keys below.",
            code="config-value-invalid",
        )

    def _at(self, where: Where, key: str | None) -> str:
        """`file:line` of a key, of its table when it has none, or just the file."""
        path = where if key is None else (*where, key)
        line = self._line(path) or self._line(where)
        return f"{self.path}:{line}" if line else str(self.path)

    def _line(self, path: Where) -> int | None:
        """The line a key or table begins at, or None.

        TOML has many ways to write one key, so the parser is asked: the key is not in what
        stands before the line, and it is once the statement that begins there is complete.
        """
        lines = self.text.splitlines()
        for start, line in enumerate(lines):
            if not path or path[-1] not in line or _holds(lines[:start], path) is not False:
                continue
            for end in range(start + 1, min(start + _LONGEST_STATEMENT, len(lines)) + 1):
                found = _holds(lines[:end], path)
                if found:
                    return start + 1
                if found is False:
                    break
        return None


def _holds(lines: list[str], path: Where) -> bool | None:
    """Whether TOML text defines a key; None when the text is not complete."""
    try:
        found: Any = tomllib.loads("\n".join(lines))
    except (ValueError, RecursionError):
        return None
    for name in path:
        if not isinstance(found, dict) or name not in found:
            return False
        found = found[name]
    return True


def _due(kind: type[Any], key: str) -> str:
    """What is due where a value of another type stands."""
    due = get_type_hints(kind).get(key)
    if get_origin(due) is Literal:
        return f"Write one of {', '.join(map(repr, get_args(due)))}."
    if due is bool:
        return f"Write {key} = true or {key} = false."
    if due in (int, float):
        return f"Write {key} = and a number, without quotes."
    if due in (list[str], tuple[str, ...]):
        return f'Write {key} = ["…", "…"].'
    return f'Write {key} = "…", in quotes.'
