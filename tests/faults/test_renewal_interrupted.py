"""Whoever renews may vanish in the middle: the next one takes over, and nobody is left waiting."""

from __future__ import annotations

import asyncio
import threading
import time
from typing import TYPE_CHECKING

import anyio
import pytest

import keystay
from keystay.testing import Reply, SmartTestServer
from tests.support.token_clients import client_settings

if TYPE_CHECKING:
    from keystay.signer import Signer
    from tests.support.client_process import ClientProcess

pytestmark = pytest.mark.usefixtures("no_environment")

ANSWER = 3.0
"""Seconds the first answer takes; whoever waited for it has been handed over long before."""


@pytest.fixture
def slow(registered: SmartTestServer) -> SmartTestServer:
    """A server whose first answer is late and no token."""
    registered.script(registered.token_endpoint, [Reply(500, delay=ANSWER)])
    return registered


def renewing(client: keystay.TokenClient | keystay.AsyncTokenClient) -> bool:
    """Whether somebody is renewing."""
    return client._cache.is_renewing


async def test_cancelled_task_hands_over_to_tasks(
    slow: SmartTestServer, pem_signer: Signer
) -> None:
    """Of 20 tasks that wait one takes over; one more request is made, and all get its token."""
    settings = client_settings(pem_signer, slow, token_endpoint=slow.token_endpoint)
    found: list[keystay.AccessToken] = []
    async with keystay.AsyncTokenClient(**settings) as client, anyio.create_task_group() as group:

        async def ask() -> None:
            found.append(await client.token())

        renewer = anyio.CancelScope()

        async def renew() -> None:
            with renewer:
                await client.token()

        group.start_soon(renew)
        while not renewing(client):  # noqa: ASYNC110
            await anyio.sleep(0.01)
        for _ in range(20):
            group.start_soon(ask)
        await anyio.sleep(0.1)
        assert [] == found
        renewer.cancel()
    assert (20, 1) == (len(found), len({id(token) for token in found}))
    assert 1 == len(slow.log.of("token"))


async def test_cancelled_waiter_costs_nobody_anything(
    registered: SmartTestServer, pem_signer: Signer
) -> None:
    """The first who waits keeps the time for his loop; when he is cancelled the others go on."""
    registered.script(registered.token_endpoint, [Reply(503, delay=0.4)])
    settings = client_settings(
        pem_signer, registered, token_endpoint=registered.token_endpoint, retries=1
    )
    found: list[keystay.AccessToken] = []
    async with keystay.AsyncTokenClient(**settings) as client, anyio.create_task_group() as group:

        async def ask() -> None:
            found.append(await client.token())

        group.start_soon(ask)
        while not renewing(client):  # noqa: ASYNC110
            await anyio.sleep(0.01)
        for seconds in (0.05, 0.1, 0.15):
            with anyio.move_on_after(seconds):
                async with anyio.create_task_group() as cancelled:
                    for _ in range(5):
                        cancelled.start_soon(client.token)
                        group.start_soon(ask)
        assert [] == found
    assert (16, 1) == (len(found), len({id(token) for token in found}))
    assert 1 == len(registered.log.of("token"))


async def test_cancelled_task_hands_over_to_threads(
    slow: SmartTestServer, pem_signer: Signer
) -> None:
    """The same when those who wait are threads."""
    settings = client_settings(pem_signer, slow, token_endpoint=slow.token_endpoint)
    found: list[keystay.AccessToken] = []
    with keystay.TokenClient(**settings) as client:
        threads = [threading.Thread(target=lambda: found.append(client.token())) for _ in range(20)]

        def join() -> None:
            for thread in threads:
                thread.join()

        async with client.as_async() as shared:
            with anyio.move_on_after(0.3) as scope:
                async with anyio.create_task_group() as group:
                    group.start_soon(shared.token)
                    while not renewing(client):  # noqa: ASYNC110
                        await anyio.sleep(0.01)
                    for thread in threads:
                        thread.start()
            assert scope.cancelled_caught
            await anyio.to_thread.run_sync(join)
    assert (20, 1) == (len(found), len({id(token) for token in found}))
    assert 1 == len(slow.log.of("token"))


def test_event_loop_that_ends_hands_over(slow: SmartTestServer, pem_signer: Signer) -> None:
    """asyncio.run() that ends cancels what it ran; a thread that waits takes over."""
    settings = client_settings(pem_signer, slow, token_endpoint=slow.token_endpoint)
    found: list[keystay.AccessToken] = []
    with keystay.TokenClient(**settings) as client:

        async def main() -> None:
            shared = client.as_async()
            task = asyncio.create_task(shared.token())
            while not renewing(client):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            thread.start()
            await asyncio.sleep(0.1)
            del task

        thread = threading.Thread(target=lambda: found.append(client.token()))
        asyncio.run(main())
        thread.join()
    assert 1 == len(found)


def test_event_loop_that_stands_still(slow: SmartTestServer, pem_signer: Signer) -> None:
    """A loop that nobody runs any more strands a thread until its timeout, and not the next one."""
    settings = client_settings(pem_signer, slow, token_endpoint=slow.token_endpoint, timeout=0.5)
    with keystay.TokenClient(**settings) as client:
        shared = client.as_async()
        loop = asyncio.new_event_loop()
        task = loop.create_task(shared.token())

        def run_a_little() -> None:
            while not renewing(client):
                loop.run_until_complete(asyncio.sleep(0.01))

        runner = threading.Thread(target=run_a_little)
        runner.start()
        runner.join()
        slow._scripts.clear()  # its request may not have been sent
        began = time.monotonic()
        with pytest.raises(keystay.errors.NetworkTimeoutError, match="renewal under way"):
            client.token()
        assert time.monotonic() - began < 4
        assert not client.token().expired
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.run_until_complete(shared.aclose())
        loop.close()


def test_loop_that_ended_while_waiting(registered: SmartTestServer, pem_signer: Signer) -> None:
    """Waking tasks of a loop that is gone is no error for who renews."""
    registered.script(registered.token_endpoint, [Reply(500, delay=ANSWER)])
    settings = client_settings(
        pem_signer, registered, token_endpoint=registered.token_endpoint, retries=1
    )
    with keystay.TokenClient(**settings) as client:
        found: list[keystay.AccessToken] = []
        thread = threading.Thread(target=lambda: found.append(client.token()))
        thread.start()
        while not renewing(client):
            time.sleep(0.01)

        async def wait_a_little() -> None:
            shared = client.as_async()
            with anyio.move_on_after(0.1):
                await shared.token()
            await shared.aclose()

        asyncio.run(wait_a_little())
        anyio.run(wait_a_little, backend="trio")
        thread.join()
    assert 1 == len(found)


@pytest.fixture
def process(slow: SmartTestServer, client_process: ClientProcess) -> ClientProcess:
    """Programs with a client of the slow server."""
    return client_process


class TestSignals:
    """Signals come to the main thread, in the middle of what it does."""

    def test_interrupt_hands_over(self, process: ClientProcess, slow: SmartTestServer) -> None:
        """Ctrl-C for the main thread that renews: a thread that waits gets its token."""
        done = process.run("""
            client = make(token_endpoint=sys.argv[2])
            found = []
            waiter = threading.Thread(target=lambda: found.append(client.token()))
            def act():
                waiter.start()
                time.sleep(0.1)
                os.kill(os.getpid(), signal.SIGINT)
            while_renewing(client, act)
            began = time.monotonic()
            try:
                client.token()
            except KeyboardInterrupt:
                print(time.monotonic() - began < 0.55)
            waiter.join()
            print(len(found), client.token() is found[0])
            client.close()
        """)
        assert ("True\n1 True\n", "") == (done.stdout, done.stderr)
        assert 1 == len(slow.log.of("token"))

    def test_handler_that_raises(self, process: ClientProcess) -> None:
        """SIGTERM whose handler raises SystemExit ends the program in time, and quietly."""
        done = process.run(
            """
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(3))
            client = make(token_endpoint=sys.argv[2])
            while_renewing(client, lambda: os.kill(os.getpid(), signal.SIGTERM))
            with client:
                client.token()
            """,
            code=3,
        )
        assert "" == done.stderr

    def test_handler_that_asks_for_a_token(
        self, process: ClientProcess, slow: SmartTestServer
    ) -> None:
        """A handler that needs a token itself interrupts the renewal it would have to wait for."""
        done = process.run("""
            inside = []
            def handler(*_):
                began = time.monotonic()
                inside.append((client.token(), time.monotonic() - began))
            signal.signal(signal.SIGUSR1, handler)
            client = make(token_endpoint=sys.argv[2])
            while_renewing(client, lambda: os.kill(os.getpid(), signal.SIGUSR1))
            outside = client.token()  # its own request fails; what the handler got is there
            (token, took), = inside
            print(not token.expired, took < 5, outside is token, client.token() is token)
            client.close()
        """)
        assert "True True True True\n" == done.stdout
        assert "could not be renewed" in done.stderr

    def test_many_signals(self, process: ClientProcess) -> None:
        """Handlers between any two instructions: no lock is left held, no attempt left open."""
        done = process.run("""
            client = make(token_endpoint=sys.argv[2])
            count = [0]
            def handler(*_):
                count[0] += 1
                client.invalidate()
                client._cache.fresh()
                if count[0] % 7 == 0:
                    client.token()
            try:
                client.token()
            except keystay.KeystayError:
                pass
            client.token()
            signal.signal(signal.SIGALRM, handler)
            signal.setitimer(signal.ITIMER_REAL, 0.001, 0.0013)
            until = time.monotonic() + 1
            while time.monotonic() < until:
                client.token()
            signal.setitimer(signal.ITIMER_REAL, 0)
            print(count[0] > 20, client._cache.is_renewing, client.token().expired)
            client.close()
        """)
        assert ("True False False\n", "") == (done.stdout, done.stderr)
