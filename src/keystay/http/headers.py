"""What the headers of an answer say of time: the server's clock, and how long to wait."""

from __future__ import annotations

import re
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keystay.http.messages import HttpResponse

__all__ = ["kept_for", "retry_after", "server_time"]

_DIRECTIVE = re.compile(r'([A-Za-z-]+)(?:\s*=\s*("(?:[^"\\]|\\.)*"|[^\s,]*))?')
_LONGEST = 365 * 86400


def server_time(response: HttpResponse) -> float | None:
    """The server's clock as it sent the answer, as Unix time in seconds, or None.

    `Date` has whole seconds, cut off; an answer out of a cache has grown older by `Age` (RFC 9110
    §6.6.1, RFC 9111 §5.1).
    """
    moment = _http_date(response.headers.get("date"))
    return None if moment is None else moment + _whole(response.headers.get("age", "0"))


def retry_after(response: HttpResponse) -> float | None:
    """Seconds that `Retry-After` asks to wait (RFC 9110 §10.2.3), never negative, or None.

    A date in it is compared with the server's own clock, not with this machine's.
    """
    value = response.headers.get("retry-after", "").strip()
    if value.isascii() and value.isdecimal():
        return _whole(value)
    moment = _http_date(value)
    if moment is None:
        return None
    sent = server_time(response)
    return max(0.0, moment - (time.time() if sent is None else sent))


def kept_for(response: HttpResponse) -> int | None:
    """Seconds for which caches may hand out an answer; None when it does not say.

    The longer of `max-age` and `s-maxage`, and as long again as they may be stale (RFC 9111 §5.2.2,
    RFC 5861): what was there before a change may come out of a shared cache until then. Without
    either, `Expires` (RFC 9111 §5.3).
    """
    found = [
        (name.lower(), value.strip('"'))
        for name, value in _DIRECTIVE.findall(response.headers.get("cache-control", ""))
    ]
    # no-cache="set-cookie" is about that field alone.
    if ("no-cache", "") in found or any(name == "no-store" for name, _ in found):
        return 0

    def longest(*names: str) -> int | None:
        told = (int(v) for n, v in found if n in names and v.isascii() and v.isdecimal())
        return max(told, default=None)

    age = longest("max-age", "s-maxage")
    if age is None and (expires := response.headers.get("expires")) is not None:
        sent, end = server_time(response), _http_date(expires)
        now = time.time() if sent is None else sent
        age = 0 if end is None else max(0, int(end - now))  # what is no date is in the past
    if age is None:
        return None
    return min(age + (longest("stale-while-revalidate", "stale-if-error") or 0), _LONGEST)


def _whole(value: str) -> float:
    value = value.strip()
    return float(value[:9]) if value.isascii() and value.isdecimal() else 0.0


def _http_date(value: str | None) -> float | None:
    try:
        moment = parsedate_to_datetime(value or "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
