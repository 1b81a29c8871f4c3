"""`client.requests_auth()`: for `requests` what `auth()` is for httpx and httpx2."""

from __future__ import annotations

import io
import itertools
import pickle
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
import requests
import requests.adapters

import keystay
from keystay.errors import ConfigurationError
from keystay.testing import Reply, Request, SmartTestServer
from tests.support.secrets_watch import WATCH
from tests.unit.tokens.test_auth import BASE, ORIGINS, Pair, offline, pair

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.token_clients import MakeClient

__all__ = ["offline", "pair"]

pytestmark = pytest.mark.usefixtures("no_environment")


class Recorder(requests.adapters.BaseAdapter):
    """Keeps what would have gone out."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: list[requests.PreparedRequest] = []

    def send(  # type: ignore[override]
        self, request: requests.PreparedRequest, **options: object
    ) -> requests.Response:
        self.sent.append(request)
        response = requests.Response()
        response.status_code, response.request, response.url = 200, request, str(request.url)
        response.raw = io.BytesIO()
        response._content = b""
        return response

    def close(self) -> None:
        """Nothing is open."""


def signed(client: keystay.TokenClient, url: str) -> requests.PreparedRequest | None:
    """The request as requests sends it, if it does."""
    recorder = Recorder()
    with requests.Session() as session:
        session.mount("https://", recorder)
        session.mount("http://", recorder)
        session.get(url, auth=client.requests_auth())
    return recorder.sent[0]


# What requests and urllib3 make of an address that httpx refuses, or reads in another way.
STRANGE = {
    "backslash-before-host": (r"https://evil.example\@ehr.example.org/x", False),
    "backslash-after-host": (r"https://ehr.example.org\@evil.example/x", None),
    "percent-in-host": ("https://ehr.example.org%2eevil.example/x", False),
    "blank-in-front": (" https://ehr.example.org/x", True),
    "port-zero": ("https://ehr.example.org:0/x", True),  # requests leaves it out
    "full-width-dot": (ORIGINS["full-width-dot"][0], False),
}


SAME = {name: case for name, case in ORIGINS.items() if name not in STRANGE}


@pytest.mark.parametrize(("url", "attached"), SAME.values(), ids=SAME)
def test_attached_by_origin(offline: keystay.TokenClient, url: str, attached: bool) -> None:
    """The same table as for auth()."""
    sent = signed(offline, url)
    assert sent is not None
    assert attached == (sent.headers.get("Authorization") == offline.authorization())


@pytest.mark.parametrize(("url", "attached"), STRANGE.values(), ids=STRANGE)
def test_strange_addresses(offline: keystay.TokenClient, url: str, attached: bool | None) -> None:
    """The token goes along only where every parser on the way names an allowed origin."""
    from urllib.parse import urlsplit

    from urllib3.util import parse_url

    try:
        sent = signed(offline, url)
    except requests.exceptions.RequestException:
        return
    assert sent is not None
    has_token = "Authorization" in sent.headers
    if attached is not None:
        assert attached == has_token
    if has_token:
        hosts = {parse_url(str(sent.url)).host, urlsplit(str(sent.url)).hostname}
        assert {"ehr.example.org"} == hosts


@pytest.fixture
def client(make_client: MakeClient, registered: SmartTestServer) -> keystay.TokenClient:
    """A client of the strict server."""
    made: keystay.TokenClient = make_client(registered)
    return made


@pytest.fixture
def session(client: keystay.TokenClient) -> Iterator[requests.Session]:
    """A session with its auth."""
    with requests.Session() as made:
        made.auth = client.requests_auth()
        yield made


@pytest.fixture
def base(registered: SmartTestServer) -> str:
    """Where the Patients are."""
    return registered.fhir_base_url


def test_session(session: requests.Session, base: str, registered: SmartTestServer) -> None:
    """One token for many reads of a session, over one connection."""
    assert ["123"] * 3 == [session.get(f"{base}/Patient/123").json()["id"] for _ in range(3)]
    assert 1 == len(registered.log.of("token"))


def test_single_call(client: keystay.TokenClient, base: str) -> None:
    """Without a session it works as well; the caller's own header is replaced."""
    answer = requests.get(
        f"{base}/Patient/123",
        auth=client.requests_auth(),
        headers={"Authorization": "Basic x"},
        timeout=10,
    )
    assert (200, client.authorization()) == (
        answer.status_code,
        answer.request.headers["Authorization"],
    )


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirect_elsewhere_does_not_carry_the_token(
    session: requests.Session, base: str, pair: Pair, status: int
) -> None:
    """Another origin never sees the token, and its 401 does not cost us one."""
    target = f"{pair.other.origin}/elsewhere"
    pair.fhir.script("/fhir/Patient/123", [Reply.redirect(target, status=status)])
    pair.other.script("/elsewhere", [Reply(401)])
    assert 401 == session.get(f"{base}/Patient/123").status_code
    assert ["authorization" in e.headers for e in pair.other.log.events] == [False]
    assert 1 == len(pair.fhir.log.of("token"))


def test_redirect_within_the_server_carries_it(
    session: requests.Session, base: str, registered: SmartTestServer
) -> None:
    """The same origin gets it again, and a 401 there renews it."""
    registered.script("/fhir/old", [Reply.redirect("/fhir/Patient/123")] * 2)
    assert "123" == session.get(f"{base}/old").json()["id"]
    registered.script("/fhir/Patient/123", [Reply(401), None])
    assert "123" == session.get(f"{base}/old").json()["id"]
    assert 2 == len(registered.log.of("token"))


class TestUnauthorized:
    """What a 401 does."""

    def test_renews_once(
        self, session: requests.Session, base: str, registered: SmartTestServer
    ) -> None:
        """A revoked token is replaced, and the request sent once more."""
        session.get(f"{base}/Patient/123")
        registered.revoke_tokens()
        answer = session.get(f"{base}/Patient/123")
        assert (200, [401]) == (answer.status_code, [past.status_code for past in answer.history])
        assert [200, 401, 200] == [event.status for event in registered.log.of("fhir")]
        assert 2 == len(registered.log.of("token"))

    def test_then_a_redirect(
        self, session: requests.Session, base: str, registered: SmartTestServer
    ) -> None:
        """What follows after the renewal gets there, for no further token."""
        session.get(f"{base}/Patient/123")
        registered.revoke_tokens()
        registered.script("/fhir/old", [Reply(401), Reply.redirect("/fhir/Patient/123")])
        assert "123" == session.get(f"{base}/old").json()["id"]
        assert 2 == len(registered.log.of("token"))

    def test_second_is_returned(
        self, session: requests.Session, base: str, registered: SmartTestServer
    ) -> None:
        """When the new token is refused too, the caller gets that answer."""
        registered.script("/fhir/Patient/123", [Reply(401)] * 3)
        assert 401 == session.get(f"{base}/Patient/123").status_code
        assert 2 == len(registered.log.of("scripted"))
        assert 2 == len(registered.log.of("token"))

    def test_403_renews_nothing(
        self, session: requests.Session, base: str, registered: SmartTestServer
    ) -> None:
        """Only 401 says that the token is no good."""
        registered.script("/fhir/Patient/123", [Reply(403)])
        assert 403 == session.get(f"{base}/Patient/123").status_code
        assert 1 == len(registered.log.of("token"))

    def test_no_token_comes(
        self, session: requests.Session, base: str, registered: SmartTestServer
    ) -> None:
        """When no new one is to be had, the error says why; the connection is not left behind."""
        session.get(f"{base}/Patient/123")
        registered.revoke_tokens()
        registered.script(registered.token_endpoint, [Reply(503)])
        with pytest.raises(keystay.KeystayError) as caught:
            session.get(f"{base}/Patient/123", stream=True)
        assert "token-server-error" == caught.value.code

    def test_streaming(
        self, session: requests.Session, base: str, registered: SmartTestServer
    ) -> None:
        """`stream=True` holds for the second try, and the first answer's connection is free."""
        session.get(f"{base}/Patient/123")
        registered.revoke_tokens()
        with session.get(f"{base}/Patient/123", stream=True) as answer:
            assert not answer._content_consumed  # type: ignore[attr-defined]
            assert b"123" in b"".join(answer.iter_content(16))
        assert 2 == len(registered.log.of("token"))

    def test_redirect_elsewhere_after_it(
        self, session: requests.Session, base: str, pair: Pair
    ) -> None:
        """The second try's redirect carries no token to another origin either."""
        target = f"{pair.other.origin}/elsewhere"
        pair.fhir.script("/fhir/Patient/123", [Reply(401), Reply.redirect(target)])
        pair.other.script("/elsewhere", [Reply(200)])
        assert 200 == session.get(f"{base}/Patient/123").status_code
        assert ["authorization" in e.headers for e in pair.other.log.events] == [False]


class Taken:
    """A FHIR server that refuses the first request, and keeps the bodies."""

    def __init__(self, server: SmartTestServer) -> None:
        self.bodies: list[bytes] = []
        setattr(server.fhir_server, "handle", self.answer)  # noqa: B010

    def answer(self, request: Request) -> Reply:
        self.bodies.append(request.body)
        return Reply(401 if len(self.bodies) == 1 else 200)


class TestBodies:
    """What is sent again."""

    @pytest.fixture
    def taken(self, client: keystay.TokenClient, registered: SmartTestServer) -> Taken:
        """What the FHIR server got after discovery."""
        client.token()
        return Taken(registered)

    @pytest.mark.parametrize(
        ("body", "expected"),
        [
            pytest.param({"data": b"abc"}, b"abc", id="bytes"),
            pytest.param({"data": "abc"}, b"abc", id="text"),
            pytest.param({"data": {"a": "1"}}, b"a=1", id="form"),
            pytest.param({"json": {"a": 1}}, b'{"a": 1}', id="json"),
            pytest.param({}, b"", id="none"),
        ],
    )
    def test_whole(
        self, session: requests.Session, base: str, taken: Taken, body: Any, expected: bytes
    ) -> None:
        """What is in memory is sent twice."""
        assert 200 == session.post(f"{base}/Patient", **body).status_code
        assert [expected] * 2 == taken.bodies

    def test_multipart(self, session: requests.Session, base: str, taken: Taken) -> None:
        """An upload is built in memory."""
        upload = {"file": ("a.txt", b"abc")}
        assert 200 == session.post(f"{base}/Binary", files=upload).status_code
        assert taken.bodies[0] == taken.bodies[1]
        assert b"abc" in taken.bodies[0]

    def test_file_from_its_position(
        self, session: requests.Session, base: str, taken: Taken, tmp_path: Path
    ) -> None:
        """A file is sent from where it stood, both times."""
        path = tmp_path / "bundle.json"
        path.write_bytes(b"head-abc")
        with path.open("rb") as body:
            body.seek(5)
            assert 200 == session.post(f"{base}/Bundle", data=body).status_code
        assert [b"abc"] * 2 == taken.bodies

    @pytest.mark.parametrize("kind", ["generator", "pipe"])
    def test_used_up(
        self, session: requests.Session, base: str, registered: SmartTestServer, kind: str
    ) -> None:
        """What cannot be sent again is not sent empty: the 401 is returned, the token dropped."""
        session.get(f"{base}/Patient/123")
        registered.script("/fhir/Patient", [Reply(401), Reply(200)])

        class Generator:
            def __iter__(self) -> Iterator[bytes]:
                yield from (b"a", b"bc")

            def __len__(self) -> int:
                return 3

        class Pipe(Generator):
            def seekable(self) -> bool:
                return False

            def tell(self) -> int:
                return 0

            def seek(self, position: int) -> int:
                raise OSError("a pipe cannot be read again")

        body: Any = Generator() if kind == "generator" else Pipe()
        answer = session.post(f"{base}/Patient", data=body)
        assert 401 == answer.status_code
        assert 1 == len(registered.log.of("scripted"))
        session.get(f"{base}/Patient/123")
        assert 2 == len(registered.log.of("token"))


def test_threads(client: keystay.TokenClient, registered: SmartTestServer, base: str) -> None:
    """Eight threads with one auth get a 401 for one token: one renewal serves all."""
    rejected = client.authorization()
    together, numbers = threading.Barrier(8), itertools.count()

    def answer(request: Request) -> Reply:
        if request.headers["authorization"] != rejected:
            return Reply(200)
        together.wait(10)
        return Reply(401, delay=0.02 * next(numbers))

    setattr(registered.fhir_server, "handle", answer)  # noqa: B010
    auth, statuses = client.requests_auth(), []

    def read() -> None:
        statuses.append(requests.get(f"{base}/x", auth=auth, timeout=10).status_code)

    threads = [threading.Thread(target=read) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [200] * 8 == statuses
    assert 2 == len(registered.log.of("token"))


def test_shows_no_secret_and_is_not_pickled(client: keystay.TokenClient) -> None:
    """As auth()."""
    client.token()
    auth = client.requests_auth()
    WATCH.check(repr(auth), "a repr")
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(auth)


def test_requests_is_not_installed(
    offline: keystay.TokenClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what to install."""
    from keystay.tokens import auth

    auth._requests_class.cache_clear()
    monkeypatch.setitem(sys.modules, "requests.auth", None)
    with pytest.raises(ConfigurationError, match="requests is not installed") as caught:
        offline.requests_auth()
    assert "requests-missing" == caught.value.code


def test_base(offline: keystay.TokenClient) -> None:
    """The base URL itself gets the token."""
    sent = signed(offline, BASE)
    assert sent is not None
    assert "Authorization" in sent.headers
