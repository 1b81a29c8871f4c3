"""What a server says of a failure, kept whole and made safe to show."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keystay.http.messages import HttpResponse

__all__ = ["correlation_id", "readable"]

_CORRELATION_HEADERS = (
    "x-correlation-id",
    "correlation-id",
    "cerner-correlation-id",
    "x-request-id",
    "request-id",
    "x-amzn-requestid",
)
# Begins where a word begins and never backtracks: a long text costs no more than its length.
_JWT = re.compile(
    r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]{16,}+\.[A-Za-z0-9_-]{16,}+(?:\.[A-Za-z0-9_-]*+)?"
)
_MAX_TEXT = 500


def correlation_id(response: HttpResponse) -> str | None:
    """The server's own id of this exchange, made safe to show, or None."""
    headers = response.headers
    return next((readable(headers[name]) for name in _CORRELATION_HEADERS if name in headers), None)


def readable(value: object, *, without: str | None = None) -> str | None:
    """Server text made safe to show: no control characters, no assertion echoed, not endless.

    Args:
        value: What the server sent; None comes of anything but text.
        without: A secret that it may have echoed.
    """
    if not isinstance(value, str):
        return None
    if without:
        value = value.replace(without, "[removed]")
    text = "".join(c if c.isprintable() else " " for c in _JWT.sub("[removed]", value)).strip()
    if not text:
        return None
    return text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "…"
