"""Google Cloud KMS keys: the `gcpkms:` backend of keystay.

The private key stays in Google's service; what goes there is a digest. This module imports no
Google library: opening a key does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.backends import hookimpl

if TYPE_CHECKING:
    from keystay.backends import BackendContext
    from keystay.key_uri import KeyURI
    from keystay_gcp_kms.key import GcpKey
    from keystay_gcp_kms.settings import Settings
    from keystay_gcp_kms.store import GcpStore

__all__ = ["api_version", "keystay_open_key", "keystay_open_store", "keystay_settings"]

api_version = 1


@hookimpl
def keystay_open_key(uri: KeyURI, context: BackendContext) -> GcpKey:
    """Open the key version a `gcpkms:` URI names."""
    from keystay_gcp_kms.key import GcpKey

    return GcpKey.open(uri, context)


@hookimpl
def keystay_open_store(uri: KeyURI, context: BackendContext) -> GcpStore:
    """Open the key ring, or the key, a `gcpkms:` URI names, to generate keys or list them."""
    from keystay_gcp_kms.store import GcpStore

    return GcpStore.open(uri, context)


@hookimpl
def keystay_settings() -> type[Settings]:
    """What `[backends.gcpkms]` may say."""
    from keystay_gcp_kms.settings import Settings

    return Settings
