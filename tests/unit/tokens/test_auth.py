"""`client.auth()`: the token goes where it belongs, and a 401 renews it once."""

from __future__ import annotations

import itertools
import threading
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

import keystay
from keystay.errors import ConfigurationError
from keystay.testing import Reply, Request, SmartTestServer
from tests.support.token_clients import client_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from keystay.signer import Signer
    from tests.support.token_clients import MakeClient

pytestmark = pytest.mark.usefixtures("no_environment")

BASE = "https://ehr.example.org/fhir/r4"
FILES = "https://files.example.org:8443/bulk"

ORIGINS = {
    "base": ("https://ehr.example.org/fhir/r4/Patient/1", True),
    "other-path": ("https://ehr.example.org/other", True),
    "default-port": ("https://ehr.example.org:443/x", True),
    "upper-case": ("HTTPS://EHR.Example.ORG/x", True),
    "user-information": ("https://user:pw@ehr.example.org/x", True),
    "allowed": ("https://files.example.org:8443/x", True),
    "ipv6": ("https://[2001:db8::1]:8443/x", True),
    "ipv6-long-form": ("https://[2001:db8::1]/x", False),
    "other-port": ("https://ehr.example.org:8443/x", False),
    "port-80": ("https://ehr.example.org:80/x", False),
    "other-scheme": ("http://ehr.example.org/x", False),
    "scheme-with-443": ("http://ehr.example.org:443/x", False),
    "allowed-default-port": ("https://files.example.org/x", False),
    "subdomain": ("https://a.ehr.example.org/x", False),
    "parent": ("https://example.org/x", False),
    "suffix": ("https://ehr.example.org.evil.example/x", False),
    "prefix": ("https://evil-ehr.example.org/x", False),
    "trailing-dot": ("https://ehr.example.org./x", False),
    "host-as-user": ("https://ehr.example.org@evil.example/x", False),
    "host-as-password": ("https://a:ehr.example.org@evil.example/x", False),
    "host-in-path": ("https://evil.example/ehr.example.org", False),
    "host-in-query": ("https://evil.example?https://ehr.example.org/", False),
    "host-in-fragment": ("https://evil.example#@ehr.example.org/", False),
    "loopback": ("http://127.0.0.1/x", False),
}


def signed(client: Any, url: str) -> httpx.Request:
    """The request as an httpx client sends it."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200)

    with httpx.Client(transport=httpx.MockTransport(answer), auth=client.auth()) as fhir:
        fhir.get(url)
    return seen[0]


@pytest.fixture
def offline(make_client: MakeClient, registered: SmartTestServer) -> keystay.TokenClient:
    """A client of a server that is not there, with a token from one that is."""
    client: keystay.TokenClient = make_client(
        fhir_base_url=BASE, allowed_origins=[FILES, "https://[2001:db8::1]:8443"]
    )
    granted = make_client(registered).token()
    client._cache.replace(granted)
    return client


@pytest.mark.parametrize(("url", "attached"), ORIGINS.values(), ids=ORIGINS)
def test_attached_by_origin(offline: keystay.TokenClient, url: str, attached: bool) -> None:
    """The FHIR server's origin and those allowed get the token, whatever looks like them not."""
    assert attached == ("authorization" in signed(offline, url).headers)


def test_value(offline: keystay.TokenClient) -> None:
    """The header is the token's, and replaces the caller's own."""
    assert offline.authorization() == signed(offline, BASE).headers["authorization"]


class Pair:
    """A FHIR server and another origin."""

    def __init__(self, fhir: SmartTestServer, other: SmartTestServer) -> None:
        self.fhir, self.other = fhir, other


@pytest.fixture
def pair(registered: SmartTestServer) -> Iterator[Pair]:
    """Two origins."""
    with SmartTestServer() as other:
        yield Pair(registered, other)


@pytest.fixture
def fhir(make_client: MakeClient, registered: SmartTestServer) -> Iterator[httpx.Client]:
    """An httpx client with the token client's auth, following redirects."""
    client = make_client(registered)
    with httpx.Client(
        base_url=client.fhir_base_url, auth=client.auth(), follow_redirects=True
    ) as made:
        yield made


@pytest.fixture
async def async_fhir(
    registered: SmartTestServer, pem_signer: Signer
) -> AsyncIterator[httpx.AsyncClient]:
    """The same, asynchronous throughout."""
    async with (
        keystay.AsyncTokenClient(**client_settings(pem_signer, registered)) as client,
        httpx.AsyncClient(base_url=client.fhir_base_url, auth=client.auth()) as made,
    ):
        yield made


def test_read(fhir: httpx.Client, registered: SmartTestServer) -> None:
    """A Patient is read with one token for many reads."""
    assert ["123"] * 3 == [fhir.get("Patient/123").json()["id"] for _ in range(3)]
    assert 1 == len(registered.log.of("token"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_elsewhere_does_not_carry_the_token(
    fhir: httpx.Client, pair: Pair, status: int
) -> None:
    """Another origin never sees the token, and its 401 does not cost us one."""
    target = f"{pair.other.origin}/elsewhere"
    pair.fhir.script("/fhir/Patient/123", [Reply.redirect(target, status=status)])
    pair.other.script("/elsewhere", [Reply(401)])
    assert 401 == fhir.get("Patient/123").status_code
    assert ["authorization" in e.headers for e in pair.other.log.events] == [False]
    assert 1 == len(pair.fhir.log.of("token"))


def test_redirect_within_the_server_carries_it(
    fhir: httpx.Client, registered: SmartTestServer
) -> None:
    """The same origin gets it again."""
    registered.script("/fhir/old", [Reply.redirect("/fhir/Patient/123")])
    assert "123" == fhir.get("old").json()["id"]


class TestUnauthorized:
    """What a 401 does."""

    def test_renews_once(self, fhir: httpx.Client, registered: SmartTestServer) -> None:
        """A token revoked at the server is replaced, and the request sent once more."""
        fhir.get("Patient/123")
        registered.revoke_tokens()
        assert 200 == fhir.get("Patient/123").status_code
        assert [200, 401, 200] == [event.status for event in registered.log.of("fhir")]
        assert 2 == len(registered.log.of("token"))

    def test_second_is_returned(self, fhir: httpx.Client, registered: SmartTestServer) -> None:
        """When the new token is refused too, the caller gets that answer."""
        registered.script("/fhir/Patient/123", [Reply(401), Reply(401), Reply(401)])
        assert 401 == fhir.get("Patient/123").status_code
        assert 2 == len(registered.log.of("scripted"))
        assert 2 == len(registered.log.of("token"))

    def test_403_renews_nothing(self, fhir: httpx.Client, registered: SmartTestServer) -> None:
        """Only 401 says that the token is no good."""
        registered.script("/fhir/Patient/123", [Reply(403)])
        assert 403 == fhir.get("Patient/123").status_code
        assert 1 == len(registered.log.of("token"))

    def test_body_is_sent_again(self, fhir: httpx.Client, registered: SmartTestServer) -> None:
        """Bytes and JSON can be sent twice."""
        registered.script("/fhir/Patient", [Reply(401), Reply(200)])
        assert 200 == fhir.post("Patient", json={"resourceType": "Patient"}).status_code

    def test_stream_is_not_sent_again(
        self, fhir: httpx.Client, registered: SmartTestServer
    ) -> None:
        """A stream that is used up is not sent empty: the 401 is returned, the token dropped."""
        fhir.get("Patient/123")
        registered.script("/fhir/Patient", [Reply(401), Reply(200)])
        headers = {"Content-Length": "3"}
        answer = fhir.post("Patient", content=iter([b"a", b"bc"]), headers=headers)
        assert 401 == answer.status_code
        assert 1 == len(registered.log.of("scripted"))
        fhir.get("Patient/123")
        assert 2 == len(registered.log.of("token"))

    def test_late_ones_do_not_take_the_successor(
        self, make_client: MakeClient, registered: SmartTestServer
    ) -> None:
        """Eight threads get a 401 for one token, one after the other: one renewal serves all."""
        client = make_client(registered)
        rejected = client.authorization()
        together, numbers = threading.Barrier(8), itertools.count()

        def answer(request: Request) -> Reply:
            if request.headers["authorization"] != rejected:
                return Reply(200)
            together.wait(10)
            return Reply(401, delay=0.05 * next(numbers))

        setattr(registered.fhir_server, "handle", answer)  # noqa: B010
        statuses: list[int] = []
        with httpx.Client(base_url=client.fhir_base_url, auth=client.auth(), timeout=10) as fhir:
            threads = [
                threading.Thread(target=lambda: statuses.append(fhir.get("x").status_code))
                for _ in range(8)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert [200] * 8 == statuses
        assert 2 == len(registered.log.of("token"))


class TestAsync:
    """The asynchronous side."""

    async def test_read_and_renew(
        self, async_fhir: httpx.AsyncClient, registered: SmartTestServer
    ) -> None:
        """AsyncTokenClient with httpx.AsyncClient, a 401 in between."""
        assert 200 == (await async_fhir.get("Patient/123")).status_code
        registered.revoke_tokens()
        assert 200 == (await async_fhir.get("Patient/123")).status_code
        assert 2 == len(registered.log.of("token"))

    async def test_sync_token_client_serves_both(
        self, make_client: MakeClient, registered: SmartTestServer
    ) -> None:
        """TokenClient with httpx.AsyncClient, the token fetched off the event loop."""
        client = make_client(registered)
        async with httpx.AsyncClient(base_url=client.fhir_base_url, auth=client.auth()) as fhir:
            assert 200 == (await fhir.get("Patient/123")).status_code
            registered.revoke_tokens()
            assert 200 == (await fhir.get("Patient/123")).status_code

    async def test_other_origin_gets_nothing(
        self, async_fhir: httpx.AsyncClient, pair: Pair
    ) -> None:
        """A URL of another origin goes out without a token, and without asking for one."""
        await async_fhir.get(f"{pair.other.origin}/x")
        assert ["authorization" in e.headers for e in pair.other.log.events] == [False]
        assert () == pair.fhir.log.of("token")

    async def test_stream_is_not_sent_again(
        self, async_fhir: httpx.AsyncClient, registered: SmartTestServer
    ) -> None:
        """As for the synchronous client."""

        async def body() -> AsyncIterator[bytes]:
            yield b"abc"

        registered.script("/fhir/Patient", [Reply(401), Reply(200)])
        headers = {"Content-Length": "3"}
        answer = await async_fhir.post("Patient", content=body(), headers=headers)
        assert 401 == answer.status_code
        assert 1 == len(registered.log.of("scripted"))

    async def test_many_tasks_one_token(
        self, async_fhir: httpx.AsyncClient, registered: SmartTestServer
    ) -> None:
        """Sixteen reads at once ask for one token."""
        async with anyio.create_task_group() as tasks:
            for _ in range(16):
                tasks.start_soon(async_fhir.get, "Patient/123")
        assert 1 == len(registered.log.of("token"))
        assert [200] * 16 == [event.status for event in registered.log.of("fhir")]


def test_async_auth_in_a_synchronous_client(
    registered: SmartTestServer, pem_signer: Signer
) -> None:
    """An AsyncTokenClient's auth cannot wait in a thread: it says what can."""
    client = keystay.AsyncTokenClient(**client_settings(pem_signer, registered))
    with (
        httpx.Client(auth=client.auth()) as wrong,
        pytest.raises(ConfigurationError, match="cannot serve a synchronous") as caught,
    ):
        wrong.get(f"{registered.fhir_base_url}/Patient/123")
    assert "keystay.TokenClient" in str(caught.value.hint)
