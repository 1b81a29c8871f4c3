"""What a backend plugin implements, as pluggy hook specifications.

A plugin module stands in the entry-point group `keystay.backends` under its URI scheme,
states `api_version = 1`, and implements `keystay_open_key`. It imports its SDK inside the
hooks, not at its top.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import msgspec

    from keystay.backends.port import BackendContext, BackendKey, KeyStore
    from keystay.key_uri import KeyURI

__all__ = ["hookimpl", "hookspec"]

hookspec = pluggy.HookspecMarker("keystay")
hookimpl = pluggy.HookimplMarker("keystay")
"""Marks a function of a plugin module as a hook implementation."""


@hookspec(firstresult=True)
def keystay_open_key(uri: KeyURI, context: BackendContext) -> BackendKey:  # type: ignore[empty-body]
    """Open the key a URI names, ready to sign; required.

    Raises:
        KeystayError: Nothing else; whatever the SDK raised is mapped and chained.
    """


@hookspec(firstresult=True)
def keystay_open_store(  # type: ignore[empty-body]
    uri: KeyURI, context: BackendContext
) -> KeyStore:
    """Open the place a URI names, to generate keys in it or list them; optional.

    What it can do is told by the capability protocols it implements.
    """


@hookspec(firstresult=True)
def keystay_settings() -> type[msgspec.Struct]:  # type: ignore[empty-body]
    """The Struct that describes the plugin's table of settings (`keystay.settings`); optional.

    Of a backend, or of an observer. From it come the names in the environment, `keystay config
    show` and the reference page.
    """
