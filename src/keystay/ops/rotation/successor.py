"""Finds or makes the key that comes next, and never makes two for one rotation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from typing import TYPE_CHECKING

from keystay.backends.port import (
    BackendContext,
    GeneratesKeys,
    KeyRecord,
    ListsKeys,
    NamesSuccessors,
    ResumesKeys,
)
from keystay.backends.registry import default_registry
from keystay.backends.secrets import SecretResolver
from keystay.errors import (
    BackendError,
    ConfigurationError,
    KeyAmbiguousError,
    KeyNotFoundError,
)
from keystay.key_uri import parse

if TYPE_CHECKING:
    from keystay.backends.port import KeyStore
    from keystay.config import Config

__all__ = ["Stores", "find_or_make", "free_uri"]

_MOST_A_DAY = 20


class Stores:
    """Opens key stores as a configuration describes them; asks for each secret once."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._secrets = SecretResolver(base_dir=config.base_dir)

    @contextmanager
    def open(self, uri: str) -> Iterator[KeyStore]:
        """The store a key URI means."""
        config, parsed = self._config, parse(uri)
        context = BackendContext(
            settings=config.backends.get(parsed.scheme, {}),
            secrets=self._secrets,
            timeout=config.http.timeout,
            base_dir=config.base_dir,
        )
        store = default_registry().open_store(parsed, context)
        try:
            yield store
        finally:
            with suppress(Exception):  # what went wrong first is what to report
                store.close()


def free_uri(stores: Stores, uri: str, now: datetime) -> str:
    """A URI for the successor of the key that `uri` names: the same name with today's date.

    Raises:
        ConfigurationError: The backend names no successors.
        KeystayError: What the backend reports.
    """
    with stores.open(uri) as store:
        if not isinstance(store, NamesSuccessors):
            raise ConfigurationError(
                f"The backend for {parse(uri).scheme}: keys does not name successors.",
                hint="Name the new key: --key URI.",
                code="rotation-key-unnamed",
            )
        names = [f"{now:%Y%m%d}", *(f"{now:%Y%m%d}-{n}" for n in range(2, _MOST_A_DAY))]
        try:
            candidates = [store.successor_uri(name) for name in names]
        except ConfigurationError as error:
            raise ConfigurationError(
                f"The successor of {parse(uri)} cannot be named after it: {error.message}",
                hint=f"Name it: --key URI. {error.hint or ''}".rstrip(),
                code="rotation-key-unnamed",
            ) from error
    for candidate in candidates:
        if not _existing(stores, candidate):
            return candidate
    raise ConfigurationError(
        f"{len(candidates)} keys were made today, all after the name of {parse(uri)}.",
        hint="Name the new key: --key URI.",
        code="rotation-key-unnamed",
    )


def find_or_make(
    stores: Stores,
    uri: str,
    key_type: str,
    *,
    was_begun: bool = False,
    before_making: Callable[[], None],
) -> str:
    """The URI that opens the key `uri` names, made if it is not there.

    Args:
        stores: Where keys live.
        uri: What was asked for.
        key_type: What to make.
        was_begun: Whether it may have been made, and not named, by one who was killed.
        before_making: Called before anything is made.

    Raises:
        KeyAmbiguousError: Several keys answer to the URI.
        KeystayError: What the backend reports.
    """
    found = _existing(stores, uri)
    if found is None:  # the backend has no store: the key has to be there
        return uri
    if len(found) > 1:
        raise KeyAmbiguousError(
            f"{len(found)} keys answer to {parse(uri)}.",
            hint="Name one: keystay key list lists them with their URIs.",
        )
    if found:
        return found[0].uri
    with stores.open(uri) as store:
        if not isinstance(store, GeneratesKeys):
            raise KeyNotFoundError(
                f"There is no key {parse(uri)}, and its backend makes none.",
                hint="Make it with the tools of the key store, and repeat.",
            )
        before_making()
        left = store.resume_key(key_type) if was_begun and isinstance(store, ResumesKeys) else None
        return (left or store.generate_key(key_type)).uri


def _existing(stores: Stores, uri: str) -> Sequence[KeyRecord] | None:
    """The keys a URI matches; None where the backend cannot tell."""
    try:
        with stores.open(uri) as store:
            if isinstance(store, ListsKeys):
                return store.list_keys()
            return () if isinstance(store, GeneratesKeys) else None
    except KeyNotFoundError:
        return ()
    except BackendError as error:
        if error.code != "backend-capability-missing":
            raise
        return None
