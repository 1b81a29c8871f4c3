"""Finds the backend for a URI scheme among the installed distributions.

Metadata is read without importing a plugin; only the one that is needed is imported, so a
broken plugin breaks nothing but itself.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, cast

import pluggy

from keystay.backends import hookspecs
from keystay.backends.port import (
    API_VERSION,
    BackendContext,
    BackendKey,
    GeneratesKeys,
    KeyStore,
    ListsKeys,
)
from keystay.errors import (
    BackendConflictError,
    BackendError,
    BackendLoadError,
    BackendMissingError,
    KeystayError,
)

if TYPE_CHECKING:
    from keystay.key_uri import KeyURI

__all__ = ["GROUP", "BackendEntry", "Registry", "default_registry", "unexpected"]

GROUP = "keystay.backends"

# Only for the text of an error: which distribution of ours to install for a scheme.
_OURS = {"file": "pem", "pkcs11": "pkcs11", "awskms": "aws-kms", "gcpkms": "gcp-kms"}


@dataclass(frozen=True, slots=True)
class BackendEntry:
    """One claim on a scheme, as installed metadata states it.

    Attributes:
        scheme: The URI scheme.
        module: The plugin's import name.
        distribution: The distribution that makes the claim.
        version: That distribution's version.
    """

    scheme: str
    module: str
    distribution: str
    version: str


class Registry:
    """The installed backends.

    Args:
        entry_points: Returns the entry points of the group; a test may hand in its own.
    """

    def __init__(
        self, entry_points: Callable[[], Sequence[metadata.EntryPoint]] | None = None
    ) -> None:
        self._entry_points = entry_points or (lambda: tuple(metadata.entry_points(group=GROUP)))
        self._lock = threading.RLock()
        self._managers: dict[str, pluggy.PluginManager] = {}

    def entries(self) -> list[BackendEntry]:
        """Every claim on a scheme, sorted; imports nothing."""
        found = {
            BackendEntry(
                point.name,
                point.value,
                _metadata(point, "name") or "unknown",
                _metadata(point, "version") or "unknown",
            )
            for point in self._entry_points()
        }
        return sorted(found, key=lambda entry: (entry.scheme, entry.distribution))

    def open_key(self, uri: KeyURI, context: BackendContext) -> BackendKey:
        """Open the key `uri` names with the backend its scheme names.

        Raises:
            BackendMissingError: No distribution claims the scheme.
            BackendConflictError: Several do.
            BackendLoadError: The plugin is broken.
            KeystayError: What the backend reports.
        """
        key = self._call("keystay_open_key", uri, context)
        if not isinstance(key, BackendKey):
            raise BackendLoadError(
                f"The backend for {uri.scheme}: returned no key.",
                hint="Report this to the plugin's maintainers.",
            )
        return key

    def open_store(self, uri: KeyURI, context: BackendContext) -> KeyStore:
        """Open the key store `uri` names.

        Raises:
            BackendError: The backend neither generates nor lists keys.
            KeystayError: As for `open_key`.
        """
        store = self._call("keystay_open_store", uri, context)
        if not isinstance(store, GeneratesKeys | ListsKeys):
            raise BackendError(
                f"The backend for {uri.scheme}: neither generates nor lists keys.",
                hint="Use the tools of the key store itself.",
                code="backend-capability-missing",
            )
        return cast(KeyStore, store)

    def _call(self, hook: str, uri: KeyURI, context: BackendContext) -> object:
        caller = getattr(self._manager(uri.scheme).hook, hook)
        try:
            return cast(object, caller(uri=uri, context=context))
        except KeystayError:
            raise
        except Exception as error:
            raise unexpected(str(uri), error) from error

    def _manager(self, scheme: str) -> pluggy.PluginManager:
        with self._lock:
            if scheme not in self._managers:
                self._managers[scheme] = self._load(scheme)
            return self._managers[scheme]

    def _load(self, scheme: str) -> pluggy.PluginManager:
        claims = [point for point in self._entry_points() if point.name == scheme]
        names = sorted({_owner(point) for point in claims})
        if not claims:
            raise self._missing(scheme)
        if len(names) > 1:
            raise BackendConflictError(
                f"Several distributions claim {scheme}: keys: {', '.join(names)}.",
                cause="Signing with whichever is found first would be a matter of chance.",
                hint=f"Uninstall all but one: pip uninstall {names[-1]}",
            )
        plugin = _import(claims[0])
        # One manager for each scheme: hooks of other backends are never called.
        manager = pluggy.PluginManager("keystay")
        manager.add_hookspecs(hookspecs)
        try:
            manager.register(plugin, name=scheme)
        except Exception as error:  # pluggy's, or an attribute of the plugin that raises
            raise _broken(claims[0], "its hooks do not fit the specification") from error
        if not manager.hook.keystay_open_key.get_hookimpls():
            raise _broken(claims[0], "it does not implement keystay_open_key")
        return manager

    def _missing(self, scheme: str) -> BackendMissingError:
        present = ", ".join(sorted({e.scheme for e in self.entries()})) or "none"
        ours = _OURS.get(scheme)
        return BackendMissingError(
            f"No installed backend opens {scheme}: keys.",
            cause=f"Installed backends: {present}.",
            hint=f"pip install keystay-{ours}"
            if ours
            else f"Install the plugin that provides {scheme}: keys, or correct the scheme.",
        )


def unexpected(key: str, error: Exception) -> BackendError:
    """The error for a plugin's own slip, to be raised from it.

    What the plugin raised may quote anything, so only its type is shown.
    """
    return BackendError(
        f"The backend of {key} failed unexpectedly ({type(error).__name__}).",
        cause="An error that the plugin does not map.",
        hint="Run with --debug for the traceback and report it to the plugin's maintainers.",
        code="backend-unexpected",
    )


def _owner(point: metadata.EntryPoint) -> str:
    return _metadata(point, "name") or point.value


def _metadata(point: metadata.EntryPoint, what: str) -> str | None:
    """Name or version of the distribution; a half-removed one has entry points, no metadata."""
    try:
        return getattr(point.dist, what, None)
    except (KeyError, FileNotFoundError):  # the latter from importlib_metadata
        return None


def _import(point: metadata.EntryPoint) -> Any:
    try:
        plugin = point.load()
    except (Exception, SystemExit) as error:
        raise _broken(point, f"it raised {type(error).__name__} when imported") from error
    version = getattr(plugin, "api_version", None)
    if version != API_VERSION:
        raise _broken(
            point,
            f"it speaks version {version!r} of the plugin interface, this keystay {API_VERSION}"
            if version is not None
            else "it does not state its api_version",
        )
    return plugin


def _broken(point: metadata.EntryPoint, why: str) -> BackendLoadError:
    owner = _owner(point)
    return BackendLoadError(
        f"The backend {owner} for {point.name}: keys cannot be used: {why}.",
        cause="Its installation is incomplete, or its version does not fit this keystay.",
        hint=f"pip install --upgrade --force-reinstall {owner} keystay",
    )


_default: Registry | None = None


def default_registry() -> Registry:
    """The registry of this process."""
    global _default  # noqa: PLW0603
    if _default is None:
        _default = Registry()
    return _default
