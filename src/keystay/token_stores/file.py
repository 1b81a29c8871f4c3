"""Tokens in a folder that the processes of one machine share: `store = "file:…"`.

For each owner the folder holds a file with the token, encrypted (Fernet: AES-128-CBC and
HMAC-SHA256) together with whose it is, and a file that is locked by who renews it. A file that is
torn, foreign, or encrypted with another key is as good as none.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import stat
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import msgspec

from keystay.concurrency.clock import SYSTEM_CLOCK
from keystay.errors import ConfigurationError
from keystay.files import doubt
from keystay.token_stores.access_token import AccessToken
from keystay.token_stores.port import TokenOwner

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet
    from filelock import BaseFileLock

    from keystay.concurrency.clock import Clock

__all__ = ["FileTokenStore"]

logger = logging.getLogger("keystay.tokens.store")

_KEY = re.compile(r"[A-Za-z0-9_-]{43}=")  # 32 bytes
_MAX_BYTES = 1 << 17
_VERSION = 1
# Seconds for which a lock is seen to be overdue before it is taken away.
_SUSPECTED = 1.0
# Seconds after which nobody is writing a file any more.
_ABANDONED = 60.0


class _Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What stands encrypted in a file."""

    version: int
    owner: TokenOwner
    clock: str
    ends_at: float
    expires_at: float
    lifetime: float
    value: str
    token_type: str
    scope: str
    requested_scope: str


class _DistrustError(Exception):
    """Why a file is not beyond doubt."""


class FileTokenStore:
    """Keeps tokens encrypted in a folder of this machine.

    Args:
        folder: Made with mode 0700 when missing; nobody else may be able to write to it.
        keys: Fernet keys, as `keystay store key` makes them: the first encrypts, all decrypt. To
            replace a key, first add the new one as second everywhere, then put it first, then
            drop the old.
        clock: Tells when tokens expire and locks are overdue; processes that share a folder have
            one in common.

    Raises:
        ConfigurationError: The folder is missing or unsafe, or a key is none.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        keys: str | Iterable[str],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        import filelock  # noqa: F401 - now, and not amid the first renewal

        self._folder, self._clock = Path(folder), clock
        self._fernet = _fernet(keys.replace(",", " ").split() if isinstance(keys, str) else keys)
        self._warned: dict[str, object] = {}
        self._overdue: dict[Path, tuple[object, float]] = {}
        _prepare(self._folder)

    def load(self, owner: TokenOwner) -> AccessToken | None:
        """The owner's token; None when there is none that can be trusted."""
        path = self._path(owner, "token")
        try:
            status = path.lstat()
            _require_ours(status)  # a link would not be opened
            data, opened = _read(path)
            _require_ours(opened)
            return _token(self._decrypted(data, owner), self._clock)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._failed("be read", error)
            return None
        except _DistrustError as error:
            # Once for each file, however often it is looked at.
            if self._is_news(path.name, (status.st_ino, status.st_mtime_ns)):
                logger.warning(
                    "The stored token in %s is not used: %s.",
                    path,
                    error,
                    extra={"event": "store-discarded"},
                )
            return None

    def save(self, owner: TokenOwner, token: AccessToken) -> None:
        """Keep a token, unless the one kept was asked for later."""
        kept = self.load(owner)
        if kept is not None and kept.ends_at - kept.lifetime > token.ends_at - token.lifetime:
            return
        record = _Record(
            version=_VERSION,
            owner=owner,
            clock=_clock_identity(),
            ends_at=token.ends_at,
            expires_at=token.expires_at,
            lifetime=token.lifetime,
            value=token.value,
            token_type=token.token_type,
            scope=token.scope,
            requested_scope=token.requested_scope,
        )
        path = self._path(owner, "token")
        try:
            _replace(path, self._fernet.encrypt(msgspec.json.encode(record)))
        except OSError as error:
            self._failed("be written", error)

    def claim(self, owner: TokenOwner, seconds: float) -> _FileClaim | None:
        """The right to renew; ends with the process that has it, at the latest."""
        path = self._path(owner, "lock")
        try:
            claim = self._take(path, seconds)
            return self._take(path, seconds) if claim is None and self._break(path) else claim
        except OSError as error:
            self._failed("be locked", error)
            return _FileClaim(None)  # each for itself: better than no token

    def discard(self, owner: TokenOwner, token: AccessToken) -> None:
        """Drop this token. While another process renews it there is no need: it is replaced."""
        claim = self.claim(owner, 1.0)
        if claim is None:
            return
        try:
            kept = self.load(owner)
            if kept is not None and kept.value == token.value:
                self._path(owner, "token").unlink(missing_ok=True)
        except OSError as error:
            self._failed("be changed", error)
        finally:
            claim.release()

    def __repr__(self) -> str:
        return f"<FileTokenStore {self._folder}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a FileTokenStore is not pickled: it holds keys; make one in each process")

    def _path(self, owner: TokenOwner, kind: str) -> Path:
        return self._folder / f"{owner.digest}.{kind}"

    def _decrypted(self, data: bytes, owner: TokenOwner) -> _Record:
        """The record of a file, if it is to be trusted."""
        from cryptography.fernet import InvalidToken

        try:
            record = msgspec.json.decode(self._fernet.decrypt(data), type=_Record)
        except InvalidToken:
            record = None
        except msgspec.ValidationError:
            raise _DistrustError("it was written by another version of keystay") from None
        if record is None:
            raise _DistrustError("it is torn, foreign, or encrypted with another key")
        if record.version != _VERSION:
            raise _DistrustError("it was written by another version of keystay")
        if record.owner != owner:
            raise _DistrustError("it holds another client's token")
        return record

    def _take(self, path: Path, seconds: float) -> _FileClaim | None:
        if (lock := _lock(path)) is None:
            return None
        try:
            # Always as long as before: truncating costs more than all the rest.
            descriptor = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.pwrite(descriptor, b"%020.3f\n" % (self._clock.now() + seconds), 0)
            finally:
                os.close(descriptor)
        except OSError:
            lock.release()
            raise
        return _FileClaim(lock)

    def _failed(self, what: str, error: OSError) -> None:
        if self._is_news(what, error.errno):
            logger.warning(
                "The token store %s cannot %s (%s): this process gets its own tokens.",
                self._folder,
                what,
                os.strerror(error.errno or 0),
                extra={"event": "store-failed"},
            )

    def _is_news(self, what: str, how: object) -> bool:
        """Whether that was not the last thing said of it."""
        said, self._warned[what] = self._warned.get(what), how
        return said != how

    def _break(self, path: Path) -> bool:
        """Whether a lock was taken from a process that has had it for too long.

        The file goes; that process keeps its lock on what has no name any more.
        """
        try:
            data, status = _read(path)
            is_overdue = float(data) <= self._clock.now()
        except (FileNotFoundError, ValueError):  # being made, just now
            is_overdue = False
        if not is_overdue:
            self._overdue.pop(path, None)
            return False
        # Who takes the lock writes into it a moment later: a second look tells whether he hangs.
        seen = (status.st_ino, data)
        before, since = self._overdue.setdefault(path, (seen, self._clock.now()))
        if before != seen:
            self._overdue[path] = (seen, self._clock.now())
            return False
        if self._clock.now() - since < _SUSPECTED:
            return False
        self._overdue.pop(path, None)
        # One at a time: two who saw the same must not take the lock from each other.
        if (alone := _lock(path.with_suffix(".break"))) is None:
            return False
        try:
            data, status = _read(path)
            if (status.st_ino, data) != seen:  # another was first, or has just taken it up
                return False
            path.unlink()
        except FileNotFoundError:
            return False
        finally:
            alone.release()
        logger.warning(
            "The process that renews the token of %s hangs; its lock was taken from it.",
            path,
            extra={"event": "store-lock-broken"},
        )
        return True


class _FileClaim:
    """A lock on a file, or none where there could be none."""

    def __init__(self, lock: BaseFileLock | None) -> None:
        self._lock = lock

    def release(self) -> None:
        if self._lock is not None:
            with suppress(OSError):  # closed with the process at the latest
                self._lock.release()


def _fernet(keys: Iterable[str]) -> MultiFernet:
    from cryptography.fernet import Fernet, MultiFernet

    known = list(keys)
    if not known or not all(_KEY.fullmatch(key) for key in known):
        raise ConfigurationError(
            "A key of the token store is no Fernet key.",
            cause="32 bytes in URL-safe base64 are due, 44 characters.",
            hint="Make one: (umask 077; keystay store key > /run/secrets/store-key)",
            code="store-key-invalid",
        )
    return MultiFernet([Fernet(key) for key in known])


def _prepare(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.stat()
    except OSError as error:
        raise ConfigurationError(
            f"The token store's folder {folder} cannot be used: {error.strerror}.",
            hint="Let its parent exist, on this machine's own disk or in /run.",
            code="store-unusable",
        ) from error
    if (found := doubt(status, 0o022)) is not None:
        raise ConfigurationError(
            f"The token store's folder {folder} {found.what}.",
            cause=found.cause,
            hint=found.hint or f"chmod 0700 {folder}",
            code="store-unsafe",
        )


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        return (os.read(descriptor, _MAX_BYTES) if stat.S_ISREG(status.st_mode) else b""), status
    finally:
        os.close(descriptor)


def _require_ours(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise _DistrustError("it is not a regular file")
    if status.st_uid != os.geteuid():
        raise _DistrustError(f"it belongs to user id {status.st_uid}")
    if status.st_mode & 0o077:
        raise _DistrustError(f"its mode is {stat.S_IMODE(status.st_mode):04o}, not 0600")


def _token(record: _Record, clock: Clock) -> AccessToken | None:
    """The record's token, if it lives and was got since this machine was started."""
    left = record.ends_at - clock.now()
    if not record.clock:
        # No way to tell that it was got since then but that both clocks agree.
        left = min(left, record.expires_at - clock.time())
    if record.clock != _clock_identity() or not 0 < left <= record.lifetime:
        return None
    return AccessToken(
        record.value,
        expires_in=record.lifetime,
        scope=record.scope,
        requested_scope=record.requested_scope,
        requested_at=clock.now() + left - record.lifetime,
        token_type=record.token_type,
        clock=clock,
    )


def _replace(path: Path, data: bytes) -> None:
    """Write a file whole, or not at all, with mode 0600."""
    for left in path.parent.glob(f"{path.name}.*.tmp"):
        with suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _ABANDONED:  # by a process that was killed
                left.unlink()
    descriptor, name = tempfile.mkstemp(".tmp", f"{path.name}.", path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _lock(path: Path) -> BaseFileLock | None:
    """A lock that is held now, or None."""
    from filelock import FileLock, Timeout

    # An object for each: those of one process exclude each other as well.
    lock = FileLock(path, mode=0o600, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    except NotImplementedError:  # as filelock tells it of a file system without locks
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK)) from None
    if type(lock) is not FileLock:  # or it falls back to a file that a kill leaves behind
        lock.release()
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))
    return lock


@cache
def _clock_identity() -> str:
    """What tells one run of `clock.now()` from another: the boot, and the time namespace.

    "" where the system does not tell.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {Path('/proc/self/ns/time').readlink()}"
    except OSError:
        return ""
