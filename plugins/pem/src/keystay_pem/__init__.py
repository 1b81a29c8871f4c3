"""Software keys in PEM files: the `file:` backend of keystay.

The private key is in this process while it signs. A production image that does not install
this distribution cannot open a software key at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.backends import hookimpl

if TYPE_CHECKING:
    from keystay.backends import BackendContext
    from keystay.key_uri import KeyURI
    from keystay_pem.key import PemKey
    from keystay_pem.settings import Settings
    from keystay_pem.store import PemStore

__all__ = ["api_version", "keystay_open_key", "keystay_open_store", "keystay_settings"]

api_version = 1


@hookimpl
def keystay_open_key(uri: KeyURI, context: BackendContext) -> PemKey:
    """Open the PEM file a `file:` URI names."""
    from keystay_pem.key import PemKey

    return PemKey.open(uri, context)


@hookimpl
def keystay_open_store(uri: KeyURI, context: BackendContext) -> PemStore:
    """Open the place of a PEM file, to generate a key there or show the one that is there."""
    from keystay_pem.store import PemStore

    return PemStore(uri, context)


@hookimpl
def keystay_settings() -> type[Settings]:
    """What `[backends.file]` may say."""
    from keystay_pem.settings import Settings

    return Settings
