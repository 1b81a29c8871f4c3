"""Keys in PKCS#11 tokens and HSMs: the `pkcs11:` backend of keystay.

    pkcs11:token=prod;object=epic?module-path=/usr/lib/softhsm/libsofthsm2.so&pin-source=file:/run/pin

Importing this loads neither python-pkcs11 nor a PKCS#11 module; opening a key does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from keystay.backends import hookimpl

if TYPE_CHECKING:
    from keystay.backends import BackendContext
    from keystay.key_uri import KeyURI
    from keystay_pkcs11.key import Pkcs11Key
    from keystay_pkcs11.settings import Table
    from keystay_pkcs11.store import Pkcs11Store

__all__ = ["api_version", "keystay_open_key", "keystay_open_store", "keystay_settings"]

api_version = 1


@hookimpl
def keystay_open_key(uri: KeyURI, context: BackendContext) -> Pkcs11Key:
    """Open the private key a `pkcs11:` URI names, logged in and ready to sign."""
    from keystay_pkcs11.key import Pkcs11Key

    return Pkcs11Key.open(uri, context)


@hookimpl
def keystay_open_store(uri: KeyURI, context: BackendContext) -> Pkcs11Store:
    """Open the token a `pkcs11:` URI names, to generate keys in it or list them."""
    from keystay_pkcs11.store import Pkcs11Store

    return Pkcs11Store.open(uri, context)


@hookimpl
def keystay_settings() -> type[Table]:
    """What `[backends.pkcs11]` may say."""
    from keystay_pkcs11.settings import Table

    return Table
