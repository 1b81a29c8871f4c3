"""Secrets by reference: every source, every unsafe file, and nothing shown."""

from __future__ import annotations

import contextlib
import copy
import os
import pickle
import pty
import select
import signal
import stat
import subprocess
import sys
import threading
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import keyring
import keyring.backend
import keyring.errors
import pytest

from keystay.backends import Secret, SecretResolver
from keystay.errors import LoginError, SecretError
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from collections.abc import Iterator

PIN = WATCH.add("the PIN of the secrets tests", "correct-horse-7391")
PURPOSE = "the PIN of token Prod"


def pin_file(folder: Path, content: str | bytes = PIN, mode: int = 0o600) -> Path:
    """A file with a secret."""
    path = folder / "pin"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    path.chmod(mode)
    return path


def reveal(reference: str, resolver: SecretResolver | None = None) -> str:
    """The secret a reference names."""
    secret = (resolver or SecretResolver()).resolve(reference, PURPOSE)
    assert secret is not None
    return secret.reveal()


def refusal(reference: str, resolver: SecretResolver | None = None) -> SecretError:
    """The error a reference ends in, which shows no secret even with its traceback."""
    with pytest.raises(SecretError) as caught:
        (resolver or SecretResolver()).resolve(reference, PURPOSE)
    WATCH.check("".join(traceback.format_exception(caught.value)), "the traceback")
    WATCH.check(f"{caught.value!r} {caught.value.to_dict()}", "the error")
    assert "PIN of token Prod" in str(caught.value)
    return caught.value


class TestFile:
    """file: references."""

    @pytest.mark.parametrize(
        ("content", "expected"),
        [
            pytest.param(b"1234", "1234", id="no newline"),
            pytest.param(b"1234\n", "1234", id="newline"),
            pytest.param(b"1234\r\n", "1234", id="Windows newline"),
            pytest.param(b"1234\n\n", "1234\n", id="only one newline"),
            pytest.param(b" 12 34 \n", " 12 34 ", id="spaces are part of it"),
            pytest.param("pä55\n".encode(), "pä55", id="not ASCII"),
            pytest.param(b"\xef\xbb\xbf1234\n", "1234", id="byte order mark"),
            pytest.param(b"x" * 4096, "x" * 4096, id="the limit"),
        ],
    )
    def test_content(self, tmp_path: Path, content: bytes, expected: str) -> None:
        """What the file holds, without its last newline."""
        assert expected == reveal(f"file:{pin_file(tmp_path, content)}")

    def test_forms_of_a_path(self, tmp_path: Path) -> None:
        """Absolute, with three slashes, and relative to the base directory."""
        path = pin_file(tmp_path)
        resolver = SecretResolver(base_dir=tmp_path)
        assert {PIN} == {
            reveal(f"file:{path}"),
            reveal(f"file://{path}"),
            reveal("file:pin", resolver),
            reveal("file:./pin", SecretResolver(base_dir=tmp_path)),
        }

    @pytest.mark.parametrize("mode", [0o400, 0o600, 0o440, 0o640, 0o700, 0o500])
    def test_safe_modes(self, tmp_path: Path, mode: int) -> None:
        """The owner may do anything, the group may read."""
        assert PIN == reveal(f"file:{pin_file(tmp_path, mode=mode)}")

    @pytest.mark.parametrize(
        "mode", [0o604, 0o602, 0o601, 0o620, 0o660, 0o644, 0o666, 0o777, 0o444, 0o404]
    )
    def test_unsafe_modes(self, tmp_path: Path, mode: int) -> None:
        """Others may not read, the group may not write; the remedy is the command."""
        path = pin_file(tmp_path, mode=mode)
        error = refusal(f"file:{path}")
        assert "secret-file-unsafe" == error.code
        assert f"mode {mode:04o}" in error.message
        assert f"chmod 0400 {path}" in (error.hint or "")

    @pytest.mark.parametrize("uid", [1, 1000, 65534])
    def test_another_owner(self, tmp_path: Path, uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file of another user is refused: that user could replace it."""
        path = pin_file(tmp_path)
        if os.geteuid() == 0:
            os.chown(path, uid, -1)
        else:  # who may not give files away becomes somebody else
            monkeypatch.setattr(os, "geteuid", lambda: uid + 100_000)
            uid = os.getuid()
        error = refusal(f"file:{path}")
        assert ("secret-file-unsafe", True) == (error.code, f"user id {uid}" in error.message)

    def test_mode_of_a_link_is_its_targets(self, tmp_path: Path) -> None:
        """A symbolic link is followed, and what it leads to is checked."""
        path = pin_file(tmp_path)
        (tmp_path / "link").symlink_to(path)
        assert PIN == reveal(f"file:{tmp_path}/link")
        path.chmod(0o644)
        assert "secret-file-unsafe" == refusal(f"file:{tmp_path}/link").code

    @pytest.mark.parametrize(
        ("content", "code"),
        [
            pytest.param(b"", "secret-empty", id="empty"),
            pytest.param(b"\n", "secret-empty", id="a newline alone"),
            pytest.param(b"x" * 4097, "secret-file-invalid", id="too long"),
            pytest.param(b"\xff" + PIN.encode(), "secret-file-invalid", id="not UTF-8"),
        ],
    )
    def test_content_refused(self, tmp_path: Path, content: bytes, code: str) -> None:
        """What can be no secret is refused, and not repeated."""
        assert code == refusal(f"file:{pin_file(tmp_path, content)}").code

    def test_bytes_are_not_in_the_context(self, tmp_path: Path) -> None:
        """The decoding error, which holds the bytes, is not attached for a reporter to find."""
        error = refusal(f"file:{pin_file(tmp_path, PIN.encode() + bytes([255]))}")
        assert (None, None) == (error.__cause__, error.__context__)

    @pytest.mark.parametrize(
        ("name", "code"),
        [
            pytest.param("missing", "secret-file-unreadable", id="missing"),
            pytest.param("pin/below", "secret-file-unreadable", id="a file as a folder"),
            pytest.param(".", "secret-file-invalid", id="a folder"),
            pytest.param("x" * 300, "secret-file-unreadable", id="name too long"),
            pytest.param("a\0b", "secret-file-unreadable", id="null character"),
            pytest.param("a\ud800", "secret-file-unreadable", id="half a surrogate pair"),
        ],
    )
    def test_no_such_file(self, tmp_path: Path, name: str, code: str) -> None:
        """What cannot be read is refused."""
        pin_file(tmp_path)
        assert code == refusal(f"file:{name}", SecretResolver(base_dir=tmp_path)).code

    def test_device(self) -> None:
        """A device is no file with a secret."""
        assert "secret-file-invalid" == refusal("file:/dev/null").code

    def test_no_descriptor_is_left_open(self, tmp_path: Path) -> None:
        """Success and refusal close the file."""
        good = pin_file(tmp_path)
        before = len(list(Path("/proc/self/fd").iterdir()))
        reveal(f"file:{good}")
        good.chmod(0o644)
        refusal(f"file:{good}")
        assert before == len(list(Path("/proc/self/fd").iterdir()))


@contextlib.contextmanager
def writer(path: Path, *chunks: bytes, delay: float = 0.0) -> Iterator[None]:
    """A process that opens a FIFO and writes to it."""
    with ThreadPoolExecutor(1) as pool:

        def write() -> None:
            time.sleep(delay)
            with path.open("wb", buffering=0) as fifo:
                for chunk in chunks:
                    fifo.write(chunk)
                    time.sleep(delay)

        done = pool.submit(write)
        yield
        done.result(10)


class TestFifo:
    """A FIFO can be read once."""

    @pytest.fixture
    def fifo(self, tmp_path: Path) -> Path:
        """A FIFO that only we can read."""
        os.mkfifo(path := tmp_path / "fifo", 0o600)
        return path

    def test_read_once(self, fifo: Path) -> None:
        """The same reference, for several purposes, is read once."""
        resolver = SecretResolver()
        with writer(fifo, f"{PIN}\n".encode()):
            assert PIN == reveal(f"file:{fifo}", resolver)
        again = resolver.resolve(f"file:{fifo}", "another purpose")
        assert again is not None
        assert PIN == again.reveal()

    def test_writer_comes_late_and_writes_slowly(self, fifo: Path) -> None:
        """The writer may come later, and write in pieces."""
        with writer(fifo, PIN[:4].encode(), PIN[4:].encode(), b"\n", delay=0.15):
            assert PIN == reveal(f"file:{fifo}")

    @pytest.mark.parametrize("silent", [True, False], ids=["nobody writes", "closed unwritten"])
    def test_bounded(self, fifo: Path, silent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without anything to read the wait ends."""
        monkeypatch.setattr("keystay.backends.secrets._FIFO_SECONDS", 0.3)
        started = time.monotonic()
        with contextlib.nullcontext() if silent else writer(fifo):
            error = refusal(f"file:{fifo}")
        assert error.code in ("secret-file-unreadable", "secret-empty")
        assert 0.2 < time.monotonic() - started < 5

    def test_writer_that_never_ends(self, fifo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A writer that keeps the FIFO open does not hold us for ever."""
        monkeypatch.setattr("keystay.backends.secrets._FIFO_SECONDS", 0.3)
        keep = os.open(fifo, os.O_RDWR)
        os.write(keep, PIN.encode())
        try:
            assert "secret-file-unreadable" == refusal(f"file:{fifo}").code
        finally:
            os.close(keep)

    def test_endless(self, fifo: Path) -> None:
        """More than the limit is refused without reading on."""
        keep = os.open(fifo, os.O_RDWR)
        os.write(keep, b"x" * 5000)
        try:
            assert "secret-file-invalid" == refusal(f"file:{fifo}").code
        finally:
            os.close(keep)

    def test_unsafe_mode(self, fifo: Path) -> None:
        """A FIFO that others can write to is refused unread."""
        fifo.chmod(0o622)
        assert "secret-file-unsafe" == refusal(f"file:{fifo}").code

    def test_process_substitution(self) -> None:
        """A pipe under /dev/fd, as a shell's <(…) makes it, works."""
        read_end, write_end = os.pipe()
        os.write(write_end, f"{PIN}\n".encode())
        os.close(write_end)
        try:
            assert stat.S_ISFIFO(os.fstat(read_end).st_mode)
            assert PIN == reveal(f"file:/dev/fd/{read_end}")
        finally:
            os.close(read_end)


class TestEnvironment:
    """env: references."""

    def test_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The variable's value, newline and all."""
        monkeypatch.setenv("KEYSTAY_TEST_PIN", f"{PIN}\n")
        assert f"{PIN}\n" == reveal("env:KEYSTAY_TEST_PIN")

    @pytest.mark.parametrize("name", ["KEYSTAY_TEST_NO_SUCH", "A=B", "a\0b", "a\ud800"])
    def test_missing(self, name: str) -> None:
        """A variable that is not set is named."""
        error = refusal(f"env:{name}")
        assert ("secret-missing", True) == (error.code, name[:1] in error.message)

    def test_empty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """An empty one is refused: an empty PIN is a mistake that costs a try."""
        monkeypatch.setenv("KEYSTAY_TEST_PIN", "")
        assert "secret-empty" == refusal("env:KEYSTAY_TEST_PIN").code

    def test_not_utf8(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Bytes that are no text are refused here, not when a backend encodes them."""
        monkeypatch.setenv("KEYSTAY_TEST_PIN", os.fsdecode(PIN.encode() + b"\xff"))
        assert "secret-not-text" == refusal("env:KEYSTAY_TEST_PIN").code


class TestPrompt:
    """prompt: asks on the terminal."""

    def test_without_a_terminal(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without a terminal nothing waits, and the message keeps its capitals."""
        with Path(os.devnull).open() as null:
            monkeypatch.setattr(sys, "stdin", null)
            error = refusal("prompt:")
        assert "secret-no-terminal" == error.code
        assert error.message.startswith("The PIN of token Prod is to be typed in")

    @pytest.mark.parametrize("closed", [True, False], ids=["closed", "none"])
    def test_without_stdin(self, monkeypatch: pytest.MonkeyPatch, closed: bool) -> None:
        """Neither does a daemon's missing stdin."""
        with Path(os.devnull).open() as null:
            monkeypatch.setattr(sys, "stdin", null if closed else None)
        assert "secret-no-terminal" == refusal("prompt:").code

    @pytest.mark.parametrize(
        ("typed", "expected"),
        [
            pytest.param(f"{PIN}\n", f"got {len(PIN)}", id="typed"),
            pytest.param("\n", "secret-empty", id="only enter"),
            pytest.param("\x04", "secret-no-terminal", id="end of file"),
        ],
    )
    def test_on_a_terminal(self, typed: str, expected: str) -> None:
        """Asked on a real terminal, once for two uses; what is typed is not echoed."""
        program = (
            "from keystay.backends import SecretResolver\n"
            "from keystay.errors import SecretError\n"
            "r = SecretResolver()\n"
            "try:\n"
            "    first, second = [r.resolve('prompt:', 'the PIN of Prod') for _ in range(2)]\n"
            "    assert first is second\n"
            "    print('got', len(first.reveal()))\n"
            "except SecretError as error:\n"
            "    print(error.code)\n"
        )
        child, terminal = pty.fork()
        if child == 0:  # pragma: no cover
            os.execv(sys.executable, [sys.executable, "-I", "-c", program])
        shown, sent = b"", False
        try:
            while select.select([terminal], [], [], 20)[0]:
                try:
                    chunk = os.read(terminal, 1000)
                except OSError:  # the other side is closed
                    break
                shown += chunk
                if b"The PIN of Prod: " in shown and not sent:
                    time.sleep(0.1)  # getpass empties the queue after turning echo off
                    os.write(terminal, typed.encode())
                    sent = True
        finally:
            os.close(terminal)
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        text = shown.decode()
        assert (True, 1) == (expected in text, text.count("The PIN of Prod: ")), text
        WATCH.check(text, "the terminal")


class MemoryKeyring(keyring.backend.KeyringBackend):
    """A keyring in memory."""

    priority = 1

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.entries: dict[tuple[str, str], str] = {}
        self.locked = False

    def get_password(self, service: str, username: str) -> str | None:
        """The entry, unless the keyring is locked."""
        if self.locked:
            raise keyring.errors.KeyringLocked(f"locked, with {PIN} inside")
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        """Store an entry."""
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        """Remove an entry."""
        del self.entries[service, username]


class TestKeyring:
    """keyring: references, through keyring's own API."""

    @pytest.fixture
    def ring(self) -> Iterator[MemoryKeyring]:
        """The keyring of this process, for one test."""
        before, ring = keyring.get_keyring(), MemoryKeyring()
        keyring.set_keyring(ring)
        yield ring
        keyring.set_keyring(before)

    @pytest.mark.parametrize("user", ["epic", "a/b", "ü"])
    def test_found(self, ring: MemoryKeyring, user: str) -> None:
        """SERVICE/USER, where the user may hold a slash."""
        keyring.set_password("keystay", user, PIN)
        assert PIN == reveal(f"keyring:keystay/{user}")

    def test_missing(self, ring: MemoryKeyring) -> None:
        """The remedy is the command that stores it."""
        error = refusal("keyring:keystay/epic")
        assert ("secret-missing", "keyring set keystay epic") == (error.code, error.hint)

    @pytest.mark.parametrize("reference", ["keystay", "/epic", "keystay/"])
    def test_malformed(self, reference: str) -> None:
        """A reference without service or user is refused before the keyring is asked."""
        assert "secret-reference-invalid" == refusal(f"keyring:{reference}").code

    def test_locked(self, ring: MemoryKeyring) -> None:
        """A locked keyring is said so; the original is chained."""
        ring.locked = True
        with pytest.raises(SecretError, match="KeyringLocked") as caught:
            SecretResolver().resolve("keyring:keystay/epic", PURPOSE)
        WATCH.check(str(caught.value), "the error")
        assert "secret-keyring-failed" == caught.value.code

    def test_not_installed(self) -> None:
        """Without the package the remedy is the command that installs it."""
        program = (
            "import sys; sys.modules['keyring'] = None\n"
            "from keystay.backends import SecretResolver\n"
            "from keystay.errors import SecretError\n"
            "try:\n    SecretResolver().resolve('keyring:a/b', 'the PIN')\n"
            "except SecretError as error:\n    print(error.code, error.hint)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )
        assert "secret-keyring-missing pip install 'keystay[keyring]'\n" == done.stdout


class TestProvider:
    """A callable from Python."""

    def test_answers_first(self) -> None:
        """It is asked before the reference is looked at, with reference and purpose."""
        asked: list[tuple[str, str]] = []

        def provider(reference: str, purpose: str) -> str:
            asked.append((reference, purpose))
            return PIN

        resolver = SecretResolver(provider)
        assert PIN == reveal("env:KEYSTAY_TEST_NO_SUCH", resolver)
        assert PIN == reveal("env:KEYSTAY_TEST_NO_SUCH", resolver)
        assert [("env:KEYSTAY_TEST_NO_SUCH", PURPOSE)] == asked

    def test_without_a_reference(self) -> None:
        """It may answer where the configuration names nothing."""
        secret = SecretResolver(lambda reference, purpose: reference + PIN).resolve(None, PURPOSE)
        assert secret is not None
        assert PIN == secret.reveal()

    def test_purposes_are_kept_apart(self) -> None:
        """One callable for several tokens answers each."""
        resolver = SecretResolver(lambda _, purpose: purpose.upper())
        answers = [resolver.resolve(None, purpose) for purpose in ("a", "b", "a")]
        assert ["A", "B", "A"] == [answer.reveal() for answer in answers if answer]

    def test_none_falls_back(self, tmp_path: Path) -> None:
        """Answering None has the reference resolved; without one there is no secret."""
        resolver = SecretResolver(lambda *_: None)
        assert PIN == reveal(f"file:{pin_file(tmp_path)}", resolver)
        assert None is resolver.resolve(None, "no reference")
        assert None is SecretResolver().resolve(None, "nothing at all")

    def test_raising(self) -> None:
        """What it raises is told by type only: its text may hold the secret."""

        def provider(reference: str, purpose: str) -> str:
            raise ValueError(f"the vault refused {PIN}")

        error = refusal("env:X", SecretResolver(provider))
        assert "secret-provider-failed" == error.code
        assert "raised ValueError" in error.message
        assert (None, None) == (error.__cause__, error.__context__)

    def test_raising_our_own(self) -> None:
        """An error of our family is the caller's own word, and stays."""

        def provider(reference: str, purpose: str) -> str:
            raise LoginError("The vault is sealed.")

        with pytest.raises(LoginError, match="The vault is sealed"):
            SecretResolver(provider).resolve(None, PURPOSE)

    @pytest.mark.parametrize("answer", [PIN.encode(), 7391, [PIN]], ids=["bytes", "int", "list"])
    def test_no_string(self, answer: object) -> None:
        """Another type than str is refused here, not deep in a backend."""
        resolver = SecretResolver(lambda *_: answer)  # type: ignore[arg-type]
        error = refusal("env:X", resolver)
        assert "secret-provider-failed" == error.code
        assert f"returned {type(answer).__name__}" in error.message

    def test_empty(self) -> None:
        """An empty answer is no answer."""
        with pytest.raises(SecretError, match="callable") as caught:
            SecretResolver(lambda *_: "").resolve(None, PURPOSE)
        assert "secret-empty" == caught.value.code

    @pytest.mark.parametrize("answer", ["", "\udcff"], ids=["empty", "no text"])
    def test_secret_in_place_of_a_reference(self, answer: str) -> None:
        """The hint names the reference only if it is one."""
        assert "callable" in (refusal(PIN, SecretResolver(lambda *_: answer)).hint or "")
        assert "env:X" in (refusal("env:X", SecretResolver(lambda *_: answer)).hint or "")

    def test_failure_is_not_remembered(self) -> None:
        """After a failure it is asked again."""
        answers = iter(["", PIN])
        resolver = SecretResolver(lambda *_: next(answers))
        with pytest.raises(SecretError):
            resolver.resolve(None, PURPOSE)
        assert PIN == reveal("", resolver)


class TestReferences:
    """What is no reference."""

    @pytest.mark.parametrize(
        "reference",
        [
            pytest.param("", id="empty"),
            pytest.param(PIN, id="the secret itself"),
            pytest.param(f"pin:{PIN}", id="unknown scheme"),
            pytest.param(f"FILE:{PIN}", id="scheme in capitals"),
            pytest.param("file:", id="no path"),
            pytest.param("env:", id="no name"),
            pytest.param("keyring:", id="no service"),
            pytest.param(f"|cat {PIN}", id="a command"),
            pytest.param(f"/run/{PIN}", id="a bare path"),
        ],
    )
    def test_refused_without_an_echo(self, reference: str) -> None:
        """The text is not repeated: it may be the secret."""
        error = refusal(reference)
        assert "secret-reference-invalid" == error.code
        assert "file:PATH, env:NAME, credential:NAME, keyring:SERVICE/USER or prompt:" in (
            error.hint or ""
        )


class TestOnce:
    """Asked for once."""

    def test_sixteen_threads(self) -> None:
        """However many threads ask at once, one question is asked."""
        barrier, asked = threading.Barrier(16), []

        def provider(reference: str, purpose: str) -> str:
            asked.append(purpose)
            time.sleep(0.05)
            return PIN

        resolver = SecretResolver(provider)

        def ask(_: int) -> Secret | None:
            barrier.wait()
            return resolver.resolve("env:X", PURPOSE)

        with ThreadPoolExecutor(16) as pool:
            answers = set(pool.map(ask, range(16)))
        assert ([PURPOSE], 1) == (asked, len(answers))

    def test_file_changed_meanwhile(self, tmp_path: Path) -> None:
        """A resolver keeps what it read; a new one reads again."""
        resolver, path = SecretResolver(), pin_file(tmp_path)
        assert PIN == reveal(f"file:{path}", resolver)
        path.write_text("changed")
        assert PIN == reveal(f"file:{path}", resolver)
        assert "changed" == reveal(f"file:{path}")


def answer_with_the_pin(reference: str, purpose: str) -> str:
    """A provider that pickle could find."""
    return PIN


class TestNothingShown:
    """Secrets do not show themselves."""

    def test_texts(self) -> None:
        """Not in any text made of a secret or a resolver."""
        resolver = SecretResolver(lambda *_: PIN)
        secret = resolver.resolve(None, PURPOSE)
        assert "Secret(***)" == repr(secret) == str(secret) == f"{secret}"
        assert "SecretResolver(1 resolved)" == repr(resolver)
        WATCH.check(f"{secret!r} {secret} {[secret]} {resolver} %s" % secret, "a text")

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_not_pickled(self, protocol: int) -> None:
        """Neither is pickled or copied."""
        resolver = SecretResolver(answer_with_the_pin)
        for item in (Secret(PIN), resolver, resolver.resolve(None, PURPOSE)):
            with pytest.raises((TypeError, pickle.PicklingError)) as caught:
                pickle.dumps(item, protocol)
            WATCH.check(str(caught.value), "the error")
        with pytest.raises(TypeError, match="not pickled"):
            copy.deepcopy(Secret(PIN))

    def test_no_attribute_dictionary(self) -> None:
        """A debugger's view of attributes shows nothing either."""
        assert False is hasattr(Secret(PIN), "__dict__")


class TestCredential:
    """`credential:NAME`, what systemd passes to a service."""

    def test_read(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The file of that name in the folder that systemd names, of mode 0400 or 0440."""
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        for mode in (0o400, 0o440):
            path = tmp_path / f"pin-{mode:o}"
            path.write_text("a-credential-5510\n")
            path.chmod(mode)
            assert "a-credential-5510" == reveal(f"credential:{path.name}")

    @pytest.mark.parametrize("name", ["../pin", "a/b", ".", ".."])
    def test_leads_nowhere_else(
        self, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A credential has a name, no path."""
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        assert "secret-reference-invalid" == refusal(f"credential:{name}").code

    def test_missing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without systemd, and without the credential: each is said, with what was looked at."""
        monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
        error = refusal("credential:pin")
        assert "secret-missing" == error.code
        assert "CREDENTIALS_DIRECTORY is not set" in error.message
        assert "LoadCredential=pin:" in (error.hint or "")
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
        error = refusal("credential:pin")
        assert "secret-file-unreadable" == error.code
        assert str(tmp_path / "pin") in error.message
