"""However many threads and tasks ask at once, one token request is made, and all get its token."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import httpx
import pytest

import keystay
from keystay.testing import SmartTestServer
from tests.support.fixtures import watch_exchanges
from tests.support.token_clients import CLIENT_ID, client_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from keystay.signer import Signer
    from keystay.testing import Reply, Request

pytestmark = pytest.mark.usefixtures("no_environment")

THREADS, TASKS = 200, 1000
LATENCY = 0.2
"""Seconds a token request takes: long enough for everybody to be waiting."""
LIFETIME, SHORT = 300, 2
"""Seconds a token lives; and one that the test waits out."""
MOMENTS = ["first-use", "expiry"]


@pytest.fixture
def server(pem_signer: Signer) -> Iterator[SmartTestServer]:
    """A strict server that takes its time."""
    with SmartTestServer(token_lifetime=LIFETIME) as made:
        watch_exchanges(made)
        made.register(CLIENT_ID, jwks=keystay.JWKSet.from_signers([pem_signer]))
        handle = made.authorization_server.handle

        def slowly(request: Request) -> Reply:
            reply = handle(request)
            time.sleep(LATENCY)
            return reply

        setattr(made.authorization_server, "handle", slowly)  # noqa: B010
        yield made


@pytest.fixture
def client(server: SmartTestServer, pem_signer: Signer) -> Iterator[keystay.TokenClient]:
    """A client of that server; the configuration is discovered beforehand."""
    with keystay.TokenClient(**client_settings(pem_signer, server)) as made:
        made.smart_configuration()
        yield made


class Crowd:
    """Everybody who asks, and the header each was given."""

    def __init__(self) -> None:
        self.found: list[str] = []

    @contextmanager
    def threads(self, ask: Callable[[], str], count: int = THREADS) -> Iterator[None]:
        """Threads that ask while the block runs; over when they are."""
        barrier = threading.Barrier(count + 1)

        def work() -> None:
            barrier.wait()
            self.found.append(ask())

        threads = [threading.Thread(target=work) for _ in range(count)]
        for thread in threads:
            thread.start()
        barrier.wait()
        yield
        for thread in threads:
            thread.join()

    async def tasks(self, ask: Callable[[], Awaitable[str]], count: int = TASKS) -> None:
        """Tasks that ask, all at once."""

        async def work() -> None:
            self.found.append(await ask())

        async with anyio.create_task_group() as group:
            for _ in range(count):
                group.start_soon(work)


@contextmanager
def short_lived(server: SmartTestServer) -> Iterator[None]:
    """Tokens that are got in this block are over soon."""
    server.authorization_server.token_lifetime = SHORT
    yield
    server.authorization_server.token_lifetime = LIFETIME


def let_expire(client: keystay.TokenClient | keystay.AsyncTokenClient) -> None:
    """Wait until the kept token is over."""
    token = client._cache.token
    assert token is not None
    time.sleep(token.expires_in + 0.01)
    assert token.expired


@pytest.mark.parametrize("moment", MOMENTS)
def test_threads(client: keystay.TokenClient, server: SmartTestServer, moment: str) -> None:
    """200 threads."""
    if moment == "expiry":
        with short_lived(server):
            client.token()
        let_expire(client)
        server.log.clear()
    crowd = Crowd()
    with crowd.threads(client.authorization):
        pass
    assert (THREADS, 1) == (len(crowd.found), len(set(crowd.found)))
    assert 1 == len(server.log.of("token"))


@pytest.mark.parametrize("moment", MOMENTS)
async def test_tasks(server: SmartTestServer, pem_signer: Signer, moment: str) -> None:
    """1,000 tasks, under asyncio and under trio."""
    async with keystay.AsyncTokenClient(**client_settings(pem_signer, server)) as client:
        if moment == "expiry":
            with short_lived(server):
                await client.token()
            let_expire(client)
            server.log.clear()
        crowd = Crowd()
        await crowd.tasks(client.authorization)
    assert (TASKS, 1) == (len(crowd.found), len(set(crowd.found)))
    assert 1 == len(server.log.of("token"))


@pytest.mark.parametrize("moment", MOMENTS)
@pytest.mark.parametrize("first", ["threads", "tasks"])
async def test_mixed(
    client: keystay.TokenClient, server: SmartTestServer, moment: str, first: str
) -> None:
    """200 threads and 1,000 tasks against one client; whoever comes first renews for both."""
    async with client.as_async() as shared:
        if moment == "expiry":
            with short_lived(server):
                await shared.token()
            let_expire(client)
            server.log.clear()
        crowd = Crowd()
        if first == "threads":
            with crowd.threads(client.authorization):
                await crowd.tasks(shared.authorization)
        else:
            async with anyio.create_task_group() as group:
                group.start_soon(crowd.tasks, shared.authorization)
                await anyio.sleep(0.05)

                def join_in() -> None:
                    with crowd.threads(client.authorization):
                        pass

                await anyio.to_thread.run_sync(join_in)
    assert (THREADS + TASKS, 1) == (len(crowd.found), len(set(crowd.found)))
    assert 1 == len(server.log.of("token"))


async def test_one_auth_for_both_kinds_of_http_client(
    client: keystay.TokenClient, server: SmartTestServer, http_library: Any
) -> None:
    """`auth()` of a TokenClient serves threads and tasks at once, with one token."""
    auth = client.auth()
    crowd = Crowd()
    url = f"{server.fhir_base_url}/Patient/123"
    async with http_library.AsyncClient(auth=auth) as tasks:
        with http_library.Client(auth=auth) as threads:

            def ask() -> str:
                return str(threads.get(url).json()["id"])

            async def ask_async() -> str:
                return str((await tasks.get(url)).json()["id"])

            with crowd.threads(ask, 10):
                await crowd.tasks(ask_async, 20)
    assert ["123"] * 30 == crowd.found
    assert 1 == len(server.log.of("token"))


async def test_threads_of_the_event_loop_do_not_starve_it(
    server: SmartTestServer, pem_signer: Signer
) -> None:
    """All of anyio's worker threads may wait for a token that a task of that loop is getting."""
    with keystay.TokenClient(**client_settings(pem_signer, server)) as client:
        auth = client.auth()
        started = time.monotonic()
        async with (
            httpx.AsyncClient(auth=auth) as fhir,
            client.as_async() as shared,
            anyio.create_task_group() as group,
        ):
            group.start_soon(shared.token)
            await anyio.lowlevel.checkpoint()
            for _ in range(60):
                group.start_soon(anyio.to_thread.run_sync, client.token)
            response = await fhir.get(f"{server.fhir_base_url}/Patient/123")
        assert 200 == response.status_code
        assert time.monotonic() - started < 5
    assert 1 == len(server.log.of("token"))


def test_nobody_waits_while_the_token_is_good(server: SmartTestServer, pem_signer: Signer) -> None:
    """Within the window one caller renews; the others go on with what is there, at once."""
    server.authorization_server.token_lifetime = 20
    settings = client_settings(pem_signer, server, renewal_window=0.95)
    with keystay.TokenClient(**settings) as client:
        old = client.authorization()
        time.sleep(1.05)  # into the window
        renewer = Crowd()
        waited = []
        with renewer.threads(client.authorization, 1):
            time.sleep(0.05)
            for _ in range(20):
                began = time.monotonic()
                assert old == client.authorization()
                waited.append(time.monotonic() - began)
        new = client.authorization()
    assert [new] == renewer.found
    assert old != new
    assert max(waited) < LATENCY / 2
    assert 2 == len(server.log.of("token"))
