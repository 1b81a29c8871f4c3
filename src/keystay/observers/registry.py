"""Opens the observers that the configuration names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Annotated, ClassVar

import msgspec

from keystay.backends.secrets import SecretResolver
from keystay.errors import KeystayError, ObserverError
from keystay.observers import hookspecs
from keystay.observers.context import ObserverContext
from keystay.observers.dispatch import NOBODY, Observers, logger
from keystay.plugins import PluginRegistry
from keystay.settings import Values, read_plugin_table, setting

__all__ = ["API_VERSION", "GROUP", "ObserverContext", "ObserverRegistry", "open_observers"]

GROUP = "keystay.observers"

API_VERSION = 1
"""Version of the observers' hooks. A plugin module states the one it was written for."""


# Only for the text of an error.
_OURS = {"otel": "pip install 'keystay[otel]'"}


class ObserverRegistry(PluginRegistry):
    """The installed observers, by name.

    Args:
        entry_points: Returns the entry points of the group; a test may hand in its own.
    """

    group = GROUP
    api_version = API_VERSION
    hookspecs: ClassVar[ModuleType] = hookspecs
    required_hook = "keystay_open_observer"

    def open_observer(self, name: str, context: ObserverContext) -> object:
        """The observer of a name.

        Raises:
            ObserverError: There is none, there are several, or it is broken.
            ConfigurationError: A setting cannot be used.
        """
        try:
            observer: object = self.hooks(name).keystay_open_observer(context=context)
        except KeystayError:
            raise
        except Exception as error:
            # What the plugin raised may quote anything, so only its type is shown.
            why = f"it raised {type(error).__name__} when opened"
            raise self._broken(name, name, why) from error
        if observer is None:
            raise self._broken(name, name, "it returned no observer")
        return observer

    def _missing(self, name: str, present: str) -> ObserverError:
        return ObserverError(
            f"No installed plugin provides the observer {name}.",
            cause=f"Installed observers: {present}.",
            hint=f"Install its distribution, or correct [observers.{name}].",
            code="observer-missing",
        )

    def _conflict(self, name: str, owners: Sequence[str]) -> ObserverError:
        return ObserverError(
            f"Several distributions provide the observer {name}: {', '.join(owners)}.",
            cause="An audit by whichever is found first would be a matter of chance.",
            hint=f"Uninstall all but one: pip uninstall {owners[-1]}",
            code="observer-conflict",
        )

    def _broken(self, name: str, owner: str, why: str) -> ObserverError:
        return ObserverError(
            f"The observer {name} ({owner}) cannot be used: {why}.",
            cause="Its installation is incomplete, or its version does not fit this keystay.",
            hint=_OURS.get(name) or f"pip install --upgrade --force-reinstall {owner} keystay",
            code="observer-broken",
        )


def open_observers(
    tables: Mapping[str, Mapping[str, object]],
    *,
    base_dir: Path | None = None,
    secrets: SecretResolver | None = None,
    registry: ObserverRegistry | None = None,
) -> Observers:
    """Open the observers of the `[observers.*]` tables.

    One that is broken and not required is warned about and left out; a wrong setting, a name that
    nobody provides and one that two provide are errors in either case.

    Args:
        tables: Settings by name; `required = true` makes one required.
        base_dir: Where relative paths start.
        secrets: Resolves secret references.
        registry: Where to look for observers; default the installed ones.

    Raises:
        ObserverError, ConfigurationError: As said.
    """
    if not tables:
        return NOBODY
    registry = registry or ObserverRegistry()
    folder = base_dir or Path()
    opened = Observers()
    for name, table in tables.items():
        own, required = _parted(name, table)
        context = ObserverContext(name, own, folder, secrets or SecretResolver(base_dir=folder))
        try:
            opened._add(name, registry.open_observer(name, context), required=required)
        except ObserverError as error:
            if required or error.code != "observer-broken":
                raise
            logger.warning("%s", error, extra={"event": "observer-failed"})
    return opened


class _ForAll(msgspec.Struct, frozen=True, kw_only=True):
    """What every observer's table may say."""

    required: Annotated[
        bool,
        setting("When it fails, the assertion or token it was to record is not used."),
    ] = False


def _parted(name: str, table: Mapping[str, object]) -> tuple[Mapping[str, object], bool]:
    """A table's settings for the observer itself, and whether it is required."""
    own: Mapping[str, object] = {k: v for k, v in table.items() if k != "required"}
    common: Mapping[str, object] = {k: v for k, v in table.items() if k == "required"}
    if isinstance(table, Values):
        own = Values(own, table.place, table.variables)
        common = Values(common, table.place, table.variables)
    return own, read_plugin_table(_ForAll, common, f"observers.{name}").required
