"""Opens the token store that a configured client names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from keystay.backends.secrets import SecretResolver
from keystay.errors import SecretError

if TYPE_CHECKING:
    from keystay.config import ClientConfig
    from keystay.tokens.store import TokenStore

__all__ = ["open_store"]


def open_store(client: ClientConfig, base_dir: Path) -> TokenStore | None:
    """The store of a client, or None when it names none.

    Args:
        client: Its configuration, checked.
        base_dir: Where relative paths start.

    Raises:
        ConfigurationError: The folder or the key cannot be used.
    """
    if client.store is None:
        return None
    from keystay.tokens.file_store import FileTokenStore

    folder = base_dir / client.store.removeprefix("file:")
    purpose = f"the key of the token store {folder}"
    secret = SecretResolver(base_dir=base_dir).resolve(client.store_key, purpose)
    if secret is None:  # the configuration's checks see to it
        raise SecretError("The token store has no key.", hint="Set store_key.")
    return FileTokenStore(folder, keys=secret.reveal())
