"""Finds the backend for a URI scheme among the installed distributions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, ClassVar, cast

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
from keystay.plugins import PluginRegistry

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


class Registry(PluginRegistry):
    """The installed backends, by URI scheme.

    Args:
        entry_points: Returns the entry points of the group; a test may hand in its own.
    """

    group = GROUP
    api_version = API_VERSION
    hookspecs: ClassVar[ModuleType] = hookspecs
    required_hook = "keystay_open_key"

    def entries(self) -> list[BackendEntry]:
        """Every claim on a scheme, sorted; imports nothing."""
        found = {BackendEntry(*claim) for claim in self.claims()}
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
        caller = getattr(self.hooks(uri.scheme), hook)
        try:
            return cast(object, caller(uri=uri, context=context))
        except KeystayError:
            raise
        except Exception as error:
            raise unexpected(str(uri), error) from error

    def _missing(self, name: str, present: str) -> BackendMissingError:
        ours = _OURS.get(name)
        return BackendMissingError(
            f"No installed backend opens {name}: keys.",
            cause=f"Installed backends: {present}.",
            hint=f"pip install keystay-{ours}"
            if ours
            else f"Install the plugin that provides {name}: keys, or correct the scheme.",
        )

    def _conflict(self, name: str, owners: Sequence[str]) -> BackendConflictError:
        return BackendConflictError(
            f"Several distributions claim {name}: keys: {', '.join(owners)}.",
            cause="Signing with whichever is found first would be a matter of chance.",
            hint=f"Uninstall all but one: pip uninstall {owners[-1]}",
        )

    def _broken(self, name: str, owner: str, why: str) -> BackendLoadError:
        return BackendLoadError(
            f"The backend {owner} for {name}: keys cannot be used: {why}.",
            cause="Its installation is incomplete, or its version does not fit this keystay.",
            hint=f"pip install --upgrade --force-reinstall {owner} keystay",
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


_default: Registry | None = None


def default_registry() -> Registry:
    """The registry of this process."""
    global _default  # noqa: PLW0603
    if _default is None:
        _default = Registry()
    return _default
