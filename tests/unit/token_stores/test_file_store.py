"""The store in a folder: what it keeps, what it does not trust, and who may renew."""

from __future__ import annotations

import logging
import operator
import os
import pickle
import shutil
import stat
import subprocess
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from cryptography.fernet import Fernet

from keystay.concurrency.clock import SYSTEM_CLOCK, Clock
from keystay.errors import ConfigurationError
from keystay.token_stores import file as file_store
from keystay.token_stores.access_token import AccessToken
from keystay.token_stores.file import FileTokenStore
from keystay.token_stores.port import TokenOwner
from tests.support.secrets_watch import WATCH

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

KEY = WATCH.add("a store's key", Fernet.generate_key().decode())
NEW_KEY = WATCH.add("a store's new key", Fernet.generate_key().decode())
VALUE = WATCH.add("a stored token", "stored-token-8832610044")
OWNER = TokenOwner(
    client_id="me", fhir_base_url="https://x/fhir", token_endpoint="", scope="system/*.rs"
)


def token(value: str = VALUE, *, age: float = 0.0, lifetime: float = 300.0) -> AccessToken:
    """A token that was asked for `age` seconds ago."""
    return AccessToken(
        value,
        expires_in=lifetime,
        scope="system/Patient.rs",
        requested_scope="system/*.rs",
        requested_at=SYSTEM_CLOCK.now() - age,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the store is; not there yet."""
    return tmp_path / "tokens"


@pytest.fixture
def store(folder: Path) -> FileTokenStore:
    """A store."""
    return FileTokenStore(folder, keys=KEY)


def file_of(folder: Path, kind: str = "token") -> Path:
    """The owner's file."""
    return folder / f"{OWNER.digest}.{kind}"


class TestKeeping:
    """What is saved comes back, in this process or another."""

    def test_whole(self, store: FileTokenStore, folder: Path) -> None:
        """With its life, scopes and type."""
        saved = token(age=7)
        store.save(OWNER, saved)
        found = FileTokenStore(folder, keys=KEY).load(OWNER)
        assert found is not None
        assert (VALUE, "Bearer", saved.scope, saved.requested_scope, 300.0) == (
            found.value, found.token_type, found.scope, found.requested_scope, found.lifetime
        )  # fmt: skip
        assert abs(saved.ends_at - found.ends_at) < 0.001

    def test_nothing_there(self, store: FileTokenStore, caplog: pytest.LogCaptureFixture) -> None:
        """No token is no reason to warn."""
        assert store.load(OWNER) is None
        assert [] == [r for r in caplog.records if r.levelno >= logging.WARNING]

    def test_at_rest(self, store: FileTokenStore, folder: Path) -> None:
        """Encrypted, mode 0600 in a folder of mode 0700, nothing telling in the names."""
        os.umask(os.umask(0o000))
        store.save(OWNER, token())
        assert 0o700 == stat.S_IMODE(folder.stat().st_mode)
        (path,) = folder.iterdir()
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)
        data = path.read_bytes()
        assert VALUE.encode() not in data
        assert b"system" not in data
        assert "me" not in path.name.removesuffix(".token")

    def test_nothing_secret_is_shown(self, store: FileTokenStore, folder: Path) -> None:
        """Neither in the repr nor in a pickle."""
        assert f"<FileTokenStore {folder}>" == repr(store)
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(store)

    def test_owners_are_apart(self, store: FileTokenStore) -> None:
        """Another client, server, endpoint or scope has nothing of it."""
        store.save(OWNER, token())
        for field in msgspec.structs.fields(OWNER):
            other = msgspec.structs.replace(OWNER, **{field.name: "other"})
            assert store.load(other) is None
            assert OWNER.digest != other.digest

    def test_expired(self, store: FileTokenStore) -> None:
        """An expired token is none."""
        store.save(OWNER, token(age=300))
        assert store.load(OWNER) is None

    def test_never_replaced_by_an_older_one(self, store: FileTokenStore) -> None:
        """A process that was stopped while it renewed comes too late."""
        store.save(OWNER, token("the-newer-one-3310", age=1, lifetime=10))
        store.save(OWNER, token(age=60))
        found = store.load(OWNER)
        assert found is not None
        assert "the-newer-one-3310" == found.value

    def test_left_by_a_killed_process(self, store: FileTokenStore, folder: Path) -> None:
        """What a process left that was killed a while ago, as it wrote, goes with the next save."""
        left = folder / f"{OWNER.digest}.token.x1.tmp"
        left.write_text("half")
        os.utime(left, (time.time() - 100, time.time() - 100))
        store.save(OWNER, token())
        assert [file_of(folder)] == list(folder.iterdir())

    def test_while_another_writes(self, store: FileTokenStore, folder: Path) -> None:
        """What another process is just writing stays."""
        other = folder / f"{OWNER.digest}.token.x1.tmp"
        other.write_text("half")
        store.save(OWNER, token())
        assert {file_of(folder), other} == set(folder.iterdir())


class TestKeys:
    """Secrets, replaced without losing anything."""

    def test_rotation(self, store: FileTokenStore, folder: Path) -> None:
        """The first encrypts, all decrypt; a key that was dropped opens nothing."""
        store.save(OWNER, token())
        both = FileTokenStore(folder, keys=f"{NEW_KEY}\n{KEY}\n")
        assert both.load(OWNER) is not None
        both.save(OWNER, token("the-second-one-4410"))
        assert FileTokenStore(folder, keys=[NEW_KEY]).load(OWNER) is not None
        assert store.load(OWNER) is None

    @pytest.mark.parametrize(
        "keys",
        ["", "short", f"{KEY}x", f"{KEY},nonsense", [], ["ä"]],
        ids=["empty", "short", "too-long", "one-of-two", "none", "not-ascii"],
    )
    def test_no_key(self, folder: Path, keys: Any) -> None:
        """What is no Fernet key is refused, and not repeated."""
        with pytest.raises(ConfigurationError) as caught:
            FileTokenStore(folder, keys=keys)
        assert "store-key-invalid" == caught.value.code
        WATCH.check(str(caught.value), "the error")
        assert "nonsense" not in str(caught.value)


def torn(path: Path) -> None:
    """Cut short."""
    path.write_bytes(path.read_bytes()[:-9])


def flipped(path: Path) -> None:
    """One character of it is another."""
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)


def of_another(path: Path) -> None:
    """Another client's file, under this one's name."""
    store = FileTokenStore(path.parent, keys=KEY)
    other = msgspec.structs.replace(OWNER, client_id="another")
    store.save(other, token())
    shutil.copy(path.parent / f"{other.digest}.token", path)


def of_another_version(path: Path) -> None:
    """Written by a keystay to come."""
    path.write_bytes(Fernet(KEY).encrypt(b'{"version":2,"what":"else"}'))


def of_a_later_version(path: Path) -> None:
    """The same fields with another meaning."""
    record = msgspec.json.decode(Fernet(KEY).decrypt(path.read_bytes())) | {"version": 2}
    path.write_bytes(Fernet(KEY).encrypt(msgspec.json.encode(record)))


def a_link(path: Path) -> None:
    """A symbolic link to a good file."""
    path.rename(path.with_suffix(".elsewhere"))
    path.symlink_to(path.with_suffix(".elsewhere"))


def a_fifo(path: Path) -> None:
    """Something that would be waited for."""
    path.unlink()
    os.mkfifo(path, 0o600)


class TestDistrust:
    """A file that is not beyond doubt is as good as none."""

    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            pytest.param(torn, "torn, foreign, or encrypted with another key", id="torn"),
            pytest.param(flipped, "torn, foreign", id="flipped"),
            pytest.param(lambda p: p.write_bytes(b""), "torn, foreign", id="empty"),
            pytest.param(lambda p: p.write_text("x" * 300_000), "torn, foreign", id="huge"),
            pytest.param(
                lambda p: p.write_bytes(Fernet(NEW_KEY).encrypt(b"{}")), "another key", id="key"
            ),
            pytest.param(of_another, "another client's token", id="other client"),
            pytest.param(of_another_version, "another version", id="version"),
            pytest.param(of_a_later_version, "another version", id="later version"),
            pytest.param(lambda p: p.chmod(0o640), "mode is 0640, not 0600", id="mode"),
            pytest.param(a_link, "not a regular file", id="link"),
            pytest.param(a_fifo, "not a regular file", id="fifo"),
        ],
    )
    def test_discarded(
        self,
        store: FileTokenStore,
        folder: Path,
        spoil: Callable[[Path], object],
        said: str,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """It is not used, one warning says why, and the next token replaces it."""
        store.save(OWNER, token())
        spoil(file_of(folder))
        assert store.load(OWNER) is None
        assert store.load(OWNER) is None
        (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
        assert "store-discarded" == record.__dict__["event"]
        assert said in record.getMessage()
        WATCH.check(record.getMessage(), "the warning")
        store.save(OWNER, token())
        assert store.load(OWNER) is not None

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
    def test_of_another_user(self, store: FileTokenStore, folder: Path) -> None:
        """A file that belongs to somebody else."""
        store.save(OWNER, token())
        os.chown(file_of(folder), 65534, -1)
        assert store.load(OWNER) is None

    def test_after_a_restart_of_the_machine(
        self, store: FileTokenStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A token of before is not used: no clock tells how much of its life is over."""
        store.save(OWNER, token())
        monkeypatch.setattr(file_store, "_clock_identity", lambda: "another boot")
        assert store.load(OWNER) is None

    def test_wall_clock_is_set(self, store: FileTokenStore, folder: Path) -> None:
        """A step of the wall clock changes nothing, forward or back."""
        store.save(OWNER, token())
        for step in (-86400, 86400):
            clock = Clock(SYSTEM_CLOCK.now, time=partial(operator.add, time.time(), step))
            found = FileTokenStore(folder, keys=KEY, clock=clock).load(OWNER)
            assert found is not None
            assert 290 < found.expires_in <= 300

    @pytest.mark.parametrize(("step", "is_used"), [(0, True), (400, False), (-400, True)])
    def test_where_the_boot_is_not_known(
        self,
        store: FileTokenStore,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
        step: int,
        is_used: bool,
    ) -> None:
        """Then both clocks have to agree that it lives."""
        monkeypatch.setattr(file_store, "_clock_identity", lambda: "")
        store.save(OWNER, token())
        clock = Clock(SYSTEM_CLOCK.now, time=lambda: time.time() + step)
        found = FileTokenStore(folder, keys=KEY, clock=clock).load(OWNER)
        assert is_used is (found is not None)
        if found is not None:
            assert found.expires_in <= 300


class TestDiscard:
    """A token that a server rejected."""

    def test_this_one(self, store: FileTokenStore, folder: Path) -> None:
        """It goes."""
        saved = token()
        store.save(OWNER, saved)
        store.discard(OWNER, saved)
        assert store.load(OWNER) is None
        assert not file_of(folder).exists()

    def test_never_another(self, store: FileTokenStore) -> None:
        """Its successor stays."""
        store.save(OWNER, token("the-newer-one-3310"))
        store.discard(OWNER, token())
        assert store.load(OWNER) is not None

    def test_while_somebody_renews(self, store: FileTokenStore) -> None:
        """Nobody waits: it is about to be replaced."""
        saved = token()
        store.save(OWNER, saved)
        claim = store.claim(OWNER, 10)
        assert claim is not None
        began = time.monotonic()
        store.discard(OWNER, saved)
        assert time.monotonic() - began < 1
        claim.release()


class TestClaim:
    """Who may renew."""

    def test_one_at_a_time(self, store: FileTokenStore, folder: Path) -> None:
        """Also within one process; and for each owner apart."""
        claim = store.claim(OWNER, 10)
        assert claim is not None
        assert 0o600 == stat.S_IMODE(file_of(folder, "lock").stat().st_mode)
        assert store.claim(OWNER, 10) is None
        other = store.claim(msgspec.structs.replace(OWNER, client_id="another"), 10)
        assert other is not None
        other.release()
        claim.release()
        claim.release()  # and once more does no harm
        again = store.claim(OWNER, 10)
        assert again is not None
        again.release()

    def test_overdue(self, store: FileTokenStore, caplog: pytest.LogCaptureFixture) -> None:
        """It is taken from one who hangs, with a warning; what he releases is not the new one."""
        first = store.claim(OWNER, 0.05)
        assert first is not None
        second, until = None, time.monotonic() + 30
        while second is None and time.monotonic() < until:
            second = store.claim(OWNER, 10)
            time.sleep(0.02)
        assert second is not None
        assert ["store-lock-broken"] == [
            r.__dict__["event"] for r in caplog.records if r.levelno >= logging.WARNING
        ]
        first.release()
        assert store.claim(OWNER, 10) is None
        second.release()

    def test_taken_up_just_now(
        self, store: FileTokenStore, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A lock that was overdue, and is another's before it is taken away, stays his."""
        hanging = store.claim(OWNER, -1)
        assert hanging is not None
        assert store.claim(OWNER, 10) is None
        time.sleep(1.1)
        real = file_store._lock
        claims: list[Any] = []

        def lock(path: Path) -> Any:
            if path.suffix == ".break":
                hanging.release()
                monkeypatch.setattr(file_store, "_lock", real)
                claims.append(store.claim(OWNER, 10))
            return real(path)

        monkeypatch.setattr(file_store, "_lock", lock)
        assert store.claim(OWNER, 10) is None
        assert store.claim(OWNER, 10) is None
        claims[0].release()

    def test_not_yet_written(self, store: FileTokenStore, folder: Path) -> None:
        """What an earlier holder left in the file is not held against the one who has it now."""
        claim = store.claim(OWNER, 10)
        assert claim is not None
        file_of(folder, "lock").write_text("1.0\n")
        assert store.claim(OWNER, 10) is None
        time.sleep(1.1)
        file_of(folder, "lock").write_text("2.0\n")
        assert store.claim(OWNER, 10) is None
        file_of(folder, "lock").write_text(f"{SYSTEM_CLOCK.now() + 10}\n")
        time.sleep(1.1)
        assert store.claim(OWNER, 10) is None
        claim.release()

    def test_in_a_forked_child(self, folder: Path) -> None:
        """A child has no part in it: not when it ends, not when it releases, not by living on."""
        program = f"""if True:
            import os, time
            from keystay.token_stores.file import FileTokenStore
            from keystay.token_stores.port import TokenOwner
            owner = TokenOwner(
                client_id="me", fhir_base_url="", token_endpoint="", scope=""
            )
            store = FileTokenStore({str(folder)!r}, keys={KEY!r})
            claim = store.claim(owner, 10)
            if not os.fork():
                assert store.claim(owner, 10) is None
                claim.release()
                time.sleep(3)
                os._exit(0)
            time.sleep(1)
            assert store.claim(owner, 10) is None
            claim.release()
            assert store.claim(owner, 10) is not None
        """
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


class TestTrouble:
    """What the machine may do to it."""

    @pytest.mark.parametrize("mode", [0o770, 0o707, 0o777])
    def test_others_can_write(self, folder: Path, mode: int) -> None:
        """A folder in which others can replace files is refused."""
        folder.mkdir()
        folder.chmod(mode)
        with pytest.raises(ConfigurationError, match=f"has mode {mode:04o}") as caught:
            FileTokenStore(folder, keys=KEY)
        assert ("store-unsafe", f"chmod 0700 {folder}") == (caught.value.code, caught.value.hint)

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
    def test_others_own_it(self, folder: Path) -> None:
        """So is one that belongs to somebody else."""
        folder.mkdir()
        os.chown(folder, 65534, -1)
        with pytest.raises(ConfigurationError, match="belongs to user id 65534"):
            FileTokenStore(folder, keys=KEY)

    @pytest.mark.parametrize("where", ["no/such/parent", "file/below"])
    def test_cannot_be_made(self, tmp_path: Path, where: str) -> None:
        """A folder that cannot be made is told at once."""
        (tmp_path / "file").touch()
        with pytest.raises(ConfigurationError) as caught:
            FileTokenStore(tmp_path / where, keys=KEY)
        assert "store-unusable" == caught.value.code

    def test_cannot_be_written(
        self, store: FileTokenStore, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A token that cannot be saved is a warning, once, and leaves nothing behind."""
        file_of(folder).mkdir()
        (file_of(folder) / "x").touch()
        for _ in range(2):
            store.save(OWNER, token())
        (record,) = [r for r in caplog.records if "be written" in r.getMessage()]
        assert "store-failed" == record.__dict__["event"]
        assert [file_of(folder)] == list(folder.iterdir())

    def test_cannot_be_locked(self, store: FileTokenStore, folder: Path) -> None:
        """Then each process renews for itself."""
        file_of(folder, "lock").mkdir()
        claim = store.claim(OWNER, 10)
        assert claim is not None
        claim.release()

    def test_folder_is_gone(self, store: FileTokenStore, folder: Path) -> None:
        """Removed under its feet, it stores nothing, and nobody is stopped by that."""
        folder.rmdir()
        store.save(OWNER, token())
        assert store.load(OWNER) is None
        claim = store.claim(OWNER, 10)
        assert claim is not None
        claim.release()
