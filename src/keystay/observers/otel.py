"""The `otel` observer: spans and metrics by OpenTelemetry's API (extra `keystay[otel]`).

    [observers.otel]

It goes to whatever the application has set up as its tracer and meter providers; without any,
nowhere. Spans carry ids that metrics must not: a metric is told apart by client, backend and kind
of failure alone.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import msgspec
from opentelemetry import metrics, trace
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.trace import SpanKind, Status, StatusCode

from keystay.backends.hookspecs import hookimpl

if TYPE_CHECKING:
    from keystay.observers.context import ObserverContext
    from keystay.observers.events import ClockSkewed, Event, TokenInvalidated, TokenRenewed

__all__ = ["OtelObserver", "api_version", "keystay_open_observer"]

api_version = 1

# Of an event's fields, those few values are known of beforehand.
_DIMENSIONS = ("client_id", "fhir_base_url", "backend", "algorithm", "custody", "source")
_NOT_ATTRIBUTES = ("event", "time", "duration", "outcome")
# By event: its span, its count and its duration.
_SHOWN: dict[str, tuple[str | None, str | None, str | None]] = {
    "signer-opened": ("signer.open", None, None),
    "assertion-signed": ("assertion.sign", "signatures", "signature"),
    "message-signed": ("message.sign", "signatures", "signature"),
    "token-issued": ("token.request", "token.requests", "token.request"),
    "token-failed": ("token.request", "token.requests", "token.request"),
    "token-renewed": ("token.renew", "token.renewals", "token.renewal"),
    "request-retried": (None, "token.retries", None),
    "token-invalidated": (None, "token.invalidations", None),
}


class OtelObserver:
    """Makes a span of each event that takes time, and counts and measures them all.

    Args:
        tracer_provider: Default the global one.
        meter_provider: Default the global one.
    """

    def __init__(
        self,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        self._tracer = trace.get_tracer("keystay", tracer_provider=tracer_provider)
        meter = metrics.get_meter("keystay", meter_provider=meter_provider)
        self._ends: dict[tuple[str, str], float] = {}
        self._offsets: dict[tuple[str, str], float] = {}
        self._durations = {
            what: meter.create_histogram(f"keystay.{what}.duration", "s", text)
            for what, text in (
                ("signature", "Duration of signatures, waiting for the key included"),
                ("token.request", "Duration of token requests, the signature included"),
                ("token.renewal", "Duration of renewals, further attempts included"),
            )
        }
        self._counts = {
            what: meter.create_counter(f"keystay.{what}", unit, text)
            for what, unit, text in (
                ("signatures", "{signature}", "Signatures"),
                ("token.requests", "{request}", "Token requests"),
                ("token.renewals", "{renewal}", "Tokens got to be kept"),
                ("token.retries", "{retry}", "Token requests made once more"),
                ("token.invalidations", "{token}", "Tokens dropped before their time"),
            )
        }
        meter.create_observable_gauge(
            "keystay.token.expires_in", [self._lives], "s", "Time until the kept token expires"
        )
        meter.create_observable_gauge(
            "keystay.clock.offset", [self._differs], "s", "How far the server's clock is ahead"
        )

    @hookimpl
    def keystay_signer_opened(self, event: Event) -> None:
        """A span, a count and a duration, as far as `_SHOWN` names them."""
        span, count, duration = _SHOWN[event.name]
        attributes = _attributes(event, _DIMENSIONS)
        if span is not None:
            self._span(f"keystay.{span}", event)
        if count is not None:
            self._counts[count].add(1, attributes)
        if duration is not None:
            self._durations[duration].record(event.duration, attributes)

    keystay_assertion_signed = keystay_message_signed = keystay_signer_opened
    keystay_token_issued = keystay_token_failed = keystay_signer_opened
    keystay_request_retried = keystay_signer_opened

    @hookimpl
    def keystay_token_renewed(self, event: TokenRenewed) -> None:
        """A span, a count, a duration; and when the token expires."""
        self.keystay_signer_opened(event)
        if event.expires_in is not None:
            self._ends[_client(event)] = time.monotonic() + event.expires_in

    @hookimpl
    def keystay_token_invalidated(self, event: TokenInvalidated) -> None:
        """A count; and there is no token that could expire."""
        self.keystay_signer_opened(event)
        self._ends.pop(_client(event), None)

    @hookimpl
    def keystay_clock_skewed(self, event: ClockSkewed) -> None:
        """The offset."""
        self._offsets[_client(event)] = event.offset

    def _span(self, name: str, event: Event) -> None:
        """A span that is over already, below the caller's current one."""
        end = int(event.time.timestamp() * 1e9)
        span = self._tracer.start_span(
            name,
            kind=SpanKind.CLIENT if name == "keystay.token.request" else SpanKind.INTERNAL,
            start_time=end - int(event.duration * 1e9),
            attributes=_attributes(event, None),
        )
        if event.outcome != "ok":
            span.set_status(Status(StatusCode.ERROR, event.outcome))
        span.end(end)

    def _lives(self, options: CallbackOptions) -> Iterator[Observation]:
        for client, end in list(self._ends.items()):
            yield Observation(max(0.0, end - time.monotonic()), _named(client))

    def _differs(self, options: CallbackOptions) -> Iterator[Observation]:
        for client, offset in list(self._offsets.items()):
            yield Observation(offset, _named(client))


def _attributes(event: Event, fields: tuple[str, ...] | None) -> dict[str, Any]:
    """Fields of an event as attributes: `keystay.client_id`; of a failure, `error.type`."""
    found = {
        f"keystay.{name}": value
        for name, value in event.to_dict().items()
        if value is not None
        and (name in fields if fields is not None else name not in _NOT_ATTRIBUTES)
    }
    if event.outcome != "ok":
        found["error.type"] = event.outcome
    return found


def _client(event: TokenRenewed | ClockSkewed | TokenInvalidated) -> tuple[str, str]:
    return event.client_id, event.fhir_base_url


def _named(client: tuple[str, str]) -> dict[str, str]:
    return {"keystay.client_id": client[0], "keystay.fhir_base_url": client[1]}


class _Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`[observers.otel]` has none."""


_shared: OtelObserver | None = None


@hookimpl
def keystay_open_observer(context: ObserverContext) -> OtelObserver:
    """The observer of this process: OpenTelemetry wants each instrument made once."""
    global _shared  # noqa: PLW0603
    context.settings_as(_Settings)
    if _shared is None:
        _shared = OtelObserver()
    return _shared
