"""What an observer is opened with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from keystay.backends.secrets import SecretResolver
from keystay.errors import ConfigurationError, did_you_mean

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
        known = (*kind.__struct_fields__, "required")
        for key in self.settings:
            if key not in known:
                raise ConfigurationError(
                    f"[observers.{self.name}] has no setting called {key!r}.",
                    hint=did_you_mean(key, known),
                    code="config-key-unknown",
                )
        try:
            return msgspec.convert(dict(self.settings), kind)
        except msgspec.ValidationError as error:
            # msgspec's messages name types and keys, never values.
            raise ConfigurationError(
                f"[observers.{self.name}]: {error}.",
                hint=f"Settings: {', '.join(known)}.",
                code="config-value-invalid",
            ) from None
