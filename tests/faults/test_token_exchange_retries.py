"""What is tried again and what never is: fresh assertions, one deadline, two budgets, one rate."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import socket
import struct
import threading
import time
import urllib.parse
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest

import keystay
from keystay.errors import (
    BackendUnavailableError,
    ConfigurationError,
    DiscoveryError,
    KeystayError,
    LoginError,
    NetworkError,
    RateBudgetError,
    TokenRefusedError,
    TokenServerError,
)
from keystay.signer import Signer
from keystay.testing import Reply, SmartTestServer
from tests.support.raw_server import RawServer, answer, read_request
from tests.support.secrets_watch import WATCH
from tests.support.threads import in_threads
from tests.support.token_clients import CLIENT_ID, SCOPE, client_settings, grant
from tests.unit.fakes import FakeKey

if TYPE_CHECKING:
    from collections.abc import Callable

    from keystay.backends import BackendSignature, SignRequest
    from tests.support.token_clients import MakeClient

pytestmark = pytest.mark.usefixtures("no_environment", "nothing_left")

Talk = "Callable[[RawServer, socket.socket], None]"


def jti_of(request: bytes) -> str:
    """The assertion's id, out of a token request as it came over the wire."""
    form = urllib.parse.parse_qs(request.partition(b"\r\n\r\n")[2].decode())
    claims = form["client_assertion"][0].split(".")[1]
    return str(json.loads(base64.urlsafe_b64decode(claims + "=="))["jti"])


def hang_up(server: RawServer, connection: socket.socket) -> None:
    """Take the request and close: the server may have granted, and nobody knows."""
    read_request(server, connection)


def reset(server: RawServer, connection: socket.socket) -> None:
    """Take the request and reset the connection."""
    read_request(server, connection)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset_midway(server: RawServer, connection: socket.socket) -> None:
    """Reset in the middle of the answer."""
    read_request(server, connection)
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n{")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


PASSING: dict[str, Any] = {
    "hangs-up": hang_up,
    "resets": reset,
    "resets-midway": reset_midway,
    "500": answer(b"", status="500 Oops"),
    "502-html": answer(b"<html>bad gateway</html>", status="502 Bad Gateway"),
    "503": answer(b"", status="503 Busy"),
    "502-compressed": answer(
        b"\x1f\x8b", status="502 Bad Gateway", headers={"Content-Encoding": "gzip"}
    ),
    "504": answer(b"", status="504 Late"),
    "429": answer(b"", status="429 Slow Down", headers={"Retry-After": "0"}),
    "429-compressed": answer(
        b"\x1f\x8b",
        status="429 Slow Down",
        headers={"Retry-After": "0", "Content-Encoding": "br"},
    ),
}


def then(first: Any, count: int) -> Any:
    """A talk that fails so often and then grants."""
    grants = answer(grant().body)

    def talk(server: RawServer, connection: socket.socket) -> None:
        (first if server.connections <= count else grants)(server, connection)

    return talk


def settings(server: RawServer, signer: Signer, **more: Any) -> dict[str, Any]:
    """A client of this server that tries again."""
    url = f"{server.origin}/token"
    retries = {"retries": 3, "signer_retries": 1, "timeout": 5}
    return client_settings(
        signer, fhir_base_url=server.origin, token_endpoint=url, **{**retries, **more}
    )


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
def test_what_passes_is_tried_again(
    raw_server: Callable[..., RawServer], pem_signer: Signer, fault: Any
) -> None:
    """Twice a fault, then a token; each request bears an assertion of its own."""
    server = raw_server(then(fault, 2))
    with keystay.TokenClient(**settings(server, pem_signer)) as client:
        assert SCOPE == client.token().scope
    assert 3 == len({jti_of(request) for request in server.requests})


@pytest.mark.parametrize(
    "fault",
    [reset, PASSING["503"], PASSING["429-compressed"]],
    ids=["resets", "503", "429-compressed"],
)
async def test_what_passes_is_tried_again_async(
    raw_server: Callable[..., RawServer], pem_signer: Signer, fault: Any
) -> None:
    """The same, under asyncio and trio."""
    server = raw_server(then(fault, 1))
    async with keystay.AsyncTokenClient(**settings(server, pem_signer)) as client:
        assert SCOPE == (await client.token()).scope
    assert 2 == len({jti_of(request) for request in server.requests})


@pytest.mark.parametrize("fault", [reset, PASSING["503"]], ids=["resets", "503"])
def test_not_for_ever(raw_server: Callable[..., RawServer], pem_signer: Signer, fault: Any) -> None:
    """After `retries` more tries the error is the caller's."""
    server = raw_server(fault)
    with (
        keystay.TokenClient(**settings(server, pem_signer, retries=2)) as client,
        pytest.raises((NetworkError, TokenServerError)) as caught,
    ):
        client.request_token()
    assert 3 == server.connections
    WATCH.check(str(caught.value), "the error")


def test_refused_connection(pem_signer: Signer) -> None:
    """A server that comes up while the client tries is reached."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = held.getsockname()[1]
        options = client_settings(
            pem_signer,
            fhir_base_url=f"http://127.0.0.1:{port}",
            token_endpoint=f"http://127.0.0.1:{port}/token",
            retries=10,
        )
        found: list[keystay.AccessToken] = []
        with keystay.TokenClient(**options) as client:
            thread = threading.Thread(target=lambda: found.append(client.token()))
            thread.start()
            time.sleep(0.3)
            held.listen()
            connection, _ = held.accept()
            with connection:
                connection.recv(65536)
                body = grant().body
                head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
                connection.sendall(head + body)
            thread.join()
    assert SCOPE == found[0].scope


def oauth(error: str, status: int) -> Any:
    """A refusal."""
    return answer(json.dumps({"error": error}).encode(), status=f"{status} No")


NEVER: dict[str, Any] = {
    "invalid_client": oauth("invalid_client", 401),
    "invalid_client-400": oauth("invalid_client", 400),
    "invalid_scope": oauth("invalid_scope", 400),
    "unauthorized_client": oauth("unauthorized_client", 400),
    "temporarily_unavailable-400": oauth("temporarily_unavailable", 400),
    "403": answer(b"", status="403 No"),
    "404": answer(b"", status="404 No"),
    "408": answer(b"", status="408 Late"),
    "200-error": answer(b'{"error":"server_error"}'),
    "302": answer(b"", status="302 Elsewhere", headers={"Location": "/elsewhere"}),
    "html": answer(b"<html>welcome</html>"),
    "bad-json": answer(b'{"access_token":'),
}


@pytest.mark.parametrize("fault", NEVER.values(), ids=NEVER)
def test_what_lasts_is_never_tried_again(
    raw_server: Callable[..., RawServer], pem_signer: Signer, fault: Any
) -> None:
    """What a server refuses once it refuses again; some count the attempts."""
    server = raw_server(fault)
    with (
        keystay.TokenClient(**settings(server, pem_signer)) as client,
        pytest.raises(KeystayError),
    ):
        client.token()
    assert 1 == server.connections


def test_discovery_is_tried_again(registered: SmartTestServer, make_client: MakeClient) -> None:
    """A FHIR server that is busy for a moment delays the token, no more."""
    registered.script(registered.smart_configuration_url, [Reply(503), Reply(429)])
    client = make_client(registered, retries=3)
    assert SCOPE == client.token().scope


def test_discovery_that_asks_to_wait_too_long(
    registered: SmartTestServer, make_client: MakeClient
) -> None:
    """The wait is in the error, and its Retry-After too."""
    registered.script(registered.smart_configuration_url, [Reply(503, {"Retry-After": "77"})])
    with pytest.raises(DiscoveryError, match=r"in 77 s") as caught:
        make_client(registered, retries=3).token()
    assert (503, 77.0) == (caught.value.status, caught.value.retry_after)


class TestRetryAfter:
    """A server that says when to come back."""

    @pytest.mark.parametrize("status", [429, 503])
    @pytest.mark.parametrize("form", ["seconds", "date"])
    def test_is_obeyed(
        self, registered: SmartTestServer, make_client: MakeClient, status: int, form: str
    ) -> None:
        """Not earlier than asked; a date is read by the server's own clock, ten minutes off."""
        sent = time.time() + 600
        headers = {"Retry-After": "1"}
        if form == "date":
            headers = {
                "Date": formatdate(sent, usegmt=True),
                "Retry-After": formatdate(sent + 1, usegmt=True),
            }
        registered.script(registered.token_endpoint, [Reply(status, headers)])
        options = {"retries": 1, "clock_correction": "warn"}
        client = make_client(registered, token_endpoint=registered.token_endpoint, **options)
        began = time.monotonic()
        assert SCOPE == client.token().scope
        assert 1 <= time.monotonic() - began < 4

    @pytest.mark.parametrize(
        ("status", "kind"), [(429, TokenRefusedError), (503, TokenServerError)]
    )
    def test_that_does_not_fit_is_told_at_once(
        self,
        registered: SmartTestServer,
        make_client: MakeClient,
        status: int,
        kind: type[TokenRefusedError],
    ) -> None:
        """No waiting for nothing: the error says how long, and nobody asks before that."""
        replies = [Reply(status, {"Retry-After": "120"})] * 3
        registered.script(registered.token_endpoint, replies)
        client = make_client(registered, token_endpoint=registered.token_endpoint, retries=3)
        began = time.monotonic()
        for expected in (r"120 s", r"asked again in 1[12]\d s"):
            with pytest.raises(kind, match=expected) as caught:
                client.token()
            assert 120.0 == caught.value.retry_after
        assert time.monotonic() - began < 2
        assert 1 == len(registered.log.of("scripted"))

    @pytest.mark.parametrize("status", ["429 Slow Down", "503 Busy"])
    def test_of_a_compressed_page(
        self, raw_server: Callable[..., RawServer], pem_signer: Signer, status: str
    ) -> None:
        """The page is not read, the wait is."""
        headers = {"Retry-After": "120", "Content-Encoding": "gzip"}
        server = raw_server(answer(b"\x1f\x8b", status=status, headers=headers))
        with (
            keystay.TokenClient(**settings(server, pem_signer)) as client,
            pytest.raises(TokenRefusedError) as caught,
        ):
            client.token()
        assert (int(status[:3]), 120.0) == (caught.value.status, caught.value.retry_after)

    def test_storm(self, registered: SmartTestServer, make_client: MakeClient) -> None:
        """A server that answers 429 to everything is asked once, by however many callers."""
        replies = [Reply(429, {"Retry-After": "60"})] * 1000
        registered.script(registered.token_endpoint, replies)
        client = make_client(registered, token_endpoint=registered.token_endpoint, retries=3)
        errors: list[str] = []

        def ask() -> None:
            for _ in range(20):
                with pytest.raises(TokenRefusedError) as caught:
                    client.token()
                errors.append(caught.value.code)

        in_threads(20, ask)
        assert ["token-rate-limited"] * 400 == errors
        assert 1 == len(registered.log.of("scripted"))


def test_storm_without_retry_after(registered: SmartTestServer, make_client: MakeClient) -> None:
    """Without a word of when, tries grow rarer, by all callers together."""
    registered.script(registered.token_endpoint, [Reply(429)] * 1000)
    options = {"retries": 2, "timeout": 3.0}
    client = make_client(registered, token_endpoint=registered.token_endpoint, **options)
    until = time.monotonic() + 1.5

    def ask() -> None:
        while time.monotonic() < until:
            with contextlib.suppress(KeystayError):  # the last may run into its deadline
                client.token()
            time.sleep(0.005)

    in_threads(10, ask)
    assert 3 <= len(registered.log.of("scripted")) <= 9


class BrokenKey(FakeKey):
    """Fails with errors of the backend's, then signs."""

    def __init__(self, *errors: KeystayError) -> None:
        super().__init__()
        self.errors = list(errors)
        self.tries = 0

    def sign(self, request: SignRequest) -> BackendSignature:
        """Raise what is left to raise."""
        self.tries += 1
        if self.errors:
            raise self.errors.pop(0)
        return super().sign(request)


class SlowKey(FakeKey):
    """Takes so many seconds for each of its first signatures."""

    def __init__(self, seconds: list[float]) -> None:
        super().__init__()
        self._seconds = list(seconds)

    def sign(self, request: SignRequest) -> BackendSignature:
        """Sign, in time."""
        time.sleep(self._seconds.pop() if self._seconds else 0.0)
        return super().sign(request)


class TestSigner:
    """The key's errors and the server's have budgets of their own."""

    def test_budgets_are_apart(self, raw_server: Callable[..., RawServer]) -> None:
        """Three HTTP errors and one of the device are survived by 3 and 1."""
        key = BrokenKey(BackendUnavailableError("gone"))
        server = raw_server(then(PASSING["503"], 3))
        with keystay.TokenClient(**settings(server, Signer(key))) as client:
            assert SCOPE == client.token().scope
        assert (5, 4) == (key.tries, server.connections)

    def test_spent(self, raw_server: Callable[..., RawServer]) -> None:
        """A second error of the device is the caller's, whatever is left for HTTP."""
        key = BrokenKey(*[BackendUnavailableError("gone")] * 2)
        server = raw_server(answer(grant().body))
        with (
            keystay.TokenClient(**settings(server, Signer(key), retries=9)) as client,
            pytest.raises(BackendUnavailableError),
        ):
            client.token()
        assert (2, 0) == (key.tries, server.connections)

    def test_pin_is_never_tried_again(self, raw_server: Callable[..., RawServer]) -> None:
        """A login that failed is not repeated: that locks tokens."""
        key = BrokenKey(LoginError("The PIN is wrong."))
        server = raw_server(answer(grant().body))
        options = settings(server, Signer(key), retries=9, signer_retries=9)
        with keystay.TokenClient(**options) as client, pytest.raises(LoginError):
            client.token()
        assert 1 == key.tries


def test_one_deadline(raw_server: Callable[..., RawServer], pem_signer: Signer) -> None:
    """Tries, pauses and all, the call is over within its timeout."""
    server = raw_server(PASSING["503"])
    options = settings(server, pem_signer, retries=20, timeout=1)
    with keystay.TokenClient(**options) as client:
        began = time.monotonic()
        with pytest.raises(TokenServerError):
            client.token()
        assert time.monotonic() - began < 2
    assert 2 < server.connections < 10


class TestRateBudget:
    """`rate_limit`: the client's own limit on token requests."""

    def test_refused_here(self, registered: SmartTestServer, make_client: MakeClient) -> None:
        """The request beyond the budget is not sent; the error says how long to wait."""
        client = make_client(registered, rate_limit="2/60")
        client.request_token()
        client.request_token()
        with pytest.raises(RateBudgetError, match=r"in (59|60) s") as caught:
            client.request_token()
        assert ("rate-budget-spent", 4) == (caught.value.code, caught.value.exit_code)
        assert 55 < caught.value.retry_after <= 60
        assert caught.value.hint
        assert 2 == len(registered.log.of("token"))

    def test_waited_for(self, registered: SmartTestServer, make_client: MakeClient) -> None:
        """A wait that fits the deadline is waited: no span of half a second has more than two."""
        client = make_client(registered, rate_limit="2/0.5")
        at = []
        for _ in range(5):
            client.request_token()
            at.append(time.monotonic())
        assert at[2] - at[0] > 0.4
        assert at[4] - at[2] > 0.4

    def test_threads_share_it(self, registered: SmartTestServer, make_client: MakeClient) -> None:
        """Ten threads get three requests through, and seven refusals."""
        client = make_client(registered, rate_limit="3/60")
        refused: list[RateBudgetError] = []

        def ask() -> None:
            try:
                client.request_token()
            except RateBudgetError as error:
                refused.append(error)

        in_threads(10, ask)
        assert (7, 3) == (len(refused), len(registered.log.of("token")))

    def test_retries_count(self, registered: SmartTestServer, make_client: MakeClient) -> None:
        """What is tried again draws on the budget too."""
        registered.script(registered.token_endpoint, [Reply(503)] * 9)
        client = make_client(
            registered, token_endpoint=registered.token_endpoint, rate_limit="2/60", retries=5
        )
        with pytest.raises(RateBudgetError):
            client.request_token()
        assert 2 == len(registered.log.of("scripted"))

    def test_only_what_is_sent_counts(self, raw_server: Callable[..., RawServer]) -> None:
        """An assertion that could not be signed leaves the budget as it was."""
        key = BrokenKey(BackendUnavailableError("gone"), BackendUnavailableError("gone"))
        server = raw_server(answer(grant().body))
        options = settings(server, Signer(key), rate_limit="1/60", signer_retries=2)
        with keystay.TokenClient(**options) as client:
            client.token()
            with pytest.raises(RateBudgetError):
                client.request_token()
        assert (3, 1) == (key.tries, server.connections)

    def test_counts_from_the_sending(self, raw_server: Callable[..., RawServer]) -> None:
        """However long one signature takes and the next does not, requests keep their distance."""
        at: list[float] = []
        grants = answer(grant().body)

        def talk(server: RawServer, connection: socket.socket) -> None:
            at.append(time.monotonic())
            grants(server, connection)

        server = raw_server(talk)
        key = SlowKey([0.6])
        with keystay.TokenClient(**settings(server, Signer(key), rate_limit="1/0.5")) as client:
            client.request_token()
            client.request_token()
        assert at[1] - at[0] > 0.4

    def test_threads_share_it_while_they_sign(self, raw_server: Callable[..., RawServer]) -> None:
        """A place held by a request that is being signed is nobody else's."""
        server = raw_server(answer(grant().body))
        key = SlowKey([0.2] * 10)
        refused: list[RateBudgetError] = []

        def ask() -> None:
            try:
                client.request_token()
            except RateBudgetError as error:
                refused.append(error)

        with keystay.TokenClient(**settings(server, Signer(key), rate_limit="3/60")) as client:
            in_threads(10, ask)
        assert (7, 3) == (len(refused), server.connections)

    @pytest.mark.parametrize("rate", ["5", "0/60", "5/0", "-1/60", "5/60s", "", "5/100000", 5])
    def test_what_is_no_rate(
        self, registered: SmartTestServer, make_client: MakeClient, rate: Any
    ) -> None:
        """Refused when the client is made."""
        with pytest.raises(ConfigurationError, match="rate_limit: ") as caught:
            make_client(registered, rate_limit=rate)
        assert '"5/60"' in (caught.value.hint or "")


class TestWhileTheOldTokenIsGood:
    """A renewal that fails within the window is nobody's error."""

    @pytest.fixture
    def client(self, registered: SmartTestServer, make_client: MakeClient) -> keystay.TokenClient:
        """A client in its window, with a token good for some three seconds more."""
        registered.authorization_server.token_lifetime = 4
        client: keystay.TokenClient = make_client(registered, renewal_window=0.9, retries=3)
        client.token()
        time.sleep(0.45)
        return client

    @pytest.mark.parametrize(
        "reply",
        [Reply(503), Reply.json({"error": "invalid_client"}, status=401), Reply(200)],
        ids=["503", "invalid_client", "unusable"],
    )
    def test_callers_go_on(
        self,
        registered: SmartTestServer,
        client: keystay.TokenClient,
        caplog: pytest.LogCaptureFixture,
        reply: Reply,
    ) -> None:
        """They get the old token; the failure is logged, the server is asked ever more rarely."""
        old = client._cache.header
        registered.script(registered.token_endpoint, [reply] * 50)
        with caplog.at_level(logging.WARNING, "keystay.tokens"):
            until = time.monotonic() + 1.3
            while time.monotonic() < until:
                assert old == client.authorization()
                time.sleep(0.01)
        assert 2 <= len(registered.log.of("scripted")) <= 3
        assert "could not be renewed" in caplog.text
        WATCH.check(caplog.text, "the log")

    @pytest.mark.parametrize("lost", ["ended", "dropped"])
    def test_lost_while_it_is_renewed(
        self, registered: SmartTestServer, make_client: MakeClient, lost: str
    ) -> None:
        """The renewal, begun with one try, tries again: callers have nothing else by then."""
        registered.authorization_server.token_lifetime = 2 if lost == "ended" else 300
        client = make_client(registered, renewal_window=0.9, retries=3)
        old = client.token()
        registered.script(registered.token_endpoint, [Reply(503, delay=1.0)])
        client._cache.refresh_after = 0.0
        if lost == "ended":
            time.sleep(max(0.0, old.expires_in - 0.5))
        found: list[keystay.AccessToken] = []
        thread = threading.Thread(target=lambda: found.append(client.token()))
        thread.start()
        while not registered.log.of("scripted"):
            time.sleep(0.01)
        if lost == "dropped":
            client.invalidate(old)
        thread.join()
        assert found[0] is not old
        assert not found[0].expired
        assert 2 == len(registered.log.of("token"))

    def test_raised_once_nothing_is_left(
        self, registered: SmartTestServer, make_client: MakeClient
    ) -> None:
        """When the old token ends, the error is the caller's; once the server is back, no more."""
        registered.authorization_server.token_lifetime = 2
        client = make_client(registered, renewal_window=0.9)
        old = client.token()
        path = urllib.parse.urlsplit(registered.token_endpoint).path
        registered.script(path, [Reply.json({"error": "invalid_client"}, status=401)] * 50)
        while not old.expired:
            with contextlib.suppress(TokenRefusedError):  # it may end in the middle of the call
                assert client.token() is old
            time.sleep(0.05)
        with pytest.raises(TokenRefusedError):
            client.token()
        registered._scripts[path].clear()
        assert not client.token().expired


def test_failure_is_shared_by_those_who_waited(
    registered: SmartTestServer, make_client: MakeClient
) -> None:
    """Fifty threads, one refusal: each gets an error of its own that says the same."""
    refusal = Reply.json({"error": "invalid_client"}, status=401, delay=0.3)
    registered.script(registered.token_endpoint, [refusal])
    client = make_client(registered, token_endpoint=registered.token_endpoint, client_id=CLIENT_ID)
    errors: list[TokenRefusedError] = []
    barrier = threading.Barrier(50)

    def ask() -> None:
        barrier.wait()
        try:
            client.token()
        except TokenRefusedError as error:
            errors.append(error)

    in_threads(50, ask)
    assert (50, 50, 1) == (len(errors), len({id(e) for e in errors}), len({str(e) for e in errors}))
    assert 1 == len(registered.log.of("scripted"))
