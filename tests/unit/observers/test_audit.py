"""The audit file: one line each, whoever rotates it, and what if it cannot be written."""

from __future__ import annotations

import json
import os
import resource
import stat
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

import keystay
from keystay.errors import KeystayError, ObserverError
from keystay.observers import Observers
from keystay.observers.audit import AuditObserver
from keystay.signer import Signer
from tests.support.secrets_watch import WATCH
from tests.support.token_clients import CLIENT_ID, SCOPE, client_settings
from tests.unit.fakes import FakeKey

if TYPE_CHECKING:
    from pathlib import Path

    from keystay.testing import SmartTestServer

pytestmark = pytest.mark.usefixtures("no_environment")


def lines(path: Path) -> list[dict[str, Any]]:
    """The file's lines, each of which is a JSON object."""
    text = path.read_text()
    assert text.endswith("\n")
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the audit file is."""
    return tmp_path / "audit.jsonl"


def audited(path: Path, *, fsync: bool = False) -> Signer:
    """A signer whose signatures are audited, each or none."""
    observers = Observers(required=[AuditObserver(path, fsync=fsync)])
    return Signer(FakeKey(), backend="demo", observers=observers)


class TestLines:
    """What is written."""

    def test_signature_and_token(
        self, path: Path, pem_file: Path, registered: SmartTestServer
    ) -> None:
        """A token leaves two lines that share its jti, and nothing secret."""
        observers = Observers(required=[AuditObserver(path)])
        with (
            keystay.open_signer(f"file:{pem_file}", observers=observers) as signer,
            keystay.TokenClient(**client_settings(signer, registered)) as client,
        ):
            token = client.token()
        signature, issued = lines(path)
        assert {
            "event": "assertion-signed",
            "outcome": "ok",
            "backend": "file",
            "kid": signer.kid,
            "key_id": signer.key_id,
            "algorithm": "ES384",
            "custody": "in-process",
            "request_id": None,
            "client_id": CLIENT_ID,
            "aud": registered.token_endpoint,
            "pid": os.getpid(),
        }.items() <= signature.items()
        assert {
            "event": "token-issued",
            "outcome": "ok",
            "client_id": CLIENT_ID,
            "fhir_base_url": registered.fhir_base_url,
            "kid": signer.kid,
            "aud": registered.token_endpoint,
            "jti": signature["jti"],
            "scope": SCOPE,
            "status": 200,
            "custody": "in-process",
            "backend": "file",
            "algorithm": "ES384",
        }.items() <= issued.items()
        claims = registered.log.of("token")[0].claims
        assert claims is not None
        assert claims["jti"] == signature["jti"]
        for line in (signature, issued):
            assert 0 < line["duration"] < 60
            age = datetime.now(UTC) - datetime.fromisoformat(line["time"])
            assert timedelta(0) <= age < timedelta(minutes=1)
            assert line["time"].endswith("Z")
        assert token.value not in path.read_text()
        WATCH.check(path.read_text(), "the audit file")

    async def test_request_id(self, path: Path, smart_server: SmartTestServer) -> None:
        """A key service's id of the request is in the signature's line and in its token's."""

        class Kms(FakeKey):
            def sign(self, request: Any) -> Any:
                return super().sign(request)._replace(request_id=f"req-{len(self.calls)}")

        signer = Signer(Kms(), observers=Observers(required=[AuditObserver(path)]))
        smart_server.register(CLIENT_ID, jwks=keystay.JWKSet.from_signers([signer]))
        with keystay.TokenClient(**client_settings(signer, smart_server)) as client:
            client.token()
        async with keystay.AsyncTokenClient(**client_settings(signer, smart_server)) as tasks:
            await tasks.token()
        told = [(line["event"], line["request_id"]) for line in lines(path)]
        events = ("assertion-signed", "token-issued")
        assert told == [(event, f"req-{n}") for n in (1, 2) for event in events]

    def test_refusal(self, path: Path, pem_file: Path, smart_server: SmartTestServer) -> None:
        """A refused request leaves a line with the error's code and what the server said."""
        observers = Observers(required=[AuditObserver(path)])
        with (
            keystay.open_signer(f"file:{pem_file}", observers=observers) as signer,
            keystay.TokenClient(**client_settings(signer, smart_server)) as client,
            pytest.raises(KeystayError) as caught,
        ):
            client.token()
        _, failed = lines(path)
        assert {
            "event": "token-failed",
            "outcome": caught.value.code,
            "error": "invalid_client",
            "status": 401,
        }.items() <= failed.items()

    def test_mode(self, path: Path) -> None:
        """It is made for its owner alone."""
        audited(path).sign(b"x")
        assert 0o600 == stat.S_IMODE(path.stat().st_mode)

    def test_fsync(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """When asked to, it waits for the disk after each line."""
        synced: list[int] = []
        monkeypatch.setattr(os, "fsync", synced.append)
        audited(path).sign(b"x")
        assert [] == synced
        audited(path, fsync=True).sign(b"x")
        assert 1 == len(synced)

    def test_processes(self, path: Path) -> None:
        """Eight processes write three hundred lines each: all there, all whole."""
        program = f"""if True:
            from keystay.observers import MessageSigned, Observers
            from keystay.observers.audit import AuditObserver
            observers = Observers(required=[AuditObserver({str(path)!r})])
            for number in range(300):
                observers.emit(MessageSigned(
                    backend="x", kid="k" * (number * 13 % 4000), key_id=str(number),
                    algorithm="ES384", custody="hardware",
                ))
        """
        processes = [subprocess.Popen([sys.executable, "-c", program]) for _ in range(8)]
        assert {0} == {process.wait(60) for process in processes}
        found = lines(path)
        assert 2400 == len({(line["pid"], line["key_id"]) for line in found}) == len(found)


class TestRotation:
    """Nobody has to tell us."""

    def test_renamed(self, path: Path) -> None:
        """The next line goes to a new file."""
        signer = audited(path)
        signer.sign(b"x")
        path.rename(path.with_suffix(".1"))
        signer.sign(b"x")
        assert [1, 1] == [len(lines(p)) for p in (path, path.with_suffix(".1"))]

    def test_copied_and_truncated(self, path: Path) -> None:
        """The next line is the first, without a hole before it."""
        signer = audited(path)
        signer.sign(b"x")
        os.truncate(path, 0)
        signer.sign(b"x")
        assert 1 == len(lines(path))


class TestTrouble:
    """The file cannot be written."""

    def test_no_folder(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """Required, nothing is signed; otherwise a warning says why."""
        path = tmp_path / "none" / "audit.jsonl"
        with pytest.raises(ObserverError, match="No such file or directory"):
            audited(path).sign(b"x")
        Signer(FakeKey(), observers=Observers(AuditObserver(path))).sign(b"x")
        assert "No such file or directory" in caplog.text

    def test_required_for_tokens(
        self, tmp_path: Path, pem_file: Path, registered: SmartTestServer
    ) -> None:
        """A token whose line cannot be written is nobody's; once repaired, all is well."""
        folder = tmp_path / "log"
        observers = Observers(required=[TokensOnly(folder / "audit.jsonl")])
        with (
            keystay.open_signer(f"file:{pem_file}", observers=observers) as signer,
            keystay.TokenClient(**client_settings(signer, registered)) as client,
        ):
            with pytest.raises(ObserverError) as caught:
                client.token()
            assert ("observer-failed", 2) == (caught.value.code, caught.value.exit_code)
            assert client._cache.token is None
            folder.mkdir()
            client.token()

    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda p: p.mkdir(), "Is a directory"),
            (lambda p: p.symlink_to("elsewhere"), "Too many levels of symbolic links"),
            (lambda p: os.mkfifo(p, 0o600), "is not a regular file"),
            (lambda p: (p.touch(), p.chmod(0o666)), "has mode 0666. Others can change it."),
        ],
    )
    def test_not_a_safe_file(self, path: Path, spoil: Any, said: str) -> None:
        """Something in its place is not written to."""
        spoil(path)
        with pytest.raises(ObserverError, match=said):
            audited(path).sign(b"x")

    def test_full_disk(self, path: Path) -> None:
        """What fits of a line stays a line of its own; then it goes on."""
        signer = audited(path)
        signer.sign(b"x")
        size = path.stat().st_size
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, hard))
        try:
            with pytest.raises(ObserverError, match="took 20 of"):
                signer.sign(b"x")
            with pytest.raises(ObserverError, match="File too large"):
                signer.sign(b"x")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signer.sign(b"x")
        first, half, last = path.read_text().splitlines()
        assert json.loads(first).keys() == json.loads(last).keys()
        assert 20 == len(half)


class TokensOnly(AuditObserver):
    """Audits tokens alone."""

    @keystay.hookimpl
    def keystay_assertion_signed(self, event: Any) -> None:
        """Nothing."""
