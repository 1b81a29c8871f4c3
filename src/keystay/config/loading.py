"""Loads the configuration and opens what it names."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from keystay.config.environment import client_from
from keystay.config.models import FILE_NAME, Config
from keystay.config.toml_file import read_file
from keystay.http.settings import HttpSettings

if TYPE_CHECKING:
    from keystay.custody import Fact
    from keystay.signer import Signer

__all__ = ["load_config", "open_client_signer"]

T = TypeVar("T")


def load_config(
    path: str | os.PathLike[str] | None = None, *, environ: Mapping[str, str] | None = None
) -> Config:
    """Load the configuration.

    Args:
        path: The file; default what KEYSTAY_CONFIG names, else `keystay.toml` in the working
            directory if there is one.
        environ: Default the process's environment.

    Raises:
        ConfigurationError: With file, line, key and what was expected.
    """
    environ = os.environ if environ is None else environ
    named = path if path is not None else environ.get("KEYSTAY_CONFIG")
    found = Path(named) if named else Path(FILE_NAME)
    client = client_from(environ)
    if not named and not found.is_file():
        return Config(environment_client=client)
    file = read_file(found)
    http = _relative_to(found.parent, file.http)
    backends, observers = (
        {
            name: {key: _reference_from(found.parent, value) for key, value in table.items()}
            for name, table in tables.items()
        }
        for tables in (file.backends, file.observers)
    )
    # Absolute: what stands beside it is looked for later, wherever the process has gone by then.
    folder = found.parent.absolute()
    return Config(
        found, file.clients, client, http, file.policy, backends, observers, folder=folder
    )


def open_client_signer(
    config: Config,
    name: str | None = None,
    *,
    uri: str | None = None,
    algorithm: str | None = None,
    kid: str | None = None,
    created: Fact | None = None,
) -> Signer:
    """Open the key of a configured client, under the configuration's policy.

    Args:
        config: A loaded configuration.
        name: The client.
        uri: Another key than the configured one; the rest then goes with it.
        algorithm: Its JWS algorithm; default by key type.
        kid: Its key id; default the thumbprint.
        created: When it was made, for a backend that cannot say.

    Raises:
        KeystayError: The client is not configured or its key cannot be opened.
    """
    from keystay.observers import open_observers
    from keystay.signer import open_signer

    client = config.client(name)
    if uri is None:
        uri, algorithm, kid = client.key, client.algorithm, client.kid
        created = client.created
    return open_signer(
        uri,
        algorithm=algorithm,
        kid=kid,
        backends=config.backends,
        policy=config.policy_of(client),
        enforce=config.enforces_policy,
        created=created,
        verify=client.verify,
        timeout=config.http.timeout,
        base_dir=config.base_dir_of(client),
        observers=open_observers(config.observers, base_dir=config.base_dir),
    )


def _relative_to(folder: Path, http: HttpSettings) -> HttpSettings:
    """The settings with relative paths made to start at the file's folder."""
    paths = {
        name: str(folder / value)
        for name in ("ca_bundle", "client_cert", "client_key")
        if (value := getattr(http, name)) is not None
    }
    references = {
        name: _reference_from(folder, getattr(http, name))
        for name in ("proxy_credentials", "client_key_passphrase")
    }
    return msgspec.structs.replace(http, **paths, **references)


def _reference_from(folder: Path, value: T) -> T | str:
    """A secret reference to a relative file, made to start at the folder; all else as it is."""
    if not isinstance(value, str) or not value.startswith("file:"):
        return value
    return f"file:{folder.absolute() / value.removeprefix('file:')}"
