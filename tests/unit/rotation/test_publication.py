"""What a JWKS URL may answer, and how long that may be kept."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from keystay.errors import ConfigurationError, JWKError, KeystayError, NetworkError
from keystay.rotation import Publication, publication_flow
from keystay.smart.messages import HttpResponse
from tests.unit.rotation.keys import JWKS, URL

if TYPE_CHECKING:
    from collections.abc import Mapping


def look(
    status: int = 200, body: Any = None, headers: Mapping[str, str] | None = None
) -> Publication:
    """What the flow makes of an answer."""
    flow = publication_flow(URL)
    request = next(flow)
    assert ("GET", URL, "no-cache") == (
        request.method, request.url, request.headers["Cache-Control"],
    )  # fmt: skip
    text = json.dumps({"keys": JWKS} if body is None else body).encode()
    with pytest.raises(StopIteration) as finished:
        flow.send(HttpResponse(status, headers or {}, text))
    found = finished.value.value
    assert isinstance(found, Publication)
    return found


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, None), ("", None), ("public", None), ("max-age=60", 60), ("Max-Age = 60", 60),
        ('max-age="60"', 60), ("public, max-age=60, s-maxage=600", 600), ("max-age", None),
        ("max-age=60, no-cache", 0), ("no-store", 0), ("private, max-age=0", 0),
        ("max-age=99999999999999999999", 365 * 86400), ("xmax-age=5", None), ("max-age=-1", None),
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


def test_insecure_url() -> None:
    """Plain HTTP would let anybody on the way say that a key is published."""
    with pytest.raises(ConfigurationError, match="not HTTPS"):
        next(publication_flow("http://keys.example.org/jwks.json"))
