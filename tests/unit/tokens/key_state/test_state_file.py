"""The state file: what it refuses to be, and what is left whatever happens to it."""

from __future__ import annotations

import json
import multiprocessing
import stat
from typing import TYPE_CHECKING, Any

import pytest

from keystay.errors import ConfigurationError
from keystay.tokens.key_state.state_file import StateFile
from tests.unit.tokens.key_state.keys import JWKS, key, state

if TYPE_CHECKING:
    from pathlib import Path

STATE = state(key(0, "current"), key(1, "next", asked="file:n.pem"), key(2, "retired"))


@pytest.fixture
def file(tmp_path: Path) -> StateFile:
    """A state file with a state in it."""
    found = StateFile(tmp_path / "keystay-keys", "etl")
    with found.locked():
        found.write(STATE)
    return found


def fault(file: StateFile) -> ConfigurationError:
    """The error of a file that cannot be used: it names the file, and a remedy."""
    with pytest.raises(ConfigurationError) as caught:
        file.read()
    assert str(file.path) in caught.value.message
    assert caught.value.hint
    return caught.value


def edit(file: StateFile, **changes: Any) -> None:
    """Change members of the document."""
    file.path.write_text(json.dumps({**json.loads(file.path.read_text()), **changes}))


class TestContent:
    """What is in it."""

    def test_comes_back(self, file: StateFile) -> None:
        """What was written is read."""
        assert STATE == file.read()

    def test_for_people(self, file: StateFile) -> None:
        """Indented JSON, times in UTC, readable by every user of the client, not writable."""
        text = file.path.read_text()
        assert '\n      "since": "2026-11-24T12:00:00Z",\n' in text
        assert 0o644 == stat.S_IMODE(file.path.stat().st_mode)

    def test_no_file(self, tmp_path: Path) -> None:
        """No rotation was ever begun."""
        assert (None, None) == (
            StateFile(tmp_path / "keystay-keys", "x").read(),
            StateFile(tmp_path / "keystay-keys", "x").stamp(),
        )

    @pytest.mark.parametrize("name", ["../etc", "a/b", ".", "..", "é", "x.json"])
    def test_any_name_stays_in_the_folder(self, tmp_path: Path, name: str) -> None:
        """A client's name is no path."""
        assert tmp_path / "keystay-keys" == StateFile(tmp_path / "keystay-keys", name).path.parent
        assert StateFile(tmp_path / "keystay-keys", name).path.name.endswith(".json")

    def test_each_state_has_a_stamp(self, file: StateFile) -> None:
        """A new state is noticed, also within one tick of the clock."""
        first = file.stamp()
        file.write(state(key(1, "current")))
        assert first != file.stamp()


class TestRefused:
    """What is not a state of ours."""

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "[]",
            "null",
            '{"keys": []}',
            "\xff",
            "[" * 100_000,
            '{"keystay_rotation": true}',
        ],
    )
    def test_foreign(self, file: StateFile, text: str) -> None:
        """Something else."""
        file.path.write_bytes(text.encode("latin-1"))
        assert "rotation-state-invalid" == fault(file).code

    @pytest.mark.parametrize(
        ("changes", "why"),
        [
            ({"keys": []}, "0 keys are current"),
            ({"more": 1}, "unknown field `more`"),
            ({"client": "other"}, "the client 'other'"),
            ({"keys": [1]}, "Expected `object`"),
        ],
    )
    def test_edited(self, file: StateFile, changes: dict[str, Any], why: str) -> None:
        """By hand, and wrongly."""
        edit(file, **changes)
        assert why in fault(file).message

    @pytest.mark.parametrize(
        "change",
        [
            {"state": "next"}, {"state": "gone"}, {"since": "yesterday"}, {"uri": "no uri"},
            {"kid": "other"}, {"jwk": {**JWKS[0], "d": "AA"}}, {"jwk": JWKS[1]}, {"jwk": None},
            {"since": "2026-11-24T12:00:00"}, {"seen": "2026-11-24T12:00:00"},
            {"jwk": {"kty": "oct", "kid": JWKS[0]["kid"]}}, {"uri": "pkcs11:token=a?pin-value=1"},
        ],
    )  # fmt: skip
    def test_edited_key(self, file: StateFile, change: dict[str, Any]) -> None:
        """A key that cannot be, a private one above all."""
        keys = json.loads(file.path.read_text())["keys"]
        edit(file, keys=[{**keys[0], **change}, *keys[1:]])
        assert "rotation-state-invalid" == fault(file).code

    def test_newer(self, file: StateFile) -> None:
        """A newer keystay's: what it means is not guessed at."""
        edit(file, keystay_rotation=2, surprise=True)
        error = fault(file)
        assert "rotation-state-newer" == error.code
        assert "pip install --upgrade keystay" in (error.hint or "")

    def test_everybody_can_write_it(self, file: StateFile) -> None:
        """Whoever writes it chooses the keys."""
        file.path.chmod(0o666)
        assert "rotation-state-unsafe" == fault(file).code

    def test_a_folder(self, tmp_path: Path) -> None:
        """Not a file at all."""
        file = StateFile(tmp_path / "keystay-keys", "etl")
        file.path.mkdir(parents=True)
        assert "rotation-state-unreadable" == fault(file).code


def hold(folder: Path, held: Any, release: Any) -> None:
    """Take the lock in another process."""
    with StateFile(folder / "keystay-keys", "etl").locked():
        held.set()
        release.wait(30)


class TestLock:
    """One process at a time."""

    def test_other_process(self, file: StateFile, tmp_path: Path) -> None:
        """Waits, then says who is in the way; a process that is killed lets go."""
        spawn = multiprocessing.get_context("spawn")
        held, release = spawn.Event(), spawn.Event()
        other = spawn.Process(target=hold, args=(tmp_path, held, release))
        other.start()
        try:
            assert held.wait(30)
            with pytest.raises(ConfigurationError) as caught, file.locked(timeout=0.2):
                pass
            assert "rotation-locked" == caught.value.code
            assert STATE == file.read()
        finally:
            other.kill()
            other.join()
        with file.locked(timeout=5):
            file.write(STATE)

    def test_what_the_killed_leave_is_removed(self, file: StateFile) -> None:
        """A temporary file of a writer that is no more."""
        left = file.path.with_name(f".{file.path.name}-abc")
        left.write_text("half")
        file.write(STATE)
        assert not left.exists()

    def test_unwritable(self, file: StateFile, monkeypatch: pytest.MonkeyPatch) -> None:
        """A full disk leaves the state as it was."""
        import os

        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "replace", full)
        with pytest.raises(ConfigurationError, match="No space left") as caught:
            file.write(state(key(1, "current")))
        assert "rotation-state-unwritable" == caught.value.code
        assert STATE == file.read()
        assert ["etl.json", "etl.json.lock"] == sorted(p.name for p in file.path.parent.iterdir())
