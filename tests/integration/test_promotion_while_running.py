"""A token client that runs while its key is rotated, and one that must not sign unpublished."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import keystay
from keystay.concurrency.clock import Deadline
from keystay.errors import ConfigurationError, KeyNotFoundError, KeystayError, SignerClosedError
from keystay.ops.publishing.source import KeySource
from keystay.ops.rotation.rotation import Rotation
from keystay.tokens.key_state.client_keys import ClientKeys, published_keys
from keystay.tokens.key_state.rotating_signer import RotatingSigner
from keystay.tokens.key_state.state_file import StateFile
from tests.support.token_clients import CLIENT_ID, SCOPE

if TYPE_CHECKING:
    from pathlib import Path

    from keystay.testing import SmartTestServer

pytestmark = pytest.mark.usefixtures("no_environment")


@pytest.fixture
def config(tmp_path: Path, smart_server: SmartTestServer) -> keystay.Config:
    """A client of the strict server, which fetches the set each time."""
    (tmp_path / "keystay.toml").write_text(
        f'[clients.etl]\nfhir_base_url = "{smart_server.fhir_base_url}"\n'
        f'client_id = "{CLIENT_ID}"\nkey = "file:client.pem"\nscope = "{SCOPE}"\n'
        f'jwks_url = "{smart_server.origin}/jwks.json"\nallow_insecure_loopback = true\n'
        "[policy]\nrequire_published = false\n"
    )
    found = keystay.load_config(tmp_path / "keystay.toml", environ={})
    make_key(found, "file:client.pem")
    url = publish(smart_server, found)
    smart_server.register(CLIENT_ID, jwks_uri=url, jwks_max_age=0)
    return found


def make_key(config: keystay.Config, uri: str) -> None:
    """Make a key in a file."""
    from keystay.ops.rotation.successor import Stores, find_or_make

    find_or_make(Stores(config), uri, "P-384", before_making=lambda: None)


def publish(server: SmartTestServer, config: keystay.Config, max_age: int = 0) -> str:
    """Publish the set as it has to be now."""
    return server.publish(
        "/jwks.json",
        published_keys(config).to_dict(),
        headers={"Cache-Control": f"max-age={max_age}"},
    )


def _fails(_: StateFile) -> None:
    """A state file that cannot be read just now."""
    raise ConfigurationError("The key state cannot be read: Too many open files.")


def strict(config: keystay.Config) -> keystay.Config:
    """The same with require_published."""
    assert config.path is not None
    text = config.path.read_text().replace("published = false", "published = true")
    config.path.write_text(text)
    return keystay.load_config(config.path, environ={})


def promoted(config: keystay.Config, server: SmartTestServer) -> str:
    """Rotate as far as the promotion; the new kid."""
    rotation = Rotation(config)
    rotation.start()
    publish(server, config)
    return str(rotation.promote(drain=0, force=True).current.kid)


def kids(server: SmartTestServer) -> list[str]:
    """Of the assertions so far."""
    return [event.header["kid"] for event in server.log.of("token") if event.header]


class TestPromotion:
    """Noticed before the next request, in whichever way that is made."""

    def test_no_restart(self, config: keystay.Config, smart_server: SmartTestServer) -> None:
        """The token kept stays good; the next one is asked for with the new key."""
        with keystay.TokenClient.from_config(config=config) as client:
            kept = client.token()
            old = client.signer
            new = promoted(config, smart_server)
            assert kept is client.token()
            client.request_token()
            assert new == kids(smart_server)[-1] == client.signer.kid
            with pytest.raises(SignerClosedError):
                old.sign(b"")
        with pytest.raises(SignerClosedError):
            client.signer.sign(b"")

    async def test_async(
        self, config: keystay.Config, smart_server: SmartTestServer, anyio_backend_name: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """However long the new key takes to open, the event loop goes on."""
        async with keystay.AsyncTokenClient.from_config(config=config) as client:
            await client.token()
            new = promoted(config, smart_server)
            open_, busy = ClientKeys.open, threading.Event()

            def slowly(*arguments: Any) -> Any:
                busy.set()
                time.sleep(0.5)
                busy.clear()
                return open_(*arguments)

            monkeypatch.setattr(ClientKeys, "open", slowly)
            ticks = 0
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(client.request_token)
                while new not in kids(smart_server):
                    ticks += busy.is_set()
                    await anyio.sleep(0.01)
        assert ticks > 5

    def test_requests_under_way_keep_their_key(
        self, config: keystay.Config, smart_server: SmartTestServer
    ) -> None:
        """It is closed after the last of them, and not before."""
        source = RotatingSigner(ClientKeys(config))
        with source.lease() as first, source.lease() as again:
            assert first is again
            new = promoted(config, smart_server)
            assert first is source.signer
            source.refresh(Deadline.after(10))
            with source.lease() as second:
                assert new == second.kid != first.kid
            first.sign(b"still open")
        with pytest.raises(SignerClosedError):
            first.sign(b"")
        with source.lease() as second:
            source.close()
            second.sign(b"still open")
        with pytest.raises(SignerClosedError):
            second.sign(b"")

    def test_new_key_cannot_be_opened(
        self, config: keystay.Config, smart_server: SmartTestServer, tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        """While the old key is published it goes on, with a warning; after that it is an error."""
        with keystay.TokenClient.from_config(config=config) as client:
            old = client.signer.kid
            promoted(config, smart_server)
            (new,) = set(tmp_path.glob("client-*.pem"))
            new.rename(tmp_path / "away")
            client.request_token()
            assert old == kids(smart_server)[-1]
            assert any("going on with the key" in message for message in caplog.messages)
            Rotation(config).finish()
            with pytest.raises(KeyNotFoundError):
                client.request_token()
            (tmp_path / "away").rename(new)
            client.request_token()
            assert old != kids(smart_server)[-1]

    def test_state_is_broken(
        self, config: keystay.Config, smart_server: SmartTestServer, tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        """A client that runs goes on and says so; one that is made now does not begin."""
        with keystay.TokenClient.from_config(config=config) as client:
            new = promoted(config, smart_server)
            file = tmp_path / "keystay-keys" / "etl.json"
            whole = file.read_text()
            file.write_text("{")
            client.request_token()
            assert any("going on with the key" in message for message in caplog.messages)
            with pytest.raises(ConfigurationError, match="cannot be used"):
                keystay.TokenClient.from_config(config=config)
            file.write_text(whole)
            client.request_token()
            assert new == kids(smart_server)[-1]

    def test_state_is_gone(
        self, config: keystay.Config, smart_server: SmartTestServer, tmp_path: Path,
        caplog: pytest.LogCaptureFixture,
    ) -> None:  # fmt: skip
        """Neither client nor publisher goes back to the key that its old keystay.toml names."""
        source = KeySource(config)
        with keystay.TokenClient.from_config(config=config) as client:
            new = promoted(config, smart_server)
            Rotation(config).finish()
            client.request_token()
            published = source.keys()
            assert [new] == [key["kid"] for key in published]
            (tmp_path / "keystay-keys" / "etl.json").rename(tmp_path / "away")
            client.request_token()
            assert new == kids(smart_server)[-1]
            assert published == source.keys()
        said = [record.event for record in caplog.records if "is gone" in record.getMessage()]  # type: ignore[attr-defined]
        assert ["rotation-not-followed", "keys-not-followed"] == said

    def test_state_cannot_be_read_once(
        self, config: keystay.Config, smart_server: SmartTestServer, tmp_path: Path
    ) -> None:
        """A publisher that failed to read a new state looks again: retired keys do not stay."""
        source = KeySource(config)
        new = promoted(config, smart_server)
        assert 2 == len(source.keys())
        Rotation(config).finish()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(StateFile, "read", _fails)
            assert 2 == len(source.keys())
        after = source.keys()
        assert [new] == [key["kid"] for key in after]

    def test_folder_left(
        self, config: keystay.Config, smart_server: SmartTestServer, tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """A daemon that goes to / follows a keystay.toml that was named without its folder."""
        monkeypatch.chdir(tmp_path)
        here = keystay.load_config(environ={})
        with keystay.TokenClient.from_config(config=here) as client:
            monkeypatch.chdir("/")
            new = promoted(config, smart_server)
            client.request_token()
            assert new == kids(smart_server)[-1]

    def test_toml_edited_meanwhile(
        self, config: keystay.Config, smart_server: SmartTestServer
    ) -> None:
        """A client that runs with an older keystay.toml follows two rotations all the same."""
        assert config.path is not None
        with keystay.TokenClient.from_config(config=config) as client:
            for number in (1, 2):
                now = keystay.load_config(config.path, environ={})
                rotation = Rotation(now)
                rotation.start(f"file:k{number}.pem")
                publish(smart_server, now)
                rotation.promote(drain=0, force=True)
                rotation.finish()
                publish(smart_server, now)
                text = config.path.read_text()
                key = "client" if number == 1 else "k1"
                config.path.write_text(text.replace(f"file:{key}.pem", f"file:k{number}.pem"))
                client.request_token()
                state = rotation.state()
                assert state is not None
                assert state.current.kid == kids(smart_server)[-1]

    def test_forked_child(self, config: keystay.Config, smart_server: SmartTestServer) -> None:
        """A worker that was forked before the promotion follows it, too."""
        with keystay.TokenClient.from_config(config=config) as client:
            new = promoted(config, smart_server)
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    client.request_token()
                    code = 0 if client.signer.kid == new else 2
                finally:
                    os._exit(code)
            assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class TestRequirePublished:
    """No signature by a key that the server could not find."""

    def refused(
        self, client: keystay.TokenClient, server: SmartTestServer, kind: type[KeystayError]
    ) -> KeystayError:
        """The error of a client that does not sign."""
        before = len(server.log.of("token"))
        with pytest.raises(kind) as caught:
            client.request_token()
        assert before == len(server.log.of("token"))
        return caught.value

    @pytest.mark.parametrize(("max_age", "looks"), [(0, 3), (3600, 1)])
    def test_published(
        self, config: keystay.Config, smart_server: SmartTestServer, max_age: int, looks: int
    ) -> None:
        """Looked at before each signature, as often as its Cache-Control wants."""
        publish(smart_server, config, max_age)
        smart_server.log.clear()
        with keystay.TokenClient.from_config(config=strict(config)) as client:
            for _ in range(3):
                client.request_token()
        # The server fetches it as well, for each of the three.
        assert looks + 3 == len(
            [e for e in smart_server.log.of("document") if e.path == "/jwks.json"]
        )

    async def test_async(
        self, config: keystay.Config, smart_server: SmartTestServer, anyio_backend_name: str
    ) -> None:
        """The same for tasks."""
        smart_server.publish("/jwks.json", {"keys": []})
        async with keystay.AsyncTokenClient.from_config(config=strict(config)) as client:
            with pytest.raises(KeystayError, match="is not published at"):
                await client.request_token()

    def test_forced_promotion(self, config: keystay.Config, smart_server: SmartTestServer) -> None:
        """A key that was promoted too early does not sign until it is there."""
        with keystay.TokenClient.from_config(config=strict(config)) as client:
            client.request_token()
            rotation = Rotation(config)
            rotation.start()
            rotation.promote(force=True)
            error = self.refused(client, smart_server, KeystayError)
            assert ("key-not-published", 3) == (error.code, error.exit_code)
            publish(smart_server, config)
            client.request_token()

    def test_url_does_not_answer(
        self, config: keystay.Config, smart_server: SmartTestServer
    ) -> None:
        """In doubt nothing is signed."""
        (config.path or config.base_dir).write_text(
            (config.path or config.base_dir).read_text().replace("/jwks.json", "/none.json")
        )
        with keystay.TokenClient.from_config(config=strict(config)) as client:
            assert "jwks-unavailable" == self.refused(client, smart_server, KeystayError).code

    def test_no_url(self, config: keystay.Config) -> None:
        """Where to look has to be known when the client is made."""
        assert config.path is not None
        config.path.write_text(config.path.read_text().replace("jwks_url", "# jwks_url"))
        with pytest.raises(ConfigurationError) as caught:
            keystay.TokenClient.from_config(config=strict(config))
        assert "rotation-url-missing" == caught.value.code
