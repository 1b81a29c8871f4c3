"""What a JWKS URL answers, as a function of the request: no socket, no framework (RFC 9110)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from keystay.errors import KeystayError
from keystay.jwk import JWKSet

__all__ = ["DEFAULT_MAX_AGE", "PATH", "Response", "not_found", "respond", "unavailable"]

PATH = "/.well-known/jwks.json"
"""Where the set is."""

DEFAULT_MAX_AGE = 3600
"""Seconds that servers may keep the set: a promotion waits for as long."""

_RETRY_AFTER = 30


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer.

    Attributes:
        status: HTTP status.
        headers: Header fields; their names as they are usually written.
        body: Empty for HEAD and for 304; `Content-Length` is what GET would have.
    """

    status: HTTPStatus
    headers: Mapping[str, str]
    body: bytes = b""


def respond(
    method: str, keys: JWKSet, *, if_none_match: str | None = None, max_age: int = DEFAULT_MAX_AGE
) -> Response:
    """Answer a request for the set.

    Args:
        method: `GET` and `HEAD` are answered, others with 405.
        keys: The set.
        if_none_match: The request's header field, if it has one.
        max_age: Seconds that anybody may keep the answer; 0 to have it asked for each time.
    """
    if method not in ("GET", "HEAD"):
        allowed = {"Allow": "GET, HEAD"}
        return _problem(method, HTTPStatus.METHOD_NOT_ALLOWED, "method-not-allowed", allowed)
    body = keys.to_json().encode("ascii")
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    lasting = {
        "Cache-Control": f"public, max-age={max_age}" if max_age else "no-cache",
        "ETag": etag,
    }
    if if_none_match is not None and _matches(if_none_match, etag):
        return Response(HTTPStatus.NOT_MODIFIED, lasting)
    return _answer(method, HTTPStatus.OK, lasting, body, "application/jwk-set+json")


def unavailable(method: str, error: KeystayError) -> Response:
    """Answer that no key is known; the reason is for the log, only its code is told."""
    headers = {"Retry-After": str(_RETRY_AFTER), "Cache-Control": "no-store"}
    return _problem(method, HTTPStatus.SERVICE_UNAVAILABLE, error.code, headers)


def not_found(method: str) -> Response:
    """Answer that only the set is served here."""
    return _problem(method, HTTPStatus.NOT_FOUND, "not-found", {})


def _problem(method: str, status: HTTPStatus, code: str, headers: Mapping[str, str]) -> Response:
    body = json.dumps({"error": code}).encode("ascii")
    return _answer(method, status, headers, body, "application/json")


def _answer(
    method: str,
    status: HTTPStatus,
    headers: Mapping[str, str],
    body: bytes,
    content_type: str,
) -> Response:
    about = {"Content-Type": content_type, "Content-Length": str(len(body))}
    return Response(status, {**about, **headers}, b"" if method == "HEAD" else body)


def _matches(header: str, etag: str) -> bool:
    """RFC 9110 §13.1.2, with weak comparison."""
    given = [tag.strip().removeprefix("W/") for tag in header.split(",")]
    return etag in given or "*" in given
