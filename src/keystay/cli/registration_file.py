"""The file that keeps a registration: its owner's alone, because of the management token in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from keystay.errors import ConfigurationError
from keystay.files import doubt, write_atomically

if TYPE_CHECKING:
    from keystay.ops.registration.registration import Registration

__all__ = ["claimed", "load", "remove", "replace"]

_MODE = 0o600


@contextmanager
def claimed(path: Path) -> Iterator[None]:
    """Make the file, empty, so that there is a place for the token before the server issues one.

    Removed again if it is still empty at the end.

    Raises:
        ConfigurationError: It is there already, or cannot be made.
    """
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, _MODE))
    except FileExistsError:
        empty = path.is_file() and path.stat().st_size == 0
        raise ConfigurationError(
            f"{path} exists already.",
            cause="A registration that was interrupted left it empty: the server may have "
            "registered a client."
            if empty
            else "It may hold the only management token of another client.",
            hint="Look in the server's console, then remove the file."
            if empty
            else "Name another file; to change that registration use --update.",
            code="registration-file-exists",
        ) from None
    except OSError as error:
        raise _unusable(path, "made", error) from error
    try:
        yield
    finally:
        with suppress(OSError):
            if path.stat().st_size == 0:
                path.unlink()


def replace(path: Path, registration: Registration) -> None:
    """Write the registration, whole or not at all.

    Raises:
        ConfigurationError: It cannot be written, which loses the token.
    """
    try:
        write_atomically(path, registration.to_json().encode(), mode=_MODE)
    except OSError as error:
        raise ConfigurationError(
            f"The registration of client_id {registration.client_id!r} could not be saved in "
            f"{path}: {error.strerror}.",
            cause="The server did what was asked; the management token it gave is lost.",
            hint="Write down the client_id. Change or delete the client in the vendor's portal; "
            "deleting and registering anew gives a new token.",
            code="registration-not-saved",
        ) from error


def remove(path: Path) -> None:
    """Remove the file; its token is void.

    Raises:
        ConfigurationError: It cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ConfigurationError(
            f"The client is deleted at the server, and {path} cannot be removed: {error.strerror}.",
            hint="Remove it by hand: the token in it is void.",
            code="registration-file-unusable",
        ) from error


def load(path: Path) -> Registration:
    """Read what `replace` wrote, if nobody else can.

    Raises:
        ConfigurationError: It cannot be read, others can read it, or it is something else.
    """
    from keystay.ops.registration.registration import Registration

    try:
        with path.open("rb") as file:
            found = doubt(os.fstat(file.fileno()), 0o077)
            text = file.read()
    except OSError as error:
        raise _unusable(path, "read", error) from error
    if found is not None:
        raise ConfigurationError(
            f"The registration file {path} {found.what}.",
            cause=found.cause,
            hint=found.hint
            or f"chmod 600 {path}; have the token in it replaced if somebody may have read it.",
            code="registration-file-unsafe",
        )
    return Registration.from_json(text)


def _unusable(path: Path, verb: str, error: OSError) -> ConfigurationError:
    return ConfigurationError(
        f"{path} cannot be {verb}: {error.strerror}.",
        hint="Check the path, and that the user running this may use it.",
        code="registration-file-unusable",
    )
