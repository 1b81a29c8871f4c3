"""The token response: tolerant where vendors err, strict where it matters."""

from __future__ import annotations

import dataclasses
import logging
from typing import TYPE_CHECKING, Any

import pytest

from keystay.errors import KeystayError, TokenRefusedError, TokenResponseError
from keystay.testing import Reply
from tests.support.secrets_watch import WATCH
from tests.support.token_clients import GRANT, SCOPE, TOKEN, grant

if TYPE_CHECKING:
    import keystay
    from keystay.testing import SmartTestServer
    from tests.support.token_clients import MakeClient


@pytest.fixture
def ask(registered: SmartTestServer, make_client: MakeClient) -> Any:
    """A function that asks for a token with the answer given."""
    client = make_client(registered, token_endpoint=registered.token_endpoint)

    def asked(reply: Reply) -> keystay.AccessToken:
        registered.script(registered.token_endpoint, [reply])
        found: keystay.AccessToken = client.request_token()
        return found

    return asked


GOOD = {
    "as-specified": ({}, 300.0),
    "bearer-capital": ({"token_type": "Bearer"}, 300.0),
    "bearer-capitals": ({"token_type": "BEARER"}, 300.0),
    "string-seconds": ({"expires_in": "300"}, 300.0),
    "string-blank": ({"expires_in": " 300 "}, 300.0),
    "string-fraction": ({"expires_in": "299.5"}, 299.5),
    "float-seconds": ({"expires_in": 299.5}, 299.5),
    "one-second": ({"expires_in": 1}, 1.0),
    "refresh-token": ({"refresh_token": "ignored"}, 300.0),
    "empty-error": ({"error": ""}, 300.0),
}


@pytest.mark.parametrize(("changes", "lifetime"), GOOD.values(), ids=GOOD)
def test_usable(ask: Any, changes: dict[str, Any], lifetime: float) -> None:
    """What vendors send and can be understood is taken."""
    token = ask(grant(**changes))
    assert (TOKEN, "Bearer", lifetime, SCOPE) == (
        token.value,
        token.token_type,
        token.lifetime,
        token.scope,
    )


def test_null_error_beside_a_token(ask: Any) -> None:
    """`"error": null` is no error."""
    body = grant().body[:-1] + b',"error":null}'
    assert TOKEN == ask(Reply(200, {}, body)).value


BAD = {
    "no-token": ({"access_token": None}, "access_token"),
    "empty-token": ({"access_token": ""}, "access_token"),
    "number-token": ({"access_token": 12345678}, "access_token"),
    "list-token": ({"access_token": [TOKEN]}, "access_token"),
    "newline-token": ({"access_token": f"{TOKEN}\r\nX-Injected: 1"}, "access_token"),
    "trailing-newline": ({"access_token": f"{TOKEN}\n"}, "access_token"),
    "blank-token": ({"access_token": f"{TOKEN} {TOKEN}"}, "access_token"),
    "null-character": ({"access_token": f"{TOKEN}\x00"}, "access_token"),
    "not-ascii-token": ({"access_token": f"{TOKEN}é"}, "access_token"),
    "no-type": ({"token_type": None}, "token_type"),
    "mac-type": ({"token_type": "mac"}, "token_type"),
    "dpop-type": ({"token_type": "DPoP"}, "token_type"),
    "list-type": ({"token_type": ["bearer"]}, "token_type"),
    "no-lifetime": ({"expires_in": None}, "expires_in"),
    "zero": ({"expires_in": 0}, "expires_in"),
    "negative": ({"expires_in": -1}, "expires_in"),
    "negative-string": ({"expires_in": "-1"}, "expires_in"),
    "true": ({"expires_in": True}, "expires_in"),
    "list": ({"expires_in": [300]}, "expires_in"),
    "words": ({"expires_in": "five minutes"}, "expires_in"),
    "exponent-string": ({"expires_in": "3e2"}, "expires_in"),
    "other-digits": ({"expires_in": "\uff13\uff10\uff10"}, "expires_in"),
    "twenty-years": ({"expires_in": 20 * 365 * 86400}, "expires_in"),
    "enormous": ({"expires_in": 10**18}, "expires_in"),
    "enormous-string": ({"expires_in": "9" * 400}, "expires_in"),
}


@pytest.mark.parametrize(("changes", "member"), BAD.values(), ids=BAD)
def test_unusable_member(ask: Any, changes: dict[str, Any], member: str) -> None:
    """What cannot be used is refused by the member's name, without its value."""
    with pytest.raises(TokenResponseError, match=f"cannot be used: {member}") as caught:
        ask(grant(**changes))
    assert (200, "token-response-invalid", 4) == (
        caught.value.status,
        caught.value.code,
        caught.value.exit_code,
    )
    assert caught.value.hint
    WATCH.check(f"{caught.value} {caught.value!r} {caught.value.to_dict()}", "the error")


def test_token_that_ended_on_its_way(ask: Any) -> None:
    """A token that takes longer to come than it lives is never handed out."""
    reply = dataclasses.replace(grant(expires_in=0.2), delay=0.4)
    with pytest.raises(TokenResponseError, match=r"lives 0\.2 s, and took longer"):
        ask(reply)


def raw(expires_in: bytes) -> Reply:
    """A response with a number that no JSON library would write."""
    return Reply(200, {}, grant().body.replace(b"300", expires_in))


@pytest.mark.parametrize(
    "number", [b"NaN", b"Infinity", b"-Infinity", b"1e400", b"1" + b"0" * 400], ids=str
)
def test_impossible_numbers(ask: Any, number: bytes) -> None:
    """Numbers that JSON or time do not know are no lifetimes."""
    with pytest.raises(TokenResponseError, match="expires_in"):
        ask(raw(number))


NOT_OBJECTS = {
    "empty": b"",
    "html": b"<html>Welcome</html>",
    "array": b'[{"access_token":"x"}]',
    "string": b'"token"',
    "null": b"null",
    "form": b"access_token=x&token_type=bearer",
    "cut-short": grant().body[:-5],
    "deep": b'{"access_token":' + b"[" * 50_000,
    "not-utf8": b'{"access_token":"\xff\xfe"}',
    "5000-digits": b'{"expires_in":' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("body", NOT_OBJECTS.values(), ids=NOT_OBJECTS)
def test_not_a_json_object(ask: Any, body: bytes) -> None:
    """Anything but a JSON object is told as that."""
    with pytest.raises(TokenResponseError, match=r"not a JSON object|a web page") as caught:
        ask(Reply(200, {"Content-Type": "application/json"}, body))
    assert caught.value.cause


def test_media_type_and_byte_order_mark(ask: Any) -> None:
    """JSON is taken whatever the content type, with a byte order mark too."""
    assert TOKEN == ask(Reply(200, {"Content-Type": "text/html"}, grant().body)).value
    assert TOKEN == ask(Reply(200, {}, b"\xef\xbb\xbf" + grant().body)).value


def test_duplicate_members(ask: Any) -> None:
    """Of two members with one name the last counts, as everywhere in Python."""
    body = grant().body[:-1] + b',"expires_in":60}'
    assert 60.0 == ask(Reply(200, {}, body)).lifetime


def test_error_in_a_success(ask: Any) -> None:
    """Some servers refuse with HTTP 200: that is a refusal, even with a token beside it."""
    with pytest.raises(TokenRefusedError, match="HTTP 200: invalid_client") as caught:
        ask(grant(error="invalid_client"))
    assert "invalid_client" == caught.value.error


def test_scope_missing(ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A response without scope is taken as granted as requested, with a warning."""
    with caplog.at_level(logging.WARNING, "keystay"):
        token = ask(grant(scope=None))
    assert SCOPE == token.scope
    assert 1 == len([m for m in caplog.messages if "sent no scope" in m])


@pytest.mark.parametrize(
    ("granted", "missing"),
    [
        pytest.param("system/Observation.rs", (SCOPE,), id="other"),
        pytest.param("", (SCOPE,), id="none"),
        pytest.param(f"{SCOPE}  system/*.rs", (), id="more"),
    ],
)
def test_scope_differs(
    ask: Any, caplog: pytest.LogCaptureFixture, granted: str, missing: tuple[str, ...]
) -> None:
    """What was granted is on the token; what is missing is there and in the log."""
    with caplog.at_level(logging.WARNING, "keystay"):
        token = ask(grant(scope=granted))
    assert " ".join(granted.split()) == token.scope
    assert SCOPE == token.requested_scope
    assert missing == token.missing_scopes
    assert bool(missing) == any("granted scope" in message for message in caplog.messages)


def test_hostile_scope_does_not_steer_the_log(ask: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Escape sequences in a scope are shown as what they are."""
    with caplog.at_level(logging.WARNING, "keystay"):
        token = ask(grant(scope="\x1b[2Jforged"))
    assert all(message.isprintable() for message in caplog.messages)
    assert repr(token).isprintable()


@pytest.mark.parametrize("status", [202, 204, 304, 418])
def test_other_statuses_are_no_success(ask: Any, status: int) -> None:
    """Only 200 (and 201, which some send) grant."""
    with pytest.raises(KeystayError, match=str(status)):
        ask(Reply(status, {}, b"" if status in (204, 304) else grant().body))


def test_created_is_a_success(ask: Any) -> None:
    """Some servers answer 201."""
    assert TOKEN == ask(Reply(201, {}, grant().body)).value


def test_life_counts_from_before_the_request(ask: Any) -> None:
    """Time that the answer took is not added to the token's life."""
    reply = Reply.json(GRANT, delay=0.5)
    assert 299.0 < ask(reply).expires_in < 299.6
