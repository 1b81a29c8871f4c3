"""`client.auth()`: the token goes where it belongs, and a 401 renews it once."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import pytest

import keystay
from keystay.errors import ConfigurationError
from keystay.testing import Reply, Request, SmartTestServer
from tests.support.token_clients import CLIENT_ID, client_settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from keystay.signer import Signer
    from tests.support.token_clients import MakeClient

pytestmark = pytest.mark.usefixtures("no_environment")

PROGRAMS = Path(__file__).parents[2] / "programs"
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
    "port-zero": ("https://ehr.example.org:0/x", False),
    "dots-in-path": ("https://ehr.example.org/fhir/../../x", True),
    "upper-case-user": ("https://EHR.example.org@evil.example/x", False),
    "full-width-dot": ("https://ehr.example.org\uff0eevil.example/x", False),
}


def signed(library: Any, client: keystay.TokenClient, url: str) -> Any:
    """The request as a library's client sends it."""
    seen: list[Any] = []

    def answer(request: Any) -> Any:
        seen.append(request)
        return library.Response(200)

    transport = library.MockTransport(answer)
    with library.Client(transport=transport, auth=client.auth()) as fhir:
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
def test_attached_by_origin(
    offline: keystay.TokenClient, http_library: Any, url: str, attached: bool
) -> None:
    """The FHIR server's origin and those allowed get the token, whatever looks like them not."""
    assert attached == ("authorization" in signed(http_library, offline, url).headers)


def test_value(offline: keystay.TokenClient, http_library: Any) -> None:
    """The header is the token's, and replaces the caller's own."""
    assert offline.authorization() == signed(http_library, offline, BASE).headers["authorization"]


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
def fhir(make_client: MakeClient, registered: SmartTestServer, http_library: Any) -> Iterator[Any]:
    """A client of either library with the token client's auth, following redirects."""
    client = make_client(registered)
    with http_library.Client(
        base_url=client.fhir_base_url, auth=client.auth(), follow_redirects=True
    ) as made:
        yield made


@pytest.fixture
async def async_fhir(
    registered: SmartTestServer, pem_signer: Signer, http_library: Any
) -> AsyncIterator[Any]:
    """The same, asynchronous throughout."""
    async with (
        keystay.AsyncTokenClient(**client_settings(pem_signer, registered)) as client,
        http_library.AsyncClient(base_url=client.fhir_base_url, auth=client.auth()) as made,
    ):
        yield made


def test_read(fhir: Any, registered: SmartTestServer) -> None:
    """A Patient is read with one token for many reads."""
    assert ["123"] * 3 == [fhir.get("Patient/123").json()["id"] for _ in range(3)]
    assert 1 == len(registered.log.of("token"))


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_elsewhere_does_not_carry_the_token(fhir: Any, pair: Pair, status: int) -> None:
    """Another origin never sees the token, and its 401 does not cost us one."""
    target = f"{pair.other.origin}/elsewhere"
    pair.fhir.script("/fhir/Patient/123", [Reply.redirect(target, status=status)])
    pair.other.script("/elsewhere", [Reply(401)])
    assert 401 == fhir.get("Patient/123").status_code
    assert ["authorization" in e.headers for e in pair.other.log.events] == [False]
    assert 1 == len(pair.fhir.log.of("token"))


def test_redirect_within_the_server_carries_it(fhir: Any, registered: SmartTestServer) -> None:
    """The same origin gets it again."""
    registered.script("/fhir/old", [Reply.redirect("/fhir/Patient/123")])
    assert "123" == fhir.get("old").json()["id"]


class TestUnauthorized:
    """What a 401 does."""

    def test_renews_once(self, fhir: Any, registered: SmartTestServer) -> None:
        """A token revoked at the server is replaced, and the request sent once more."""
        fhir.get("Patient/123")
        registered.revoke_tokens()
        assert 200 == fhir.get("Patient/123").status_code
        assert [200, 401, 200] == [event.status for event in registered.log.of("fhir")]
        assert 2 == len(registered.log.of("token"))

    def test_second_is_returned(self, fhir: Any, registered: SmartTestServer) -> None:
        """When the new token is refused too, the caller gets that answer."""
        registered.script("/fhir/Patient/123", [Reply(401), Reply(401), Reply(401)])
        assert 401 == fhir.get("Patient/123").status_code
        assert 2 == len(registered.log.of("scripted"))
        assert 2 == len(registered.log.of("token"))

    def test_403_renews_nothing(self, fhir: Any, registered: SmartTestServer) -> None:
        """Only 401 says that the token is no good."""
        registered.script("/fhir/Patient/123", [Reply(403)])
        assert 403 == fhir.get("Patient/123").status_code
        assert 1 == len(registered.log.of("token"))

    def test_body_is_sent_again(self, fhir: Any, registered: SmartTestServer) -> None:
        """Bytes and JSON can be sent twice."""
        registered.script("/fhir/Patient", [Reply(401), Reply(200)])
        assert 200 == fhir.post("Patient", json={"resourceType": "Patient"}).status_code

    def test_stream_is_not_sent_again(self, fhir: Any, registered: SmartTestServer) -> None:
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
        self, make_client: MakeClient, registered: SmartTestServer, http_library: Any
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
        base, auth = client.fhir_base_url, client.auth()
        with http_library.Client(base_url=base, auth=auth, timeout=10) as fhir:
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

    async def test_read_and_renew(self, async_fhir: Any, registered: SmartTestServer) -> None:
        """AsyncTokenClient with an AsyncClient, a 401 in between."""
        assert 200 == (await async_fhir.get("Patient/123")).status_code
        registered.revoke_tokens()
        assert 200 == (await async_fhir.get("Patient/123")).status_code
        assert 2 == len(registered.log.of("token"))

    async def test_sync_token_client_serves_both(
        self, make_client: MakeClient, registered: SmartTestServer, http_library: Any
    ) -> None:
        """TokenClient with an AsyncClient, the token fetched off the event loop."""
        client = make_client(registered)
        base, auth = client.fhir_base_url, client.auth()
        async with http_library.AsyncClient(base_url=base, auth=auth) as fhir:
            assert 200 == (await fhir.get("Patient/123")).status_code
            registered.revoke_tokens()
            assert 200 == (await fhir.get("Patient/123")).status_code

    async def test_other_origin_gets_nothing(self, async_fhir: Any, pair: Pair) -> None:
        """A URL of another origin goes out without a token, and without asking for one."""
        await async_fhir.get(f"{pair.other.origin}/x")
        assert ["authorization" in e.headers for e in pair.other.log.events] == [False]
        assert () == pair.fhir.log.of("token")

    async def test_stream_is_not_sent_again(
        self, async_fhir: Any, registered: SmartTestServer
    ) -> None:
        """As for the synchronous client."""

        async def body() -> AsyncIterator[bytes]:
            yield b"abc"

        registered.script("/fhir/Patient", [Reply(401), Reply(200)])
        headers = {"Content-Length": "3"}
        answer = await async_fhir.post("Patient", content=body(), headers=headers)
        assert 401 == answer.status_code
        assert 1 == len(registered.log.of("scripted"))

    async def test_many_tasks_one_token(self, async_fhir: Any, registered: SmartTestServer) -> None:
        """Sixteen reads at once ask for one token."""
        async with anyio.create_task_group() as tasks:
            for _ in range(16):
                tasks.start_soon(async_fhir.get, "Patient/123")
        assert 1 == len(registered.log.of("token"))
        assert [200] * 16 == [event.status for event in registered.log.of("fhir")]


def test_async_auth_in_a_synchronous_client(
    registered: SmartTestServer, pem_signer: Signer, http_library: Any
) -> None:
    """An AsyncTokenClient's auth cannot wait in a thread: it says what can."""
    client = keystay.AsyncTokenClient(**client_settings(pem_signer, registered))
    with (
        http_library.Client(auth=client.auth()) as wrong,
        pytest.raises(ConfigurationError, match="cannot serve a synchronous") as caught,
    ):
        wrong.get(f"{registered.fhir_base_url}/Patient/123")
    assert "keystay.TokenClient" in str(caught.value.hint)


async def test_one_object_in_all_four(make_client: MakeClient, registered: SmartTestServer) -> None:
    """Where both libraries are imported, an auth() serves the clients of both, sync and async."""
    import httpx
    import httpx2

    client = make_client(registered)
    auth, base = client.auth(), client.fhir_base_url
    for library in (httpx, httpx2):
        with library.Client(base_url=base, auth=auth) as fhir:
            assert "123" == fhir.get("Patient/123").json()["id"]
    async with httpx.AsyncClient(base_url=base, auth=auth) as first:
        assert "123" == (await first.get("Patient/123")).json()["id"]
    registered.revoke_tokens()
    async with httpx2.AsyncClient(base_url=base, auth=auth) as second:
        assert "123" == (await second.get("Patient/123")).json()["id"]
    assert 2 == len(registered.log.of("token"))


class TestWrongCall:
    """What is given as `auth=` and is no auth."""

    async def test_the_client_itself(
        self, make_client: MakeClient, registered: SmartTestServer, http_library: Any
    ) -> None:
        """`auth=client` is told to be `auth=client.auth()`, and nothing is sent."""
        client = make_client(registered)
        said = rf"not one that {http_library.__name__} can use"
        url = f"{registered.fhir_base_url}/Patient/123"
        with (
            http_library.Client(auth=client) as fhir,
            pytest.raises(ConfigurationError, match=said) as caught,
        ):
            fhir.get(url)
        assert "auth=client.auth()" in str(caught.value.hint)
        async with http_library.AsyncClient(auth=client.as_async()) as tasks:
            with pytest.raises(ConfigurationError, match=said):
                await tasks.get(url)
        assert 0 == len(registered.log)

    @pytest.mark.parametrize("wrong", ["itself", "auth", "async", "async-auth"])
    def test_in_requests(
        self, make_client: MakeClient, registered: SmartTestServer, wrong: str
    ) -> None:
        """requests is told of `requests_auth()`, which only a TokenClient has."""
        import requests

        client = make_client(registered)
        given: Any = client.as_async() if wrong.startswith("async") else client
        given = given.auth() if wrong.endswith("auth") else given
        with pytest.raises(ConfigurationError, match="not one that requests can use") as caught:
            requests.get(f"{registered.fhir_base_url}/Patient/123", auth=given, timeout=10)
        assert "auth-unusable" == caught.value.code
        assert "client.requests_auth(), of a keystay.TokenClient" in str(caught.value.hint)
        assert 0 == len(registered.log)

    def test_somewhere_else(self, offline: keystay.TokenClient) -> None:
        """Anything else that calls it learns of the header."""
        with pytest.raises(ConfigurationError, match="header") as caught:
            offline.auth()("a request")  # type: ignore[operator]
        assert "client.authorization()" in str(caught.value.hint)

    @pytest.mark.parametrize(("first", "then"), [("httpx", "httpx2"), ("httpx2", "httpx")])
    def test_made_too_early(
        self, registered: SmartTestServer, pem_file: Path, first: str, then: str
    ) -> None:
        """An auth() knows the libraries imported when it was made; the error says which call."""
        done = subprocess.run(
            [sys.executable, PROGRAMS / "auth_made_too_early.py", registered.fhir_base_url,
             CLIENT_ID, pem_file, first, then],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert "" == done.stderr
        assert [
            "auth-unusable",
            f"Give {then} auth=client.auth(), called after {then} was imported.",
            "200",
        ] == done.stdout.splitlines()
