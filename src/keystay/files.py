"""Files of ours: whole or not at all, and not everybody's to write."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from keystay.errors import ConfigurationError

__all__ = ["read_guarded", "write_atomically"]


def read_guarded(path: Path, what: str) -> bytes | None:
    """Read a file that says which keys are to be trusted; None when there is none.

    Args:
        path: The file.
        what: What it is, for messages: "key state".

    Raises:
        ConfigurationError: It cannot be read, or every user of this machine can write it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigurationError(
            f"The {what} {path} cannot be read: {error.strerror}.",
            cause="The user running this may not read it, or it is no file.",
            hint=f"Let every user of the client read it: chmod 0644 {path}",
            code="rotation-state-unreadable",
        ) from error
    if mode & stat.S_IWOTH:
        raise ConfigurationError(
            f"The {what} {path} can be written by every user of this machine.",
            cause="Whoever writes it chooses which keys sign, and which are trusted.",
            hint=f"Check what it says, then: chmod 0644 {path}",
            code="rotation-state-unsafe",
        )
    return content


def write_atomically(path: Path, data: bytes, *, mode: int = 0o644) -> None:
    """Replace a file: readers see the old content or the new, also after a power cut.

    Args:
        path: Its folder must exist. A symbolic link is followed, so that it stays one.
        data: The whole content.
        mode: Permissions of the new file, whatever the umask.

    Raises:
        OSError: The folder cannot be written; the file is as it was.
    """
    path = Path(os.path.realpath(path))
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)  # noqa: PTH105 - `name` is a str
    except BaseException:
        with suppress(OSError):
            os.unlink(name)  # noqa: PTH108
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
