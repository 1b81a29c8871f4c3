"""One token for the processes of a machine: who asks for it, and what if that process dies."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from cryptography.fernet import Fernet

import keystay
from keystay.testing import Reply, SmartTestServer
from keystay.token_stores.file import FileTokenStore
from tests.support.client_process import ClientProcess
from tests.support.secrets_watch import WATCH
from tests.support.token_clients import CLIENT_ID, client_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keystay.signer import Signer
    from tests.support.token_clients import MakeClient

pytestmark = pytest.mark.usefixtures("no_environment")

PROCESSES = 16
STORE = """
from keystay.concurrency.clock import SYSTEM_CLOCK
from keystay.token_stores.file import FileTokenStore
store = FileTokenStore(sys.argv[4], keys=os.environ["STORE_KEY"])
def say(word):
    print(word, flush=True)
    sys.stdin.readline()
client = make(token_endpoint=sys.argv[2], store=store, **eval(sys.argv[5]))
"""


@pytest.fixture
def key() -> str:
    """A store's key."""
    return WATCH.add("the key of a shared store", Fernet.generate_key().decode())


class Fleet:
    """Processes that share a store, led step by step."""

    def __init__(self, client_process: ClientProcess, folder: Path, key: str) -> None:
        self._client_process, self._folder, self._key = client_process, folder, key
        self.stack = contextlib.ExitStack()

    def start(self, program: str, **settings: Any) -> subprocess.Popen[str]:
        """Start one, with these settings of its client; it ends with the test."""
        command = self._client_process.command(STORE + program, str(self._folder), repr(settings))
        process = self.stack.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env={"STORE_KEY": self._key, "PATH": "/usr/bin:/bin"},
            )
        )
        self.stack.callback(process.kill)
        return process

    @staticmethod
    def heard(process: subprocess.Popen[str]) -> str:
        """The next word it says."""
        assert process.stdout is not None
        word = process.stdout.readline().strip()
        if not word:
            process.kill()
            raise AssertionError(process.communicate()[1])
        return word

    @staticmethod
    def go_on(*processes: subprocess.Popen[str]) -> None:
        """Let them go on, all at once."""
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()

    @staticmethod
    def ended(process: subprocess.Popen[str]) -> str:
        """What it wrote to stderr, after it has ended well."""
        _, errors = process.communicate(timeout=60)
        assert 0 == process.returncode, errors
        WATCH.check(errors, "what a process printed")
        return errors


@pytest.fixture
def fleet(client_process: ClientProcess, tmp_path: Path, key: str) -> Iterator[Fleet]:
    """Processes that share a store."""
    made = Fleet(client_process, tmp_path / "tokens", key)
    with made.stack:
        yield made


SAYS = """
import hashlib
def of(token):
    assert not token.expired
    return hashlib.sha256(token.value.encode()).hexdigest()
"""


class TestOneRequest:
    """However many processes ask."""

    def test_first_use_and_expiry(self, fleet: Fleet, registered: SmartTestServer) -> None:
        """Sixteen processes at once, when there is no token and when it has expired: one each."""
        registered.authorization_server.token_lifetime = 3
        program = (
            SAYS
            + """
say("ready")
first = client.token()
print(of(first), flush=True)
time.sleep(max(0.0, first.ends_at - SYSTEM_CLOCK.now()))
print(of(client.token()), flush=True)
client.close()
"""
        )
        processes = [fleet.start(program) for _ in range(PROCESSES)]
        assert {"ready"} == {fleet.heard(process) for process in processes}
        fleet.go_on(*processes)
        assert 1 == len({fleet.heard(process) for process in processes})
        assert 1 == len(registered.log.of("token"))
        assert 1 == len({fleet.heard(process) for process in processes})
        assert 2 == len(registered.log.of("token"))
        assert {""} == {fleet.ended(process) for process in processes}

    def test_threads_and_tasks(
        self, registered: SmartTestServer, make_client: MakeClient, tmp_path: Path, key: str,
        pem_signer: Signer,
    ) -> None:  # fmt: skip
        """A synchronous and an asynchronous client of their own, by one store: one request."""
        store = FileTokenStore(tmp_path / "tokens", keys=key)
        client = make_client(registered, store=store)
        values = {client.token().value}

        async def work() -> None:
            settings = client_settings(pem_signer, registered, store=store)
            async with keystay.AsyncTokenClient(**settings) as other:
                values.add((await other.token()).value)

        anyio.run(work)
        anyio.run(work, backend="trio")
        assert (1, 1) == (len(values), len(registered.log.of("token")))

    def test_discovery_is_not_needed(
        self, registered: SmartTestServer, make_client: MakeClient, tmp_path: Path, key: str
    ) -> None:
        """A process that finds a token asks nobody anything."""
        store = FileTokenStore(tmp_path / "tokens", keys=key)
        make_client(registered, store=store).token()
        before = len(registered.log)
        make_client(registered, store=store).token()
        assert before == len(registered.log)

    def test_others_use_the_old_one(self, fleet: Fleet, registered: SmartTestServer) -> None:
        """While one process renews, another has the old token at once."""
        registered.authorization_server.token_lifetime = 20
        program = (
            SAYS
            + """
first = client.token()
say(of(first))
client._cache.refresh_after = 0.0
client._cache.__class__.is_fresh = lambda self, token: token.value != first.value
say("asking")
began = time.monotonic()
found = client.token()
print(of(found), time.monotonic() - began < 1.0, flush=True)
client.close()
"""
        )
        one = fleet.start(program)
        old = fleet.heard(one)
        other = fleet.start(program)
        assert old == fleet.heard(other)
        fleet.go_on(one, other)
        assert ["asking"] * 2 == [fleet.heard(one), fleet.heard(other)]
        registered.script(registered.token_endpoint, [Reply(500, delay=2.0)])
        fleet.go_on(one)
        wait_for(lambda: bool(registered.log.of("scripted")))
        fleet.go_on(other)
        assert f"{old} True" == fleet.heard(other)


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds."""
    until = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


class TestDeath:
    """The process that renews dies or hangs."""

    PROGRAM = (
        SAYS
        + """
say("ready")
began = time.monotonic()
token = client.token()
print(of(token), round(time.monotonic() - began, 2), flush=True)
client.close()
"""
    )

    @pytest.mark.parametrize(("number", "longest"), [(signal.SIGKILL, 4.0), (signal.SIGSTOP, 8.0)])
    def test_others_go_on(
        self, fleet: Fleet, registered: SmartTestServer, number: signal.Signals, longest: float
    ) -> None:
        """Killed, they go on at once; stopped, as soon as its time is over. One request more."""
        holder = fleet.start(self.PROGRAM, timeout=1.5)
        others = [fleet.start(self.PROGRAM) for _ in range(4)]
        assert {"ready"} == {fleet.heard(process) for process in (holder, *others)}
        registered.script(registered.token_endpoint, [Reply(500, delay=20.0)])
        fleet.go_on(holder)
        wait_for(lambda: bool(registered.log.of("scripted")))
        fleet.go_on(*others)
        time.sleep(0.3)  # so that they wait for it; it makes no difference if one does not yet
        holder.send_signal(number)
        said = [fleet.heard(process).split() for process in others]
        assert 1 == len({value for value, _ in said})
        assert max(float(seconds) for _, seconds in said) < longest
        assert 1 == len(registered.log.of("token"))
        warnings = "".join(fleet.ended(process) for process in others)
        assert (number == signal.SIGSTOP) is ("hangs; its lock was taken from it" in warnings)


class TestInterrupted:
    """Code that needs a token while its own thread is renewing the shared one."""

    def test_signal_handler(
        self, client_process: ClientProcess, registered: SmartTestServer, tmp_path: Path, key: str
    ) -> None:
        """It does not wait for the claim that the renewal it interrupted has."""
        registered.script(registered.token_endpoint, [Reply(500, delay=3.0)])
        program = """
inside = []
def handler(*_):
    began = time.monotonic()
    inside.append((client.token(), time.monotonic() - began))
signal.signal(signal.SIGUSR1, handler)
while_renewing(client, lambda: os.kill(os.getpid(), signal.SIGUSR1))
outside = client.token()  # its own request fails; what the handler got is there
(token, took), = inside
print(outside is token, took < 4, client.token() is token)
client.close()
"""
        folder, env = str(tmp_path / "tokens"), {"STORE_KEY": key}
        done = client_process.run(STORE + program, folder, "{}", env=env)
        assert "True True True\n" == done.stdout
        assert "could not be renewed" in done.stderr
        assert 1 == len(registered.log.of("token"))

    async def test_call_from_a_coroutine(
        self, registered: SmartTestServer, make_client: MakeClient, tmp_path: Path, key: str
    ) -> None:
        """Nor does a synchronous call in the event loop, whose task is renewing."""
        store = FileTokenStore(tmp_path / "tokens", keys=key)
        client = make_client(registered, store=store)
        registered.script(registered.token_endpoint, [Reply(500, delay=1.0)])
        async with client.as_async() as tasks, anyio.create_task_group() as group:
            group.start_soon(tasks.token)
            while not registered.log.of("scripted"):  # noqa: ASYNC110
                await anyio.sleep(0.01)
            began = time.monotonic()
            token = client.token()
            assert time.monotonic() - began < 4
        assert client.token() is token
        assert 1 == len(registered.log.of("token"))


class TestRejection:
    """A token that a FHIR server answers with 401."""

    def test_dropped_for_all(
        self, registered: SmartTestServer, make_client: MakeClient, tmp_path: Path, key: str
    ) -> None:
        """It goes from the store; a client that comes later never sees it."""
        store = FileTokenStore(tmp_path / "tokens", keys=key)
        first, second = (make_client(registered, store=store) for _ in range(2))
        token = first.token()
        first.invalidate(token)
        assert token.value != second.token().value
        assert 2 == len(registered.log.of("token"))

    def test_never_a_newer_one(
        self, registered: SmartTestServer, make_client: MakeClient, tmp_path: Path, key: str
    ) -> None:
        """A late rejection leaves alone what another process has got meanwhile, and takes it."""
        store = FileTokenStore(tmp_path / "tokens", keys=key)
        first, second = (make_client(registered, store=store) for _ in range(2))
        token, same = first.token(), second.token()
        assert token.value == same.value
        first.invalidate(token)
        newer = first.token()
        second.invalidate(same)
        assert newer.value == second.token().value
        assert 2 == len(registered.log.of("token"))

    def test_same_object(
        self, registered: SmartTestServer, make_client: MakeClient, tmp_path: Path, key: str
    ) -> None:
        """A token looked up again is the very one that callers hold: a 401 on it counts."""
        store = FileTokenStore(tmp_path / "tokens", keys=key)
        client = make_client(registered, store=store)
        token = client.token()
        client._cache.refresh_after = 0.0
        assert client.token() is token
        assert 1 == len(registered.log.of("token"))

    def test_through_auth(
        self, registered: SmartTestServer, make_client: MakeClient, tmp_path: Path, key: str
    ) -> None:
        """Revoked tokens: each process recovers by itself, with one request for both."""
        import httpx

        store = FileTokenStore(tmp_path / "tokens", keys=key)
        clients = [make_client(registered, store=store) for _ in range(2)]
        url = f"{registered.fhir_base_url}/Patient/123"
        with contextlib.ExitStack() as stack:
            https = [stack.enter_context(httpx.Client(auth=c.auth())) for c in clients]
            assert [200, 200] == [http.get(url).status_code for http in https]
            registered.revoke_tokens()
            assert [200, 200] == [http.get(url).status_code for http in https]
        assert 2 == len(registered.log.of("token"))


class TestTrouble:
    """Whatever happens to the store, clients get tokens."""

    def test_torn_file(
        self, registered: SmartTestServer, make_client: MakeClient, tmp_path: Path, key: str
    ) -> None:
        """A torn file costs a request."""
        store = FileTokenStore(tmp_path / "tokens", keys=key)
        make_client(registered, store=store).token()
        (path,) = (tmp_path / "tokens").glob("*.token")
        path.write_bytes(path.read_bytes()[:-5])
        make_client(registered, store=store).token()
        assert 2 == len(registered.log.of("token"))
        make_client(registered, store=store).token()
        assert 2 == len(registered.log.of("token"))

    def test_another_clients_token_is_not_given(
        self, registered: SmartTestServer, make_client: MakeClient, tmp_path: Path, key: str
    ) -> None:
        """Nor one of another scope, even from a file put under this one's name."""
        folder = tmp_path / "tokens"
        store = FileTokenStore(folder, keys=key)
        make_client(registered, store=store, scope="system/Observation.rs").token()
        (wide,) = folder.glob("*.token")
        narrow = make_client(registered, store=store)
        first = narrow.token()
        (mine,) = (p for p in folder.glob("*.token") if p != wide)
        mine.write_bytes(wide.read_bytes())
        second = make_client(registered, store=store).token()
        assert first.value != second.value
        assert "system/Patient.rs" == second.scope

    def test_cancelled_renewal_hands_over(
        self, registered: SmartTestServer, tmp_path: Path, key: str, pem_signer: Signer
    ) -> None:
        """A task that is cancelled while it renews gives the right to renew up."""
        store = FileTokenStore(tmp_path / "tokens", keys=key)
        registered.script(registered.token_endpoint, [Reply(500, delay=5.0)])

        async def work() -> None:
            settings = client_settings(pem_signer, registered, store=store)
            async with keystay.AsyncTokenClient(**settings) as client:
                with anyio.move_on_after(0.5):
                    await client.token()
                began = time.monotonic()
                await client.token()
                assert time.monotonic() - began < 3

        anyio.run(work)
        assert 1 == len(registered.log.of("token"))
        assert CLIENT_ID == registered.log.of("token")[0].client_id

    def test_old_token_without_a_file(
        self, registered: SmartTestServer, make_client: MakeClient, tmp_path: Path, key: str
    ) -> None:
        """While another process renews, a client goes on with its own token, file or no file."""
        store = FileTokenStore(tmp_path / "tokens", keys=key)
        client = make_client(registered, store=store)
        token = client.token()
        assert client._core._shared is not None
        owner = client._core._shared._owner
        store.discard(owner, token)
        claim = store.claim(owner, 10)
        assert claim is not None
        client._cache.refresh_after = 0.0
        began = time.monotonic()
        assert client.token() is token
        assert time.monotonic() - began < 1
        claim.release()

    def test_unusable_store_leaves_no_key_open(
        self, tmp_path: Path, pem_file: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A configured store that cannot be used is told before the key is opened."""
        monkeypatch.setattr("keystay.tokens.settings.RotatingSigner", pytest.fail)
        file = tmp_path / "keystay.toml"
        file.write_text(
            '[clients.x]\nfhir_base_url = "https://x.example/fhir"\nclient_id = "me"\n'
            f'key = "file:{pem_file}"\nstore = "file:none/tokens"\nstore_key = "env:STORE_KEY"\n'
        )
        monkeypatch.setenv("STORE_KEY", key_text := Fernet.generate_key().decode())
        with pytest.raises(keystay.errors.ConfigurationError) as caught:
            keystay.TokenClient.from_config("x", config=keystay.load_config(file))
        assert "store-unusable" == caught.value.code
        assert key_text not in str(caught.value)
