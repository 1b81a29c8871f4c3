"""Files of ours: whole or not at all, and not everybody's to write."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from keystay.errors import ConfigurationError

__all__ = ["Doubt", "doubt", "read_guarded", "write_atomically"]


class Doubt(NamedTuple):
    """Why a file is not to be trusted.

    Attributes:
        what: How a sentence about the file ends, such as `has mode 0666`.
        cause: What that means.
        hint: The remedy; "" where it depends on what the file is for.
    """

    what: str
    cause: str
    hint: str


def doubt(status: os.stat_result, forbidden: int) -> Doubt | None:
    """Whether others than root and the user running this own a file, or may use it.

    Args:
        status: The open file's.
        forbidden: Permission bits that it must not have, such as `0o022`.

    Returns:
        None if all is well.
    """
    if status.st_uid not in (0, os.geteuid()):
        return Doubt(
            f"belongs to user id {status.st_uid}",
            "Whoever owns it can replace it.",
            "Let root or the user running this own it.",
        )
    if status.st_mode & forbidden:
        verb = "read or change" if forbidden & 0o044 else "change"
        return Doubt(f"has mode {stat.S_IMODE(status.st_mode):04o}", f"Others can {verb} it.", "")
    return None


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
    if path.exists() and not path.is_file():  # /dev/null, a FIFO: nobody's old content is at stake
        path.write_bytes(data)
        return
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
