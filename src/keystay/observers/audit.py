"""The `audit` observer: one line of JSON for each signature and each token.

    [observers.audit]
    path = "/var/log/keystay/audit.jsonl"

Each line is one `write` to a file that was opened for it: several processes share the file, and
whatever rotates it (rename, or copy and truncate) needs no signal to us.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec

from keystay.backends.hookspecs import hookimpl
from keystay.errors import ObserverError
from keystay.files import doubt
from keystay.settings import setting

if TYPE_CHECKING:
    from keystay.observers.context import ObserverContext
    from keystay.observers.events import Event

__all__ = ["AuditObserver", "api_version", "keystay_open_observer", "keystay_settings"]

api_version = 1

_FLAGS = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
# A process that was stopped while it wrote does not stop the others.
_WAIT_SECONDS = 0.05


class AuditObserver:
    """Appends each signature and each token to a file, as a line of JSON.

    Nothing in it is secret, but it tells who asked whom, and when: the file is made with mode 0600.
    Use it within `keystay.Observers`, as a required one if nothing may be signed unrecorded.

    Args:
        path: The file; made when missing, its folder is not.
        fsync: Wait after each line until it is on the disk (0.1 to 20 ms).
    """

    def __init__(self, path: str | os.PathLike[str], *, fsync: bool = False) -> None:
        self._path, self._fsync = Path(path), fsync

    @hookimpl
    def keystay_assertion_signed(self, event: Event) -> None:
        """One line for each signature and each token, and for each that failed."""
        line = event.to_json()[:-1] + b',"pid":%d}\n' % os.getpid()
        descriptor = os.open(self._path, _FLAGS, 0o600)
        try:
            self._check(os.fstat(descriptor))
            if _alone(descriptor) and _is_torn(descriptor):
                line = b"\n" + line
            if (written := os.write(descriptor, line)) < len(line):
                raise self._unusable(f"took {written} of {len(line)} bytes", "Make room there.")
            if self._fsync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    keystay_message_signed = keystay_assertion_signed
    keystay_token_issued = keystay_token_failed = keystay_assertion_signed

    def __repr__(self) -> str:
        return f"<AuditObserver {self._path}>"

    def _check(self, status: os.stat_result) -> None:
        """Refuse a file that somebody else could write a history into."""
        if not stat.S_ISREG(status.st_mode):
            raise self._unusable("is not a regular file", "Name one, in a folder that exists.")
        if (found := doubt(status, 0o022)) is not None:
            raise ObserverError(
                f"The audit file {self._path} {found.what}. {found.cause}",
                hint=found.hint or f"chmod go-w {self._path}",
            )

    def _unusable(self, why: str, hint: str) -> ObserverError:
        return ObserverError(f"The audit file {self._path} {why}.", hint=hint)


def _is_torn(descriptor: int) -> bool:
    """Whether the last line has no end, because the disk was full once, say: it stays alone.

    Only whoever is alone with the file can tell: half a line may be one that is being written.
    """
    size = os.fstat(descriptor).st_size
    return bool(size) and os.pread(descriptor, 1, size - 1) != b"\n"


def _alone(descriptor: int) -> bool:
    """Whether no other process of ours writes until the descriptor is closed; waits a little."""
    until = time.monotonic() + _WAIT_SECONDS
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.001)
        except OSError:  # a file system without locks
            return False
        else:
            return True


class _Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`[observers.audit]`."""

    path: Annotated[
        str,
        setting(
            "The file that lines of JSON are appended to; its folder exists.",
            example='"/var/log/keystay/audit.jsonl"',
        ),
    ]
    fsync: Annotated[bool, setting("Wait for the disk after each line.")] = False


@hookimpl
def keystay_settings() -> type[msgspec.Struct]:
    """What `[observers.audit]` may say."""
    return _Settings


@hookimpl
def keystay_open_observer(context: ObserverContext) -> AuditObserver:
    """Make the observer; its file is opened when there is something to write."""
    settings = context.settings_as(_Settings)
    return AuditObserver(context.base_dir / settings.path, fsync=settings.fsync)
