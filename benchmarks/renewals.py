"""Token requests for 200 threads, for 1,000 tasks, and for both at once: keystay and others.

Everybody asks at the same moment, when there is no token yet and when the token has just ended. One
loopback server in another process counts; a token takes it 50 ms.
"""

from __future__ import annotations

import asyncio
import dataclasses
import statistics
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils

from benchmarks.assertion import StubKey
from benchmarks.measure import Goal
from benchmarks.token_server import TokenServer, running
from keystay import AsyncTokenClient, TokenClient
from keystay.backends import BackendSignature
from keystay.signer import Signer

LATENCY = 0.05
ALLOWED = 0.075
"""Seconds beyond one round trip within which every caller has to be served."""
MOMENTS = ("first use", "expiry")

Ask = Callable[[], object]
AskAsync = Callable[[], Awaitable[object]]


@dataclass
class Burst:
    """What came of one burst: token requests, and the seconds the last caller took."""

    requests: list[int]
    seconds: list[float]

    def __str__(self) -> str:
        least, most = min(self.requests), max(self.requests)
        count = str(least) if least == most else f"{least}–{most}"
        return f"{count:>9} requests, {statistics.median(self.seconds) * 1e3:6.0f} ms"


class LocalKey(StubKey):
    """A key that signs truly, in this process."""

    def __init__(self) -> None:
        super().__init__()
        self._private_key = ec.generate_private_key(ec.SECP384R1())
        public_key = self._private_key.public_key()
        self.description = dataclasses.replace(self.description, public_key=public_key)

    def sign(self, request: Any) -> BackendSignature:
        digest = ec.ECDSA(utils.Prehashed(hashes.SHA384()))
        return BackendSignature(self._private_key.sign(request.digest, digest), "der", "stub")


class Contender:
    """A library's way to a token for many callers.

    Attributes:
        ask: What a thread calls; None where the library has nothing for threads.
        ask_async: The same for tasks.
    """

    ask: Ask | None = None
    ask_async: AskAsync | None = None

    async def close(self) -> None:
        """Release what it opened."""


class Keystay(Contender):
    """One client for both."""

    def __init__(self, server: TokenServer) -> None:
        self.client = TokenClient(**settings(server))
        self.shared = self.client.as_async()
        self.ask, self.ask_async = self.client.authorization, self.shared.authorization

    async def close(self) -> None:
        await self.shared.aclose()
        self.client.close()


class KeystayAsync(Contender):
    """The asynchronous client by itself."""

    def __init__(self, server: TokenServer) -> None:
        self.client = AsyncTokenClient(**settings(server))
        self.ask_async = self.client.authorization

    async def close(self) -> None:
        await self.client.aclose()


def settings(server: TokenServer) -> dict[str, Any]:
    return {
        "fhir_base_url": server.origin,
        "token_endpoint": server.token_endpoint,
        "client_id": "x",
        "signer": Signer(LocalKey()),
        "allow_insecure_loopback": True,
        "timeout": 30,
    }


class RequestsOAuth2Client(Contender):
    """`OAuth2ClientCredentialsAuth`, shared by the threads."""

    def __init__(self, server: TokenServer) -> None:
        import requests
        from requests_oauth2client import OAuth2Client, OAuth2ClientCredentialsAuth

        client = OAuth2Client(
            server.token_endpoint, client_id="x", client_secret="not a secret", testing=True
        )
        auth = OAuth2ClientCredentialsAuth(client, scope="system/*.rs")
        prepared = requests.Request("GET", "https://ehr.example.org/fhir").prepare()
        self.ask = lambda: auth(prepared.copy())


class AuthlibRequests(Contender):
    """`OAuth2Session`, shared by the threads."""

    def __init__(self, server: TokenServer) -> None:
        from authlib.integrations.requests_client import OAuth2Session

        session = OAuth2Session(
            "x", "not a secret", token_endpoint=server.token_endpoint,
            grant_type="client_credentials",
        )  # fmt: skip

        def ask() -> None:
            if session.token is None:
                session.fetch_token()
            else:
                session.ensure_active_token(session.token)

        self.ask = ask


class AuthlibHttpx(Contender):
    """`AsyncOAuth2Client`, shared by the tasks."""

    def __init__(self, server: TokenServer) -> None:
        from authlib.integrations.httpx_client import AsyncOAuth2Client

        self.session = session = AsyncOAuth2Client(
            "x", "not a secret", token_endpoint=server.token_endpoint,
            grant_type="client_credentials", timeout=60,
        )  # fmt: skip

        async def ask() -> None:
            if session.token is None:
                await session.fetch_token()
            else:
                await session.ensure_active_token(session.token)

        self.ask_async = ask

    async def close(self) -> None:
        await self.session.aclose()


class Msal(Contender):
    """`acquire_token_for_client` of one application; it has nothing for tasks."""

    def __init__(self, server: TokenServer) -> None:
        import msal

        app = msal.ConfidentialClientApplication(
            "x",
            client_credential="not a secret",
            oidc_authority="https://login.example.org/tenant",
            http_client=MsalHttp(server),
        )
        self.ask = lambda: app.acquire_token_for_client(["x/.default"])["access_token"]


class MsalHttp:
    """MSAL demands HTTPS: its look-up is answered here, its token requests go to the server."""

    def __init__(self, server: TokenServer) -> None:
        import requests

        self._server, self._session = server, requests.Session()
        self._session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=500))

    def get(self, url: str, **_: Any) -> Any:
        text = (
            '{"issuer":"https://login.example.org/tenant",'
            '"authorization_endpoint":"https://login.example.org/authorize",'
            '"token_endpoint":"https://login.example.org/token"}'
        )
        return SimpleNamespace(status_code=200, headers={}, text=text)

    def post(self, url: str, data: Any = None, **_: Any) -> Any:
        return self._session.post(self._server.token_endpoint, data=data)


CONTENDERS: dict[str, type[Any]] = {
    "keystay": Keystay,
    "keystay, AsyncTokenClient alone": KeystayAsync,
    "requests-oauth2client": RequestsOAuth2Client,
    "Authlib (requests)": AuthlibRequests,
    "Authlib (httpx)": AuthlibHttpx,
    "MSAL": Msal,
}


def in_threads(ask: Ask, count: int) -> list[float]:
    """Seconds each of so many threads took, all starting at once."""
    gate = threading.Barrier(count)
    took: list[float] = []

    def work() -> None:
        gate.wait()
        began = time.perf_counter()
        ask()
        took.append(time.perf_counter() - began)

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return took


async def in_tasks(ask: AskAsync, count: int) -> list[float]:
    """The same for tasks."""
    took: list[float] = []

    async def work() -> None:
        began = time.perf_counter()
        await ask()
        took.append(time.perf_counter() - began)

    await asyncio.gather(*[work() for _ in range(count)])
    return took


def serves(contender: Contender, crowd: str) -> bool:
    """Whether the library has something for such a crowd."""
    for_threads, for_tasks = contender.ask is not None, contender.ask_async is not None
    return {"threads": for_threads, "tasks": for_tasks}.get(crowd, for_threads and for_tasks)


async def burst(contender: Contender, crowd: str, threads: int, tasks: int) -> list[float]:
    """Seconds each of a crowd took."""
    ask, ask_async = contender.ask, contender.ask_async
    waiting = []
    if crowd != "tasks" and ask is not None:
        waiting.append(asyncio.to_thread(in_threads, ask, threads))
    if crowd != "threads" and ask_async is not None:
        waiting.append(in_tasks(ask_async, tasks))
    return [seconds for took in await asyncio.gather(*waiting) for seconds in took]


async def measured(
    server: TokenServer, make: type[Any], crowd: str, moment: str, threads: int, tasks: int
) -> tuple[int, float] | None:
    """Token requests, and how long the last caller took; None where nobody is served."""
    contender: Contender = make(server)
    try:
        if not serves(contender, crowd):
            return None
        if moment == "expiry":
            server.set_lifetime(1)
            if contender.ask_async is not None:
                await contender.ask_async()
            elif contender.ask is not None:
                contender.ask()
            await asyncio.sleep(1.05)
        server.set_lifetime(3600)
        before = server.count
        took = await burst(contender, crowd, threads, tasks)
        return server.count - before, max(took)
    finally:
        await contender.close()


def round_trip(server: TokenServer, rounds: int) -> float:
    """Seconds that one caller by itself takes to a new token."""
    with TokenClient(**settings(server)) as client:
        client.request_token()
        took = []
        for _ in range(rounds):
            began = time.perf_counter()
            client.request_token()
            took.append(time.perf_counter() - began)
    return statistics.median(took)


def run(*, smoke: bool) -> Iterator[Goal]:
    """Each library that has a way for the crowd, in turn, several rounds."""
    threads, tasks, rounds = (20, 50, 1) if smoke else (200, 1000, 5)
    crowds = {
        "threads": f"{threads} threads",
        "tasks": f"{tasks} tasks",
        "mixed": f"{threads} threads and {tasks} tasks",
    }
    found: dict[tuple[str, str, str], Burst] = {}
    with running(LATENCY) as server, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Authlib's own deprecations
        alone = round_trip(server, 3 if smoke else 20)
        for _ in range(rounds):
            for name, make in CONTENDERS.items():
                for crowd in crowds:
                    for moment in MOMENTS:
                        result = asyncio.run(measured(server, make, crowd, moment, threads, tasks))
                        if result is not None:
                            cell = found.setdefault((crowd, moment, name), Burst([], []))
                            cell.requests.append(result[0])
                            cell.seconds.append(result[1])
    print(f"  one caller alone: {alone * 1e3:.0f} ms")
    for crowd, title in crowds.items():
        for moment in MOMENTS:
            print(f"  {title}, {moment}:")
            for name in CONTENDERS:
                if (crowd, moment, name) in found:
                    print(f"    {name:<32} {found[crowd, moment, name]}")
    ours = [(key, cell) for key, cell in found.items() if key[2].startswith("keystay")]
    yield Goal("keystay's requests, most", max(max(cell.requests) for _, cell in ours), 1)
    for (crowd, moment, name), cell in ours:
        beyond = statistics.median(cell.seconds) - alone
        yield Goal(
            f"{name}, {crowd}, {moment}: ms beyond a round trip", beyond * 1e3, ALLOWED * 1e3
        )
