"""Refusals: everything the server said is kept, and the remedy is told."""

from __future__ import annotations

import json
import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import pytest

from keystay.errors import TokenRefusedError, TokenServerError
from keystay.testing import Reply, SmartTestServer
from keystay.testing.authorization_server import ErrorStyle
from tests.support.fixtures import watch_exchanges
from tests.support.secrets_watch import WATCH
from tests.support.token_clients import CLIENT_ID

if TYPE_CHECKING:
    from collections.abc import Callable

    from keystay.signer import Signer
    from tests.support.token_clients import MakeClient


@pytest.fixture
def refuse(
    registered: SmartTestServer, make_client: MakeClient
) -> Callable[[Reply], TokenRefusedError]:
    """A function that asks for a token and returns the refusal that came of the answer."""
    client = make_client(
        registered, token_endpoint=registered.token_endpoint, clock_correction="warn"
    )

    def refused(reply: Reply) -> TokenRefusedError:
        registered.script(registered.token_endpoint, [reply])
        with pytest.raises(TokenRefusedError) as caught:
            client.token()
        error = caught.value
        text = f"{error}{error!r}{json.dumps(error.to_dict())}"
        WATCH.check(text, "the refusal")
        assert str(error).replace("\n", "").isprintable()
        assert error.cause
        assert error.hint
        return error

    return refused


def oauth(error: Any = "invalid_client", status: int = 400, **more: Any) -> Reply:
    """An error as RFC 6749 §5.2 has it."""
    headers = more.pop("headers", {})
    return Reply.json({"error": error, **more}, status=status, headers=headers)


def test_everything_said_is_kept(refuse: Callable[[Reply], TokenRefusedError]) -> None:
    """Status, error, description, uri, correlation id: on the error, in its text, in its data."""
    error = refuse(
        oauth(
            "invalid_scope",
            error_description="no such scope",
            error_uri="https://as.example.org/e/7",
            headers={"X-Request-ID": "r-42"},
        )
    )
    expected = {
        "status": 400,
        "error": "invalid_scope",
        "error_description": "no such scope",
        "error_uri": "https://as.example.org/e/7",
        "correlation_id": "r-42",
    }
    assert expected == {name: error.to_dict()[name] for name in expected}
    for said in ("no such scope", "https://as.example.org/e/7", "r-42", "HTTP 400"):
        assert said in error.message
    assert ("token-refused", 5) == (error.code, error.exit_code)


def test_epic(refuse: Callable[[Reply], TokenRefusedError], pem_signer: Signer) -> None:
    """A bare invalid_client is answered with all that could be compared, in an order."""
    error = refuse(oauth(error_description=None))
    assert None is error.error_description
    hint = str(error.hint)
    for known in (pem_signer.kid, CLIENT_ID, pem_signer.algorithm, "/oauth2/token", "29 h"):
        assert known in hint


def test_oracle_health(refuse: Callable[[Reply], TokenRefusedError]) -> None:
    """The URN in error_uri and the correlation id are shown."""
    urn = "urn:cerner:error:oauth2:token:client-assertion:jwt-bearer:invalid-signature"
    error = refuse(oauth(error_uri=urn, headers={"Cerner-Correlation-Id": "c-1"}))
    assert (urn, "c-1") == (error.error_uri, error.correlation_id)
    assert urn in error.message


@pytest.mark.parametrize(
    ("style", "member"),
    [(ErrorStyle.DESCRIBED, "error_description"), (ErrorStyle.LINKED, "error_uri")],
    ids=["described", "linked"],
)
def test_a_real_refusal(
    make_client: MakeClient, pem_signer: Signer, style: ErrorStyle, member: str
) -> None:
    """The strict server refuses a client that it does not know, in two vendors' styles."""
    with SmartTestServer(error_style=style, correlation_header="X-Correlation-Id") as server:
        watch_exchanges(server)
        with pytest.raises(TokenRefusedError) as caught:
            make_client(server).token()
        assert server.log.last_refusal is not None
        assert "client-unknown" == server.log.last_refusal.reason
        assert server.log.last_refusal.correlation_id == caught.value.correlation_id
    assert getattr(caught.value, member)
    WATCH.check(str(caught.value), "the refusal")


RETRY = {
    "seconds": ("30", 30.0),
    "zero": ("0", 0.0),
    "absurd": ("9" * 400, 999999999.0),
    "negative": ("-5", None),
    "words": ("soon", None),
    "past-date": ("Sun, 06 Nov 1994 08:49:37 GMT", 0.0),
    "broken-date": ("Mon, 99 Foo 2024 00:00:00 GMT", None),
    "broken-zone": ("Mon, 01 Jan 2024 00:00:00 +9999999999", None),
}


@pytest.mark.parametrize(("header", "seconds"), RETRY.values(), ids=RETRY)
def test_retry_after(
    refuse: Callable[[Reply], TokenRefusedError], header: str, seconds: float | None
) -> None:
    """Retry-After in seconds, from either form, never negative, never a crash."""
    error = refuse(oauth("slow_down", 429, headers={"Retry-After": header}))
    assert seconds == error.retry_after
    assert "token-rate-limited" == error.code
    assert "Share one TokenClient" in str(error.hint)


def test_retry_after_a_date(refuse: Callable[[Reply], TokenRefusedError]) -> None:
    """A date in the future is seconds from now."""
    header = formatdate(time.time() + 120, usegmt=True)
    error = refuse(oauth("x", 503, headers={"Retry-After": header}))
    assert pytest.approx(120, abs=3) == error.retry_after


@pytest.mark.parametrize("status", [500, 502, 503, 504])
def test_server_errors(refuse: Callable[[Reply], TokenRefusedError], status: int) -> None:
    """5xx is the server's failure: another class, and the exit code of the network."""
    html = b"<html><h1>Bad Gateway</h1></html>"
    error = refuse(Reply(status, {"Content-Type": "text/html"}, html))
    assert isinstance(error, TokenServerError)
    assert ("token-server-error", 4, "") == (error.code, error.exit_code, error.error)
    assert "no error code" in error.message


KINDS = {
    "invalid_scope": (oauth("invalid_scope"), "registered for"),
    "unauthorized_client": (oauth("unauthorized_client"), "not enabled"),
    "unsupported_grant_type": (oauth("unsupported_grant_type"), "does not serve"),
    "invalid_request": (oauth("invalid_request"), "form of the request"),
    "unknown": (oauth("out_of_cheese"), "no reason that keystay knows"),
    "401-without-a-word": (Reply(401), "could not match the assertion"),
    "403-html": (Reply(403, {}, b"<html>"), "no reason that keystay knows"),
    "404": (Reply(404, {}, b"<html>"), "not the token endpoint"),
    "405": (Reply(405), "not the token endpoint"),
    "error-is-a-number": (oauth(7), "no reason that keystay knows"),
    "error-is-an-object": (oauth({"code": 1}), "no reason that keystay knows"),
    "body-is-a-list": (Reply.json(["invalid_client"], status=400), "no reason"),
}


@pytest.mark.parametrize(("reply", "cause"), KINDS.values(), ids=KINDS)
def test_likely_cause(
    refuse: Callable[[Reply], TokenRefusedError], reply: Reply, cause: str
) -> None:
    """Each error has its likely cause and its remedy."""
    assert cause in str(refuse(reply).cause)


@pytest.mark.parametrize(("offset", "side"), [(600, "behind"), (-600, "ahead of")])
def test_clock_skew(refuse: Callable[[Reply], TokenRefusedError], offset: float, side: str) -> None:
    """When the Date header says that the clocks differ, that is told first."""
    error = refuse_with_date(refuse, offset)
    assert f"s {side} the server's" in str(error.cause)
    assert str(error.hint).startswith("Set the clock")


def refuse_with_date(
    refuse: Callable[[Reply], TokenRefusedError], offset: float
) -> TokenRefusedError:
    """A refusal by a server whose clock is off."""
    moment = time.time() + offset
    with pytest.MonkeyPatch.context() as patch:
        handler = "http.server.BaseHTTPRequestHandler.date_time_string"
        patch.setattr(handler, lambda self, timestamp=None: formatdate(moment, usegmt=True))
        return refuse(oauth())


def test_same_clocks_are_not_blamed(refuse: Callable[[Reply], TokenRefusedError]) -> None:
    """Without a difference nobody is sent to look at clocks."""
    assert "clock" not in str(refuse(oauth()).cause)


HOSTILE = {
    "escape": "\x1b]0;owned\x07\x1b[2Jfine",
    "c1": "\x9b2J fine",
    "newlines": "first\r\nerror [token-refused] forged\n",
    "bidi": "fine \u202egnp.exe",
    "surrogate": "fine \ud800",
    "null": "fine\x00",
}


@pytest.mark.parametrize("member", ["error", "error_description", "error_uri"])
@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_hostile_text(refuse: Callable[[Reply], TokenRefusedError], member: str, text: str) -> None:
    """No control character, line break or escape sequence of the server's gets through."""
    body = json.dumps({"error": "invalid_client", member: text}).encode()
    error = refuse(Reply(400, {}, body))
    shown = getattr(error, member)
    assert shown.isprintable()
    assert "fine" in shown or "forged" in shown


@pytest.mark.parametrize("around", ["{}", "bad: {}.", "'{}'", "assertion={}&x=1", "{} {}"])
def test_echoed_assertion(
    registered: SmartTestServer, make_client: MakeClient, around: str
) -> None:
    """A server that echoes the assertion does not put it into the error."""
    sent: list[str] = []
    handle = registered.authorization_server.handle

    def echo(request: Any) -> Reply:
        from urllib.parse import parse_qs

        handle(request)
        assertion = parse_qs(request.body.decode())["client_assertion"][0]
        sent.append(assertion)
        return oauth(
            assertion,
            error_description=around.replace("{}", assertion),
            error_uri=f"https://x.example/{assertion}",
        )

    setattr(registered.authorization_server, "handle", echo)  # noqa: B010
    with pytest.raises(TokenRefusedError) as caught:
        make_client(registered).token()
    text = f"{caught.value}{caught.value.to_dict()}"
    WATCH.check(text, "the refusal")
    assert not [part for part in sent[0].split(".") if part in text]
    assert "[removed]" in text


@pytest.mark.parametrize("filler", ["a", "a.", "ab-_", "é", "\x1b"], ids=str.encode)
def test_endless_text_costs_nothing(
    refuse: Callable[[Reply], TokenRefusedError], filler: str
) -> None:
    """A description as long as an answer may be is cut, and does not tie up the processor."""
    text = filler * (100_000 // len(json.dumps(filler)))
    began = time.process_time()
    error = refuse(oauth(error_description=text, error_uri=text))
    assert time.process_time() - began < 2.0
    assert len(error.message) < 2000


def test_longer_than_an_answer_may_be(registered: SmartTestServer, make_client: MakeClient) -> None:
    """A megabyte of description is not read to its end."""
    from keystay.errors import NetworkError

    client = make_client(registered, token_endpoint=registered.token_endpoint)
    registered.script(registered.token_endpoint, [oauth(error_description="a" * 1_000_000)])
    with pytest.raises(NetworkError, match="longer than") as caught:
        client.token()
    assert "network-too-large" == caught.value.code
