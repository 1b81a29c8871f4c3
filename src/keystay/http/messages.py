"""HTTP messages without an HTTP library: what a flow asks for, and what its answer says."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime

__all__ = ["HttpRequest", "HttpResponse"]

_DIRECTIVE = re.compile(r'([A-Za-z-]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,]*))?')
_LONGEST_KEPT = 365 * 86400


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
        is_followed: Whether another request of this exchange may go to the same origin, and so
            over the same connection.
    """

    method: str
    url: str
    purpose: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes | None = field(default=None, repr=False)
    max_bytes: int = 256 * 1024
    is_followed: bool = False


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
    body: bytes = field(default=b"", repr=False)

    def json_object(self) -> dict[str, object] | None:
        """The body as a JSON object, whatever its content type says, or None."""
        try:
            document: object = json.loads(self.body.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            return None
        return document if isinstance(document, dict) else None

    @property
    def server_time(self) -> float | None:
        """The server's clock as it sent the answer, as Unix time in seconds, or None.

        `Date` has whole seconds, cut off; an answer out of a cache has grown older by `Age`
        (RFC 9110 §6.6.1, RFC 9111 §5.1).
        """
        moment = _http_date(self.headers.get("date"))
        return None if moment is None else moment + _whole(self.headers.get("age", "0"))

    @property
    def retry_after(self) -> float | None:
        """Seconds that `Retry-After` asks to wait (RFC 9110 §10.2.3), never negative, or None.

        A date in it is compared with the server's own clock, not with this machine's.
        """
        value = self.headers.get("retry-after", "").strip()
        if value.isascii() and value.isdecimal():
            return _whole(value)
        moment = _http_date(value)
        if moment is None:
            return None
        sent = self.server_time
        return max(0.0, moment - (time.time() if sent is None else sent))

    @property
    def kept_for(self) -> int | None:
        """Seconds for which caches may hand it out; None when it does not say.

        The longer of `max-age` and `s-maxage`, and as long again as they may be stale (RFC 9111
        §5.2.2, RFC 5861): what was there before a change may come out of a shared cache until
        then. Without either, `Expires` (RFC 9111 §5.3).
        """
        found = [
            (name.lower(), value.strip('"'))
            for name, value in _DIRECTIVE.findall(self.headers.get("cache-control", ""))
        ]
        # no-cache="set-cookie" is about that field alone.
        if ("no-cache", "") in found or any(name == "no-store" for name, _ in found):
            return 0

        def longest(*names: str) -> int | None:
            told = (int(v) for n, v in found if n in names and v.isascii() and v.isdecimal())
            return max(told, default=None)

        age = longest("max-age", "s-maxage")
        if age is None and (expires := self.headers.get("expires")) is not None:
            sent, end = self.server_time, _http_date(expires)
            now = time.time() if sent is None else sent
            age = 0 if end is None else max(0, int(end - now))  # what is no date is in the past
        if age is None:
            return None
        stale = longest("stale-while-revalidate", "stale-if-error") or 0
        return min(age + stale, _LONGEST_KEPT)


def _whole(value: str) -> float:
    value = value.strip()
    return float(value[:9]) if value.isascii() and value.isdecimal() else 0.0


def _http_date(value: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(value or "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
