"""The text of keystay.toml, and where in it things stand, for errors that point there."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keystay.errors import ConfigurationError

if TYPE_CHECKING:
    from keystay.settings import Place

__all__ = ["Source", "Where"]

Where = tuple[str, ...]

_LONGEST_STATEMENT = 200


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

    def place(self, where: Where) -> Place:
        """Where the keys of a table stand."""
        title = f" [{'.'.join(where)}]" if where else ""

        def say(key: str | None) -> str:
            return f"{self.at(where, key)}:{title}{f' {key}:' if key else ':' if title else ''}"

        return say

    def _not_a_table(self, where: Where) -> ConfigurationError:
        title = ".".join(where)
        return ConfigurationError(
            f"{self.place(where[:-1])(where[-1])} [{title}] is not a table.",
            hint=f"Write [{title}] on a line of its own, and its keys below.",
            code="config-value-invalid",
        )

    def at(self, where: Where, key: str | None) -> str:
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
