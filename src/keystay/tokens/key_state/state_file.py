"""The state file: whole at every moment, changed by one process at a time, readable by people.

`keystay-keys/<client>.json` beside keystay.toml. Readers take no lock: the file is replaced, never
written over. It holds no secret, but says which key signs and which are published, so it must not
be one that everybody can write.
"""

from __future__ import annotations

import glob
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import msgspec

from keystay.errors import ConfigurationError, KeystayError
from keystay.files import read_guarded, write_atomically
from keystay.tokens.key_state.state import VERSION, RotationState, check

__all__ = ["Stamp", "StateFile"]

LOCK_TIMEOUT = 30.0
"""Seconds to wait for another process; making an RSA-4096 key in a slow HSM takes that long."""

Stamp = tuple[int, int, int] | None
"""Changes with every new state; None without a file."""


class StateFile:
    """The state file of one client.

    Args:
        folder: Where states are kept; see `Config.states`.
        client: The client's name.
    """

    def __init__(self, folder: Path, client: str) -> None:
        self.client = client
        self.path = folder / f"{quote(client, safe=' ')}.json"

    def __repr__(self) -> str:
        return f"<StateFile {self.path}>"

    def stamp(self) -> Stamp:
        """What tells one state from the next, at the cost of one `stat`."""
        try:
            found = self.path.stat()
        except OSError:
            return None
        # The time that a change of its permissions counts for, too.
        return found.st_ctime_ns, found.st_ino, found.st_size

    def read(self) -> RotationState | None:
        """The state; None when no rotation was ever begun.

        Raises:
            ConfigurationError: It cannot be read, is not keystay's, or of a newer version.
        """
        text = read_guarded(self.path, "key state")
        return None if text is None else self._parse(text)

    @contextmanager
    def locked(self, timeout: float = LOCK_TIMEOUT) -> Iterator[None]:
        """Keep every other process from changing the state; ends with the process at the latest.

        Raises:
            ConfigurationError: Another process holds it for too long, or the folder cannot be
                written.
        """
        import filelock

        lock = filelock.FileLock(f"{self.path}.lock", mode=0o644)
        try:
            self.path.parent.mkdir(exist_ok=True)
            lock.acquire(timeout)
        except filelock.Timeout:
            raise ConfigurationError(
                f"Another process has held {self.path}.lock for more than {timeout:g} s.",
                cause="Another keystay rotate is at work on this client, perhaps in an HSM.",
                hint="Wait for it and repeat the command. The lock ends with its process: the file "
                "need not be removed.",
                code="rotation-locked",
            ) from None
        except OSError as error:
            raise self._unwritable(error) from error
        try:
            yield
        finally:
            lock.release()

    def write(self, state: RotationState) -> None:
        """Replace the state; the caller holds the lock.

        Raises:
            ConfigurationError: The folder cannot be written; the old state stands.
        """
        text = msgspec.json.format(msgspec.json.encode(state), indent=2) + b"\n"
        try:
            write_atomically(self.path, text)
            # What writers left that were killed: the lock says that none is at work.
            for left in self.path.parent.glob(f".{glob.escape(self.path.name)}-*"):
                left.unlink(missing_ok=True)
        except OSError as error:
            raise self._unwritable(error) from error

    def _parse(self, text: bytes) -> RotationState:
        try:
            document: object = msgspec.json.decode(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._foreign("it is not JSON") from error
        version = document.get("keystay_rotation") if isinstance(document, dict) else None
        if not isinstance(version, int) or isinstance(version, bool):
            raise self._foreign("it has no keystay_rotation number")
        if version != VERSION:
            raise ConfigurationError(
                f"The key state {self.path} has version {version}, this keystay knows {VERSION}.",
                cause="A newer keystay wrote it.",
                hint="Use that keystay everywhere: pip install --upgrade keystay",
                code="rotation-state-newer",
            )
        try:
            state = msgspec.convert(document, RotationState)
            check(state)
        except (msgspec.ValidationError, KeystayError) as error:
            why = error.message if isinstance(error, KeystayError) else str(error)
            raise self._foreign(why.rstrip(".")) from error
        if state.client != self.client:
            raise self._foreign(f"it is the state of the client {state.client!r}")
        return state

    def _foreign(self, why: str) -> ConfigurationError:
        return ConfigurationError(
            f"The key state {self.path} cannot be used: {why}.",
            cause="It was edited by hand, or something else wrote it. keystay replaces it whole, "
            "so it is not half written.",
            hint="Restore it from a backup. Without one: set `key` in keystay.toml to the key that "
            "the server knows, and move the file away; retired keys are then forgotten.",
            code="rotation-state-invalid",
        )

    def _unwritable(self, error: OSError) -> ConfigurationError:
        return ConfigurationError(
            f"The key state {self.path} cannot be written: {error.strerror or error}.",
            cause="The folder is read-only, full, or belongs to somebody else.",
            hint=f"Run keystay rotate as the owner of {self.path.parent}. Nothing has changed.",
            code="rotation-state-unwritable",
        )
