"""Token clients with equal settings share HTTP client and TLS context, and disturb nobody else."""

from __future__ import annotations

import asyncio
import gc
import os
import ssl
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any, Literal

import pytest
import trio

import keystay
from keystay.concurrency.clock import Deadline
from keystay.errors import ConfigurationError, NetworkError
from keystay.http.clients import HttpLink, async_link, sync_link
from keystay.http.io import LoopIO, run_async
from keystay.http.messages import HttpRequest, HttpResponse
from keystay.http.settings import HttpSettings
from tests.support.certificates import Authority
from tests.support.secrets_watch import WATCH
from tests.support.tls_server import TLSServer
from tests.support.token_clients import SCOPE, client_settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from keystay.http.io import IO
    from keystay.signer import Signer
    from keystay.testing import SmartTestServer
    from tests.support.token_clients import MakeClient

pytestmark = pytest.mark.usefixtures("no_environment", "http_library")


@pytest.fixture
def no_openssl_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the machine's own says what to trust."""
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The hospital's own."""
    return Authority(tmp_path)


@pytest.fixture
def server(authority: Authority) -> Iterator[TLSServer]:
    """A server that it has certified."""
    with TLSServer(authority.server_context()) as running:
        yield running


def options(signer: Signer, server: TLSServer, **more: Any) -> dict[str, Any]:
    """A client of the server, its token endpoint configured."""
    return client_settings(
        signer, fhir_base_url=server.origin, token_endpoint=server.token_endpoint, **more
    )


class TestSharing:
    """Who shares with whom."""

    def test_equal_settings(self, authority: Authority) -> None:
        """Equal values are enough, and none is the default."""
        bundle = str(authority.bundle)
        first, second = (sync_link(HttpSettings(ca_bundle=bundle)) for _ in range(2))
        assert first.client is second.client is first.client
        default, none = sync_link(HttpSettings()), sync_link(None)
        assert default.client is none.client

    @pytest.mark.parametrize(
        "other",
        [
            {"timeout": 9.0},
            {"user_agent": "etl/1"},
            {"proxy": "http://proxy.example.org:3128"},
            {"trust": "system"},
        ],
        ids=str,
    )
    def test_unequal_settings(self, other: Any) -> None:
        """Each that differs in anything has its own."""
        links = sync_link(None), sync_link(HttpSettings(**other))
        first, second = (link.client for link in links)
        assert first is not second

    def test_context_by_trust(self, authority: Authority) -> None:
        """What differs in other things than trust and identity shares the TLS context."""
        bundle = str(authority.bundle)
        certificate, key = authority.issue("client", client=True)
        mutual = {"client_cert": str(certificate), "client_key": str(key)}

        def context(**settings: Any) -> ssl.SSLContext:
            links.append(sync_link(HttpSettings(**settings)))
            return links[-1].load().context

        links: list[HttpLink[Any]] = []
        assert context() is context(timeout=3) is context(user_agent="etl/1")
        assert context(ca_bundle=bundle) is context(ca_bundle=bundle, timeout=3)
        assert context(ca_bundle=bundle, **mutual) is context(ca_bundle=bundle, timeout=3, **mutual)
        different = {
            id(context()),
            id(context(trust="system")),
            id(context(ca_bundle=bundle)),
            id(context(ca_bundle=bundle, **mutual)),
        }
        assert 4 == len(different)

    def test_own_client_is_not_shared(self, http_library: Any) -> None:
        """A caller's own goes to nobody else."""
        with http_library.Client() as own:
            assert own is sync_link(own).client is not sync_link(None).client

    def test_nothing_is_kept_for_nobody(self) -> None:
        """With the last token client go HTTP client and context."""
        link = sync_link(None)
        seen = weakref.ref(link.client), weakref.ref(link.load().context)
        del link
        gc.collect()
        assert (None, None) == tuple(found() for found in seen)


class TestClosing:
    """`close()` of one of several."""

    async def test_others_go_on(
        self, registered: SmartTestServer, make_client: MakeClient, pem_signer: Signer
    ) -> None:
        """The one that is closed refuses; the other's requests are sent."""
        first, second = make_client(registered), make_client(registered)
        first.token()
        first.close()
        assert SCOPE == second.token().scope
        with pytest.raises(ConfigurationError, match="closed"):
            first.request_token()
        settings = client_settings(pem_signer, registered)
        async with keystay.AsyncTokenClient(**settings) as other:
            async with keystay.AsyncTokenClient(**settings) as brief:
                await brief.token()
            assert SCOPE == (await other.token()).scope

    def test_with_a_request_under_way(
        self, authority: Authority, pem_signer: Signer, server: TLSServer
    ) -> None:
        """Closed, dropped and collected meanwhile, it still gets its answer."""
        waiting, go_on = threading.Event(), threading.Event()
        answer_all = server.answer_all

        def slow(connection: Any) -> None:
            waiting.set()
            go_on.wait(10)
            answer_all(connection)

        setattr(server, "answer_all", slow)  # noqa: B010
        http = HttpSettings(ca_bundle=str(authority.bundle))
        tokens = [keystay.TokenClient(http=http, **options(pem_signer, server))]
        found: list[str] = []

        def ask(client: keystay.TokenClient) -> None:
            found.append(client.token().scope)

        thread = threading.Thread(target=ask, args=(tokens[0],))
        thread.start()
        assert waiting.wait(10)
        tokens.pop().close()
        gc.collect()
        go_on.set()
        thread.join()
        assert [SCOPE] == found


@pytest.mark.usefixtures("no_openssl_variables")
class TestChanges:
    """What is read again by a client that lives on."""

    def test_ca_bundle(self, authority: Authority, pem_signer: Signer, server: TLSServer) -> None:
        """A bundle that is replaced is believed at the next request."""
        stranger = Authority(authority.bundle.parent, "stranger")
        bundle = authority.bundle.with_name("bundle.pem")
        bundle.write_bytes(stranger.bundle.read_bytes())
        http = HttpSettings(ca_bundle=str(bundle))
        with keystay.TokenClient(http=http, **options(pem_signer, server)) as client:
            with pytest.raises(NetworkError, match="not trusted"):
                client.token()
            new = bundle.with_name("new.pem")
            new.write_bytes(authority.bundle.read_bytes())
            new.replace(bundle)
            assert SCOPE == client.token().scope
            bundle.unlink()
            with pytest.raises(ConfigurationError, match=r"bundle\.pem cannot be used"):
                client.request_token()

    @pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
    def test_openssls_variables(
        self,
        authority: Authority,
        pem_signer: Signer,
        server: TLSServer,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        variable: str,
    ) -> None:
        """They replace the bundled CAs and the system's, whichever library sends."""
        folder = tmp_path / "certificates"
        folder.mkdir()
        hashed = folder / f"{subject_hash(authority.bundle)}.0"
        hashed.write_bytes(authority.bundle.read_bytes())
        choices: tuple[Literal["bundled", "system"], ...] = ("bundled", "system")
        for trust in choices:
            http = HttpSettings(trust=trust)
            with keystay.TokenClient(http=http, **options(pem_signer, server)) as client:
                with pytest.raises(NetworkError, match="not trusted"):
                    client.token()
                named = authority.bundle if variable == "SSL_CERT_FILE" else folder
                monkeypatch.setenv(variable, str(named))
                assert SCOPE == client.token().scope
                monkeypatch.delenv(variable)
                with pytest.raises(NetworkError, match="not trusted"):
                    client.request_token()

    def test_proxy_of_the_environment(
        self, authority: Authority, server: TLSServer, pem_signer: Signer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:  # fmt: skip
        """A client that lives on, and one made later, go where the variables say now."""
        http = HttpSettings(ca_bundle=str(authority.bundle))
        with (
            keystay.TokenClient(http=http, **options(pem_signer, server)) as old,
            keystay.TokenClient(http=http, **options(pem_signer, server)) as new,
        ):
            old.token()
            monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
            for client in (old, new):
                with pytest.raises(NetworkError, match="refused"):
                    client.request_token()
            monkeypatch.setenv("NO_PROXY", "127.0.0.1")
            assert SCOPE == old.request_token().scope

    def test_secrets(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A file or a variable with the proxy's password is read again; a FIFO once only."""
        WATCH.add("a proxy's password", "first-proxy-password")
        secret = tmp_path / "proxy"
        secret.touch(0o600)
        secret.write_text("etl:first-proxy-password")
        proxy = "http://proxy.example.org:3128"
        link = sync_link(HttpSettings(proxy=proxy, proxy_credentials=f"file:{secret}"))
        first: Any = link.load().proxy
        assert id(first) == id(link.load().proxy)
        secret.write_text("etl:another-password-2")
        changed: Any = link.load().proxy
        assert ("etl", "first-proxy-password") == first.auth
        assert ("etl", "another-password-2") == changed.auth
        monkeypatch.setenv("PROXY_LOGIN", "etl:one")
        by_variable = sync_link(HttpSettings(proxy=proxy, proxy_credentials="env:PROXY_LOGIN"))
        before = by_variable.load()
        monkeypatch.setenv("PROXY_LOGIN", "etl:two")
        assert before is not by_variable.load()

    def test_fifo_is_read_once(self, tmp_path: Path) -> None:
        """What comes through a FIFO comes once, and serves all with equal settings."""
        fifo = tmp_path / "fifo"
        os.mkfifo(fifo, 0o600)
        writer = threading.Thread(target=fifo.write_text, args=("etl:proxy-password-3",))
        writer.start()
        settings = HttpSettings(proxy="http://proxy:3128", proxy_credentials=f"file:{fifo}")
        link, other = sync_link(settings), sync_link(settings)
        material = link.load()
        writer.join()
        assert material is link.load() is other.load()
        link.private_client().close()
        assert material is other.load()


def subject_hash(certificate: Path) -> str:
    """What OpenSSL looks for in a folder of certificates."""
    import subprocess

    command = ["openssl", "x509", "-noout", "-hash", "-in", str(certificate)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def cas(context: ssl.SSLContext) -> list[str]:
    """What a context trusts."""
    return sorted(map(str, context.get_ca_certs()))


@pytest.mark.usefixtures("no_openssl_variables")
class TestTrust:
    """`[http] trust`."""

    def test_bundled(self, http_library: Any) -> None:
        """certifi's CAs, whichever library sends."""
        import certifi

        expected = ssl.create_default_context(cafile=certifi.where())
        assert cas(expected) == cas(sync_link(None).load().context)

    def test_system_on_linux(self) -> None:
        """What OpenSSL loads by default; its own context, not one that loads them each time."""
        context = sync_link(HttpSettings(trust="system")).load().context
        expected = ssl.create_default_context()
        if sys.platform == "linux":
            assert type(expected) is type(context)
            assert cas(expected) == cas(context)
        assert ssl.CERT_REQUIRED is context.verify_mode
        assert context.check_hostname
        assert ssl.TLSVersion.TLSv1_2 == context.minimum_version

    @pytest.mark.parametrize("folder", ["empty", None])
    def test_system_where_openssl_knows_nothing(
        self,
        authority: Authority,
        server: TLSServer,
        pem_signer: Signer,
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        folder: str | None,
    ) -> None:
        """An OpenSSL of one's own build often has an empty folder: truststore looks further."""
        import truststore

        if folder is not None:
            (tmp_path / folder).mkdir()
        paths: Any = (None, str(tmp_path / folder) if folder else None, "", "", "", "")
        nothing = ssl.DefaultVerifyPaths(*paths)
        with monkeypatch.context() as patch:
            patch.setattr(ssl, "get_default_verify_paths", lambda: nothing)
            link = sync_link(HttpSettings(trust="system"))
            context: Any = link.load().context
        assert isinstance(context, truststore.SSLContext)
        assert ssl.TLSVersion.TLSv1_2 == context.minimum_version
        with keystay.TokenClient(
            http=HttpSettings(trust="system"), **options(pem_signer, server)
        ) as client:
            assert context is client._http.load().context
            with pytest.raises(NetworkError, match="not trusted"):
                client.token()

    def test_wrong_value(self) -> None:
        """What is neither is refused, with what may be written."""
        said = "trust: it is 'certifi'; expected one of 'bundled', 'system'"
        with pytest.raises(ConfigurationError, match=said) as caught:
            sync_link(HttpSettings(trust="certifi"))  # type: ignore[arg-type]
        assert '"bundled"' in str(caught.value.hint)


class TestFork:
    """A child has its own."""

    def test_child(self, registered: SmartTestServer, make_client: MakeClient) -> None:
        """It makes its clients anew, shared in the child; what was read is not read again."""
        client, other = make_client(registered), make_client(registered)
        client.token()
        before, material = id(client._http.client), id(client._http.load())
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                client.request_token()
                mine = client._http.client
                said = (id(mine) != before, mine is other._http.client,
                        id(client._http.load()) == material)  # fmt: skip
                os.write(write, repr(said).encode())
            finally:
                os._exit(0)
        os.close(write)
        os.waitpid(child, 0)
        with os.fdopen(read) as said_by_child:
            assert "(True, True, True)" == said_by_child.read()
        assert before == id(client._http.client)
        assert SCOPE == client.request_token().scope


class TestLoops:
    """One AsyncTokenClient on several event loops."""

    def test_one_after_the_other(self, registered: SmartTestServer, pem_signer: Signer) -> None:
        """trio first, then asyncio, then trio, in one thread: no loop finds another's things."""
        client = keystay.AsyncTokenClient(**client_settings(pem_signer, registered))
        tokens = [
            trio.run(client.request_token),
            asyncio.run(client.request_token()),
            asyncio.run(client.request_token()),
            trio.run(client.request_token),
        ]
        assert 4 == len({token.value for token in tokens})

    def test_two_threads(self, registered: SmartTestServer, pem_signer: Signer) -> None:
        """Two threads, each with a loop, at the same time, many times."""
        client = keystay.AsyncTokenClient(**client_settings(pem_signer, registered))
        barrier, errors, count = threading.Barrier(2), [], []

        def run(start: Callable[..., Any]) -> None:
            async def ask() -> None:
                count.extend([await client.request_token() for _ in range(5)])

            try:
                for _ in range(3):
                    barrier.wait(20)
                    start(ask)
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

        threads = [
            threading.Thread(target=run, args=(trio.run,)),
            threading.Thread(target=run, args=(lambda ask: asyncio.run(ask()),)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [] == errors
        assert 30 == len({token.value for token in count})

    def test_interrupted_loop(self, registered: SmartTestServer, pem_signer: Signer) -> None:
        """A loop that ends in the middle of a request leaves nothing for the next."""
        from keystay.testing import Reply

        settings = client_settings(pem_signer, registered, token_endpoint=registered.token_endpoint)
        client = keystay.AsyncTokenClient(**settings)
        registered.script(registered.token_endpoint, [Reply(200, delay=60), None])

        async def give_up() -> None:
            task = asyncio.create_task(client.request_token())
            while not registered.log.of("scripted"):  # noqa: ASYNC110 - told by the server
                await asyncio.sleep(0.01)
            task.cancel()
            await task

        with pytest.raises(asyncio.CancelledError):
            asyncio.run(give_up())
        assert SCOPE == asyncio.run(client.request_token()).scope

    async def test_loads_off_the_loop(self, tmp_path: Path) -> None:
        """A loop is free while a secret is waited for."""
        import anyio

        fifo = tmp_path / "fifo"
        os.mkfifo(fifo, 0o600)
        settings = HttpSettings(
            proxy="http://127.0.0.1:1", proxy_credentials=f"file:{fifo}", timeout=5
        )
        io = LoopIO(async_link(settings), Deadline.after(5))

        async def send(io: IO) -> HttpResponse:
            return await io.send(HttpRequest("GET", "https://ehr.invalid", "a test"))

        async with anyio.create_task_group() as tasks:

            async def write() -> None:
                await anyio.sleep(0.1)
                await anyio.to_thread.run_sync(fifo.write_text, "etl:proxy-password-4")

            tasks.start_soon(write)
            with pytest.raises(NetworkError, match="refused"):
                await run_async(io, send)

    def test_many_threads_are_not_remembered(self) -> None:
        """A link outlives threads with loops without growing for each."""
        link = async_link(None)

        async def use() -> None:
            assert link.client is link.client

        for _ in range(200):
            thread = threading.Thread(target=lambda: asyncio.run(use()))
            thread.start()
            thread.join()
        assert len(link._made) <= 64


def test_threads_share_one(registered: SmartTestServer, make_client: MakeClient) -> None:
    """Sixteen token clients in sixteen threads, each from its own, at their first request."""
    clients = [make_client(registered) for _ in range(16)]
    barrier = threading.Barrier(16)
    scopes: list[str] = []

    def ask(client: keystay.TokenClient) -> None:
        barrier.wait(20)
        scopes.append(client.token().scope)

    threads = [threading.Thread(target=ask, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [SCOPE] * 16 == scopes
    assert 1 == len({id(client._http.load()) for client in clients})


def test_no_cookie_is_gathered(authority: Authority, pem_signer: Signer, server: TLSServer) -> None:
    """A client that many share keeps nothing of what servers set."""
    http = HttpSettings(ca_bundle=str(authority.bundle))
    with keystay.TokenClient(http=http, **options(pem_signer, server)) as client:
        for _ in range(3):
            client.request_token()
        assert [] == list(client._http.client.cookies.jar)


def test_proxy_password_of_the_environment_is_in_no_frame(
    pem_signer: Signer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What tells that the variable has changed is not its value: reporters send frames."""
    password = WATCH.add("a proxy's password", "proxy-pass-8830-frames")
    monkeypatch.setenv("HTTPS_PROXY", f"http://etl:{password}@proxy.example.org:3128")
    link = sync_link(HttpSettings(ca_bundle="/nowhere/ca.pem"))
    with pytest.raises(ConfigurationError, match="CA bundle") as caught:
        link.load()
    frame = caught.tb
    while frame is not None:
        if "keystay" in str(frame.tb_frame.f_globals.get("__name__")):
            WATCH.check(repr(frame.tb_frame.f_locals), "a frame")
        frame = frame.tb_next  # type: ignore[assignment]
