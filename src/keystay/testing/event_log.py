"""What happened at the servers: reasons and claims for tests to look at, never a token."""

from __future__ import annotations

import dataclasses
import threading
from typing import TYPE_CHECKING, Any

from keystay.testing.refusals import RequestRefusedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from keystay.testing.messages import Reply, Request

_SECRET_HEADERS = frozenset({"authorization", "cookie", "proxy-authorization"})


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One request and what became of it.

    Attributes:
        kind: `token`, `registration`, `fhir`, `discovery`, `document`, `scripted`, `http` or
            `jwks` (a fetch of a client's set by the authorization server itself).
        method: The HTTP method.
        path: The path without its query.
        headers: Request header fields by lower-case name; of credentials, the scheme only.
        status: The status answered; 0 when a scripted fault closed the connection.
        reason: The stable reason of a refusal, or None.
        sentence: What was wrong, or None.
        client_id: The client, once known.
        parameters: The names of the form parameters, in the order sent.
        header: The assertion's header, once it could be read.
        claims: The assertion's claims, once they could be read.
        scope: The scope granted.
        correlation_id: The id sent to the client in the correlation header, if one is set.
    """

    kind: str
    method: str
    path: str
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    status: int = 200
    reason: str | None = None
    sentence: str | None = None
    client_id: str | None = None
    parameters: tuple[str, ...] = ()
    header: Mapping[str, Any] | None = None
    claims: Mapping[str, Any] | None = None
    scope: str | None = None
    correlation_id: str | None = None


class EventLog:
    """Events in the order in which they were answered; safe to use from several threads."""

    def __init__(self) -> None:
        """Start empty."""
        self._events: list[Event] = []
        self._lock = threading.Lock()

    def record(self, kind: str, request: Request, **details: Any) -> Event:
        """Append one event about a request.

        Args:
            kind: The part that answered.
            request: The request; its credentials are left out.
            **details: Further attributes of `Event`.
        """
        event = Event(
            kind=kind,
            method=request.method,
            path=request.path,
            headers=_without_credentials(request.headers),
            **details,
        )
        with self._lock:
            self._events.append(event)
        return event

    def answer(
        self,
        kind: str,
        request: Request,
        answer: Callable[[dict[str, Any]], Reply],
        refuse: Callable[[RequestRefusedError], Reply],
    ) -> Reply:
        """Have a request answered or refused, and record which.

        Args:
            kind: The part that answers.
            request: The request.
            answer: Answers it, and notes further attributes of `Event` as they become known.
            refuse: Makes the reply of a refusal.
        """
        details: dict[str, Any] = {}
        try:
            reply = answer(details)
        except RequestRefusedError as refusal:
            details |= {"reason": refusal.reason, "sentence": refusal.sentence}
            reply = refuse(refusal)
        self.record(kind, request, status=reply.status, **details)
        return reply

    @property
    def events(self) -> tuple[Event, ...]:
        """Everything so far."""
        with self._lock:
            return tuple(self._events)

    @property
    def refusals(self) -> tuple[Event, ...]:
        """The requests that were refused."""
        return tuple(event for event in self.events if event.reason is not None)

    @property
    def last_refusal(self) -> Event | None:
        """The latest request that was refused, or None."""
        return next((event for event in reversed(self.events) if event.reason is not None), None)

    def of(self, kind: str) -> tuple[Event, ...]:
        """Return the events of one kind."""
        return tuple(event for event in self.events if event.kind == kind)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._events.clear()

    def __iter__(self) -> Iterator[Event]:
        """Iterate over a snapshot."""
        return iter(self.events)

    def __len__(self) -> int:
        """Count the events."""
        return len(self.events)


def _without_credentials(headers: Mapping[str, str]) -> dict[str, str]:
    """Keep of each credential its scheme only."""
    return {
        name: f"{value.partition(' ')[0]} [redacted]"
        if name == "authorization"
        else "[redacted]"
        if name in _SECRET_HEADERS
        else value
        for name, value in headers.items()
    }
