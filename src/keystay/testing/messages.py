"""Requests and replies without sockets, so that the servers' rules are plain functions of them."""

from __future__ import annotations

import dataclasses
import urllib.parse
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Request:
    """One HTTP request as a server received it.

    Attributes:
        method: The method, in capitals.
        target: The path and query exactly as sent.
        headers: Header fields by lower-case name; repeated ones joined with a comma.
        body: The undecoded body.
    """

    method: str
    target: str
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""

    @property
    def path(self) -> str:
        """The target without its query, still percent-encoded."""
        return self.target.partition("?")[0]

    @property
    def query(self) -> dict[str, list[str]]:
        """The query's parameters, each with all its values."""
        return urllib.parse.parse_qs(self.target.partition("?")[2], keep_blank_values=True)

    def __repr__(self) -> str:
        """Show the method and path only: queries, headers and bodies can carry secrets."""
        return f"<Request {self.method} {self.path}, {len(self.body)} bytes>"


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Reply:
    """One HTTP response, or a scripted failure to give one.

    Attributes:
        status: The status code.
        headers: Header fields; a `Content-Length` given here is sent as it is, true or not.
        body: The body.
        delay: Seconds to wait before the status line.
        drip: Seconds to wait before each byte of the body.
        disconnect: Close the connection instead of answering.
    """

    status: int = 200
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    body: bytes = b""
    delay: float = 0.0
    drip: float = 0.0
    disconnect: bool = False

    @classmethod
    def json(
        cls,
        document: Any,
        *,
        status: int = 200,
        headers: Mapping[str, str] = NO_HEADERS,
        media_type: str = "application/json",
        delay: float = 0.0,
    ) -> Reply:
        """Make a reply whose body is a JSON document."""
        fields = {"Content-Type": media_type, **headers}
        return cls(status, fields, msgspec.json.encode(document), delay=delay)

    @classmethod
    def redirect(cls, location: str, *, status: int = 302) -> Reply:
        """Make a reply that points elsewhere."""
        return cls(status, {"Location": location})

    def __repr__(self) -> str:
        """Show the status only: headers and body can carry an access token."""
        return f"<Reply {self.status}, {len(self.body)} bytes>"
