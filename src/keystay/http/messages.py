"""HTTP messages without an HTTP library: what a flow asks for and what it is given.

A flow is a generator: it yields a request, is sent the response, and returns its result. Thin
shells, one synchronous and one not, drive it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["HttpRequest", "HttpResponse"]


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request to send exactly once, following no redirect.

    Attributes:
        method: `GET`, `POST`, `PUT` or `DELETE`.
        url: Absolute.
        purpose: What it is for, for messages: "the token request".
        headers: As sent; not shown in repr, they may hold a token.
        body: As sent; not shown in repr, it may hold an assertion.
        max_bytes: Longest response body accepted.
    """

    method: str
    url: str
    purpose: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    max_bytes: int = 256 * 1024


@dataclass(frozen=True, slots=True)
class HttpResponse:
    """A complete response.

    Attributes:
        status: HTTP status.
        headers: Names in lower case.
        body: Not shown in repr, it may hold a token.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)

    def json_object(self) -> dict[str, Any] | None:
        """The body as a JSON object, whatever its content type says, or None."""
        try:
            document = json.loads(self.body.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return None
        return document if isinstance(document, dict) else None
