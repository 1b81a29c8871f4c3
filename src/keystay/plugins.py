"""Finds plugins among the installed distributions, for every kind of plugin alike.

Metadata is read without importing a plugin; only the one that is needed is imported, so a
broken plugin breaks nothing but itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from importlib import metadata
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import msgspec
import pluggy

from keystay.concurrency.clock import Deadline
from keystay.concurrency.locks import DeadlineLock
from keystay.errors import KeystayError

__all__ = ["Claim", "PluginRegistry"]

_LONGEST_IMPORT = 60.0  # seconds that a thread waits while another one imports a plugin


class Claim(NamedTuple):
    """One claim on a name, as installed metadata states it.

    Attributes:
        name: What is claimed.
        module: The plugin's import name.
        distribution: The distribution that makes the claim.
        version: That distribution's version.
    """

    name: str
    module: str
    distribution: str
    version: str


class PluginRegistry(ABC):
    """The installed plugins of one entry-point group.

    A kind of plugin is a subclass: it says what its plugins implement, and how its errors read.

    Args:
        entry_points: Returns the entry points of the group; a test may hand in its own.

    Attributes:
        group: The entry-point group.
        api_version: What a plugin has to state as its `api_version`.
        hookspecs: The module with the hook specifications.
        required_hook: The hook that every plugin implements.
    """

    group: ClassVar[str]
    api_version: ClassVar[int]
    hookspecs: ClassVar[ModuleType]
    required_hook: ClassVar[str]

    def __init__(
        self, entry_points: Callable[[], Sequence[metadata.EntryPoint]] | None = None
    ) -> None:
        self._entry_points = entry_points or (
            lambda: tuple(metadata.entry_points(group=self.group))
        )
        self._lock = DeadlineLock("importing a plugin", reentrant=True)
        self._managers: dict[str, pluggy.PluginManager] = {}

    def claims(self) -> Iterator[Claim]:
        """Every claim on a name, in no order; imports nothing."""
        for point in self._entry_points():
            yield Claim(
                point.name,
                point.value,
                _metadata(point, "name") or "unknown",
                _metadata(point, "version") or "unknown",
            )

    def hooks(self, name: str) -> Any:
        """The hooks of the plugin that claims a name, imported now if it was not before.

        Raises:
            KeystayError: Nobody claims the name, several do, or the plugin is broken.
            BackendTimeoutError: Another thread has been importing it for a minute.
        """
        if name not in self._managers:
            with self._lock.held(Deadline.after(_LONGEST_IMPORT)):
                if name not in self._managers:
                    self._managers[name] = self._load(name)
        return self._managers[name].hook

    def settings_of(self, name: str) -> type[msgspec.Struct] | None:
        """The Struct of a plugin's settings, which is imported now; None if it exports none.

        Raises:
            KeystayError: As `hooks`.
        """
        found: type[msgspec.Struct] | None = self.hooks(name).keystay_settings()
        return found

    @abstractmethod
    def _missing(self, name: str, present: str) -> KeystayError:
        """The error for a name nobody claims; `present` lists the names that are claimed."""

    @abstractmethod
    def _conflict(self, name: str, owners: Sequence[str]) -> KeystayError:
        """The error for a name that several distributions claim."""

    @abstractmethod
    def _broken(self, name: str, owner: str, why: str) -> KeystayError:
        """The error for a plugin that cannot be used."""

    def _load(self, name: str) -> pluggy.PluginManager:
        points = [point for point in self._entry_points() if point.name == name]
        owners = sorted({_owner(point) for point in points})
        if not points:
            present = sorted({point.name for point in self._entry_points()})
            raise self._missing(name, ", ".join(present) or "none")
        if len(owners) > 1:
            raise self._conflict(name, owners)
        plugin = self._import(points[0])
        # One manager for each name: hooks of other plugins are never called.
        manager = pluggy.PluginManager("keystay")
        manager.add_hookspecs(self.hookspecs)
        try:
            manager.register(plugin, name=name)
        except Exception as error:  # pluggy's, or an attribute of the plugin that raises
            why = "its hooks do not fit the specification"
            raise self._broken(name, owners[0], why) from error
        if not getattr(manager.hook, self.required_hook).get_hookimpls():
            raise self._broken(name, owners[0], f"it does not implement {self.required_hook}")
        return manager

    def _import(self, point: metadata.EntryPoint) -> Any:
        name, owner = point.name, _owner(point)
        try:
            plugin = point.load()
        except (Exception, SystemExit) as error:
            why = f"it raised {type(error).__name__} when imported"
            raise self._broken(name, owner, why) from error
        version = getattr(plugin, "api_version", None)
        if version == self.api_version:
            return plugin
        raise self._broken(
            name,
            owner,
            f"it speaks version {version!r} of the plugin interface, "
            f"this keystay {self.api_version}"
            if version is not None
            else "it does not state its api_version",
        )


def _owner(point: metadata.EntryPoint) -> str:
    return _metadata(point, "name") or point.value


def _metadata(point: metadata.EntryPoint, what: str) -> str | None:
    """Name or version of the distribution; a half-removed one has entry points, no metadata."""
    try:
        return getattr(point.dist, what, None)
    except (KeyError, FileNotFoundError):  # the latter from importlib_metadata
        return None
