"""What an observer is opened with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from keystay.backends.secrets import SecretResolver
from keystay.settings import read_plugin_table

__all__ = ["ObserverContext"]

Settings = TypeVar("Settings", bound=msgspec.Struct)


@dataclass(frozen=True, slots=True)
class ObserverContext:
    """What `keystay_open_observer` is given.

    Attributes:
        name: The observer's.
        settings: The `[observers.NAME]` table without `required`.
        base_dir: Where relative paths start: the configuration file's folder.
        secrets: Resolves secret references.
    """

    name: str
    settings: Mapping[str, object] = field(default_factory=dict)
    base_dir: Path = field(default_factory=Path)
    secrets: SecretResolver = field(default_factory=SecretResolver)

    def settings_as(self, kind: type[Settings]) -> Settings:
        """The settings as a type of one's own.

        Raises:
            ConfigurationError: There is an unknown one, a required one is missing, or a value is
                of another type.
        """
        return read_plugin_table(kind, self.settings, f"observers.{self.name}")
