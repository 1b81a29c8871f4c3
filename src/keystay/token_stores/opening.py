"""Opens the token store that a configured client names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from keystay.backends.secrets import SecretResolver
from keystay.errors import SecretError

if TYPE_CHECKING:
    from keystay.token_stores.port import TokenStore

__all__ = ["open_store"]


def open_store(store: str | None, key: str | None, base_dir: Path) -> TokenStore | None:
    """The store of a client, or None when it names none.

    Args:
        store: What its configuration names: `file:` and a folder.
        key: Secret reference to the key that tokens are encrypted with there.
        base_dir: Where relative paths start.

    Raises:
        ConfigurationError: The folder or the key cannot be used.
    """
    if store is None:
        return None
    from keystay.token_stores.file import FileTokenStore

    folder = base_dir / store.removeprefix("file:")
    purpose = f"the key of the token store {folder}"
    secret = SecretResolver(base_dir=base_dir).resolve(key, purpose)
    if secret is None:  # the configuration's checks see to it
        raise SecretError("The token store has no key.", hint="Set store_key.")
    return FileTokenStore(folder, keys=secret.reveal())
