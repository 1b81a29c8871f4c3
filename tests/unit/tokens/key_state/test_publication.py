"""What a JWKS URL may answer, and how long that may be kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from keystay.errors import ConfigurationError, JWKError, KeystayError, NetworkError
from keystay.http.messages import HttpResponse
from keystay.tokens.key_state.publication import Publication, fetch_publication
from tests.support.stepping import Call, SteppedIO
from tests.unit.tokens.key_state.keys import JWKS, URL

if TYPE_CHECKING:
    from collections.abc import Mapping


def look(
    status: int = 200, body: Any = None, headers: Mapping[str, str] | None = None
) -> Publication:
    """What the flow makes of an answer."""
    call = Call(fetch_publication(SteppedIO(), URL))
    assert call.step
    request = call.step.request
    assert request
    assert ("GET", URL, "no-cache") == (
        request.method, request.url, request.headers["Cache-Control"],
    )  # fmt: skip
    text = json.dumps({"keys": JWKS} if body is None else body).encode()
    found = call.answer(HttpResponse(status, headers or {}, text))
    if call.error is not None:
        raise call.error
    assert isinstance(found, Publication)
    return found


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None), ("", None), ("public", None), ("max-age=60", 60), ("Max-Age = 60", 60),
        ('max-age="60"', 60), ("public, max-age=60, s-maxage=600", 600), ("max-age", None),
        ("max-age=60, no-cache", 0), ("no-store", 0), ("private, max-age=0", 0),
        ("max-age=99999999999999999999", 365 * 86400), ("xmax-age=5", None), ("max-age=-1", None),
        ('no-cache="set-cookie, set-cookie2"', None), ('max-age=60, no-cache="Set-Cookie"', 60),
        ('no-cache="x", no-cache', 0), ("max-age=60, stale-while-revalidate=600", 660),
        ("s-maxage=5, stale-if-error=10, stale-while-revalidate=20", 25),
    ],
)  # fmt: skip
def test_cache_control(header: str | None, seconds: int | None) -> None:
    """As RFC 9111 has it; the longer of what browsers and what shared caches may keep."""
    assert seconds == look(headers={} if header is None else {"cache-control": header}).max_age


@pytest.mark.parametrize(
    ("status", "body", "kind", "code"),
    [
        (302, None, NetworkError, "jwks-unavailable"),
        (404, None, NetworkError, "jwks-unavailable"),
        (503, None, NetworkError, "jwks-unavailable"),
        (200, [], JWKError, "jwk-invalid"),
        (200, {"keys": [JWKS[0], JWKS[0]]}, JWKError, "jwk-kid-duplicate"),
        (200, {"keys": [{**JWKS[0], "d": "AA"}]}, JWKError, "jwk-private"),
        (200, {"keys": [{"kty": "RSA"}]}, JWKError, "jwk-kid-missing"),
    ],
)
def test_refused(status: int, body: Any, kind: type[KeystayError], code: str) -> None:
    """What no server could use either; the URL and a remedy are named."""
    with pytest.raises(kind) as caught:
        look(status, body)
    assert code == caught.value.code
    assert URL in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"expires": "Tue, 24 Nov 2026 13:00:00 GMT"}, 3600),
        ({"expires": "Tue, 24 Nov 2026 11:00:00 GMT"}, 0),
        ({"expires": "0"}, 0),
        ({"expires": "Tue, 24 Nov 2026 13:00:00 GMT", "cache-control": "max-age=5"}, 5),
        ({"expires": "Tue, 24 Nov 2026 13:00:00 GMT", "cache-control": "no-store"}, 0),
    ],
)
def test_expires(headers: dict[str, str], seconds: int) -> None:
    """By the server's own clock, where Cache-Control does not say."""
    assert seconds == look(headers={"date": "Tue, 24 Nov 2026 12:00:00 GMT", **headers}).max_age


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({}, None),
        ({"alg": None, "use": None, "key_ops": None}, None),
        ({"alg": "ES256"}, "published for ES256, and signs ES384"),
        ({"use": "enc"}, "published for use 'enc', not 'sig'"),
        ({"key_ops": ["sign"]}, "published with key_ops that lack 'verify'"),
        ({"kid": "other"}, "not published"),
        ({"x": JWKS[1]["x"], "y": JWKS[1]["y"]}, "another key is published under this kid"),
    ],
)
def test_published_as_it_signs(change: dict[str, Any], fault: str | None) -> None:
    """A key that servers may not use for these signatures is as good as not published."""
    there = {name: value for name, value in {**JWKS[0], **change}.items() if value is not None}
    found = look(body={"keys": [there]})
    assert (fault, fault is None) == (found.fault(JWKS[0]), found.holds(JWKS[0]))


def test_insecure_url() -> None:
    """Plain HTTP would let anybody on the way say that a key is published."""
    url = "http://keys.example.org/jwks.json"
    call = Call(fetch_publication(SteppedIO(), url))
    assert isinstance(call.error, ConfigurationError)
    assert "not HTTPS" in call.error.message
