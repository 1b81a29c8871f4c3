"""Secrets by reference: PINs and passphrases that no file, URI, repr or log of ours holds.

    file:/run/secrets/pin      a file only its owner (and, at most, its group) can read, or a FIFO
    env:HSM_PIN                an environment variable
    credential:pin             what systemd's LoadCredential= gives: $CREDENTIALS_DIRECTORY/pin
    prompt:                    asked for on the terminal, when there is one
    keyring:service/user       the system's keyring (extra `keystay[keyring]`)

From Python a callable may answer instead.
"""

from __future__ import annotations

import codecs
import os
import select
import stat
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from keystay.concurrency.clock import Deadline
from keystay.concurrency.locks import DeadlineLock
from keystay.errors import KeystayError, SecretError
from keystay.files import doubt
from keystay.settings import SECRET_SCHEMES

__all__ = ["Secret", "SecretResolver"]

_MAX_BYTES = 4096
_FIFO_SECONDS = 10.0
# Seconds that a thread waits while another one resolves a secret: a person may be typing it.
_LONGEST_QUESTION = 300.0
_SCHEMES = "file:PATH, env:NAME, credential:NAME, keyring:SERVICE/USER or prompt:"


class Secret:
    """A secret string that does not show itself.

    `reveal()` returns it; repr, str and pickle do not.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The secret itself."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(***)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled: pass its reference and resolve it there")


class SecretResolver:
    """Resolves secret references, each at most once.

    Args:
        provider: Answers instead of the reference, given the reference (or "" when there is
            none) and a phrase that says what is asked for. Returning None falls back to the
            reference.
        base_dir: Where a relative `file:` starts.
    """

    def __init__(
        self,
        provider: Callable[[str, str], str | None] | None = None,
        *,
        base_dir: Path | None = None,
    ) -> None:
        self._provider = provider
        self._base_dir = base_dir or Path()
        self._lock = DeadlineLock("resolving a secret", reentrant=True)
        self._known: dict[tuple[str, str], Secret] = {}

    def __repr__(self) -> str:
        return f"SecretResolver({len(self._known)} resolved)"

    def resolve(self, reference: str | None, purpose: str) -> Secret | None:
        """The secret a reference names.

        Args:
            reference: A secret reference, or None when the configuration has none.
            purpose: What it is for, such as "the PIN of token prod"; shown when asking.

        Returns:
            The secret, or None when there is neither a reference nor a provider that answers.

        Raises:
            SecretError: It is missing, unsafe, empty or unreadable. The message never repeats
                a value.
            BackendTimeoutError: Another thread has been asking for it for minutes.
        """
        key = (reference or "", purpose)
        # One question, however many threads ask.
        with self._lock.held(Deadline.after(_LONGEST_QUESTION)):
            if (known := self._known.get(key)) is not None:
                return known
            if reference and not reference.startswith("prompt:"):
                # A FIFO can be read once only: same reference, same secret.
                for (other, _), secret in self._known.items():
                    if other == reference and self._provider is None:
                        return secret
            value = self._ask(reference or "", purpose)
            if value is None:
                if reference is None:
                    return None
                value = self._read(reference, purpose)
            if not value:
                raise SecretError(
                    f"{_sentence(purpose)} is empty.", code="secret-empty", hint=_from(reference)
                )
            if any("\ud800" <= character <= "\udfff" for character in value):
                raise SecretError(
                    f"{_sentence(purpose)} is not UTF-8 text.",
                    code="secret-not-text",
                    hint=_from(reference),
                )
            secret = self._known[key] = Secret(value)
            return secret

    def _ask(self, reference: str, purpose: str) -> str | None:
        """The provider's answer. Whatever it raised may quote the secret: only its type is told."""
        if self._provider is None:
            return None
        try:
            value: object = self._provider(reference, purpose)
        except KeystayError:
            raise
        except Exception as error:  # noqa: BLE001
            failure = f"raised {type(error).__name__}"
        else:
            if value is None or isinstance(value, str):
                return value
            failure = f"returned {type(value).__name__}, not str"
        # Outside the except block, so that no traceback or error reporter finds it as context.
        raise SecretError(
            f"The callable asked for {purpose} {failure}.",
            hint="It returns the secret as a string, or None to have the reference resolved.",
            code="secret-provider-failed",
        )

    def _read(self, reference: str, purpose: str) -> str:
        scheme, colon, rest = reference.partition(":")
        if colon and scheme == "file" and rest:
            return _read_file(self._base_dir / _file_path(rest), purpose)
        if colon and scheme == "env" and rest:
            return _read_environment(rest, purpose)
        if colon and scheme == "prompt":
            return _prompt(purpose)
        if colon and scheme == "keyring" and rest:
            return _read_keyring(rest, purpose)
        if colon and scheme == "credential" and rest:
            return _read_file(_credential(rest, purpose), purpose)
        raise SecretError(
            f"The reference to {purpose} is not of a known form.",
            cause="The secret itself may have been written where a reference is due.",
            hint=f"Write {_SCHEMES}.",
            code="secret-reference-invalid",
        )


def _sentence(purpose: str) -> str:
    # Not capitalize(): that would put the rest, a PIN's or a path's capitals, in lower case.
    return purpose[:1].upper() + purpose[1:]


def _from(reference: str | None) -> str:
    # Only what is a reference is shown: anything else may be the secret, written in its place.
    known = (reference or "").startswith(SECRET_SCHEMES)
    return f"Check what {reference} holds." if known else "Check the callable that gave it."


def _file_path(rest: str) -> str:
    return rest[2:] if rest.startswith("///") else rest


def _credential(name: str, purpose: str) -> Path:
    """Where systemd puts a credential (systemd.exec(5), Credentials)."""
    if "/" in name or name in (".", ".."):
        raise SecretError(
            f"The reference to {purpose} names no credential.",
            hint="Write credential:NAME, as in LoadCredential=NAME:PATH of the unit.",
            code="secret-reference-invalid",
        )
    folder = os.environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        raise SecretError(
            f"The credential {name} with {purpose} is not there: CREDENTIALS_DIRECTORY is not set.",
            cause="The process was not started by systemd, or its unit passes no credential.",
            hint=f"Add LoadCredential={name}:PATH to the unit; elsewhere refer to a file.",
            code="secret-missing",
        )
    return Path(folder) / name


def _read_file(path: Path, purpose: str) -> str:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for ever for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (OSError, ValueError) as error:  # ValueError: no path holds a null or half a character
        raise SecretError(
            f"The file {path} with {purpose} cannot be read: "
            f"{getattr(error, 'strerror', None) or 'the path is not valid'}.",
            hint="Check the path, and that the user running this may read it.",
            code="secret-file-unreadable",
        ) from error
    try:
        status = os.fstat(descriptor)
        _check_access(path, status, purpose)
        data = _read_all(descriptor, path, purpose, fifo=stat.S_ISFIFO(status.st_mode))
    finally:
        os.close(descriptor)
    if len(data) > _MAX_BYTES:
        raise SecretError(
            f"The file {path} holds more than {_MAX_BYTES} bytes; {purpose} is one line.",
            hint="Check that it is the right file.",
            code="secret-file-invalid",
        )
    try:
        # Without the byte order mark that some editors put first: it would spoil a PIN.
        text = data.removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError:
        text = None
    if text is None:  # outside the except block: that exception holds the bytes
        raise SecretError(
            f"The file {path} with {purpose} is not UTF-8 text.",
            hint="Check that it is the right file, and written as UTF-8.",
            code="secret-file-invalid",
        )
    return text.removesuffix("\n").removesuffix("\r")


def _check_access(path: Path, status: os.stat_result, purpose: str) -> None:
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISFIFO(status.st_mode)):
        raise SecretError(
            f"{path}, which should hold {purpose}, is not a file.",
            hint="Name a file or a FIFO that only its owner can read.",
            code="secret-file-invalid",
        )
    if (found := doubt(status, 0o027)) is not None:
        raise SecretError(
            f"The file {path} with {purpose} {found.what}.",
            cause=found.cause,
            hint=found.hint
            or f"chmod 0400 {path} (a container secret: mode 0400 or 0440 in its definition).",
            code="secret-file-unsafe",
        )


def _read_all(descriptor: int, path: Path, purpose: str, *, fifo: bool) -> bytes:
    """Everything up to the limit; from a FIFO, what one writer writes, waiting for it."""
    data, until = b"", time.monotonic() + _FIFO_SECONDS
    while len(data) <= _MAX_BYTES:
        if fifo:
            left = until - time.monotonic()
            poll = select.poll()
            poll.register(descriptor, select.POLLIN | select.POLLHUP)
            events = poll.poll(max(0.0, left) * 1000)
            if not events and left <= 0:
                raise SecretError(
                    f"Nothing came through {path} with {purpose} in {_FIFO_SECONDS:g} s.",
                    hint="Check the process that writes to it.",
                    code="secret-file-unreadable",
                )
        try:
            chunk = os.read(descriptor, _MAX_BYTES + 1)
        except BlockingIOError:
            continue
        if not chunk:
            if fifo and not data and time.monotonic() < until:
                time.sleep(0.01)  # no writer has opened it yet
                continue
            break
        data += chunk
    return data


def _read_environment(name: str, purpose: str) -> str:
    try:
        value = os.environ.get(name)
    except UnicodeEncodeError:  # no variable can have such a name
        value = None
    if value is None:
        raise SecretError(
            f"The environment variable {name} with {purpose} is not set.",
            hint="Set it for this process, or refer to a file instead.",
            code="secret-missing",
        )
    return value


def _prompt(purpose: str) -> str:
    if sys.stdin is None or sys.stdin.closed or not sys.stdin.isatty():
        raise SecretError(
            f"{_sentence(purpose)} is to be typed in, and there is no terminal.",
            hint="Refer to a file, an environment variable or the keyring instead.",
            code="secret-no-terminal",
        )
    import getpass

    try:
        return getpass.getpass(f"{_sentence(purpose)}: ")
    except EOFError:
        raise SecretError(
            f"{_sentence(purpose)} was not typed in.",
            hint="Type it and press enter, or refer to a file instead.",
            code="secret-no-terminal",
        ) from None


def _read_keyring(rest: str, purpose: str) -> str:
    service, slash, user = rest.partition("/")
    if not slash or not service or not user:
        raise SecretError(
            f"The keyring reference to {purpose} is not SERVICE/USER.",
            hint="Write keyring:keystay/epic.",
            code="secret-reference-invalid",
        )
    try:
        import keyring
        from keyring.errors import KeyringError
    except ImportError as error:
        raise SecretError(
            "The keyring package is not installed.",
            hint="pip install 'keystay[keyring]'",
            code="secret-keyring-missing",
        ) from error
    try:
        value = keyring.get_password(service, user)
    except KeyringError as error:
        raise SecretError(
            f"The keyring could not be asked for {purpose}: {type(error).__name__}.",
            hint="Check that a keyring is unlocked in this session.",
            code="secret-keyring-failed",
        ) from error
    if value is None:
        raise SecretError(
            f"The keyring holds nothing for {service}/{user}, {purpose}.",
            hint=f"keyring set {service} {user}",
            code="secret-missing",
        )
    return value
