"""Spans and metrics, in the memory of OpenTelemetry's own SDK."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

import keystay
from keystay.errors import KeystayError
from keystay.observers import Observers, open_observers
from keystay.observers.otel import OtelObserver
from keystay.testing import Reply
from tests.support.secrets_watch import WATCH
from tests.support.token_clients import CLIENT_ID, client_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from keystay.testing import SmartTestServer

pytestmark = pytest.mark.usefixtures("no_environment")


class Telemetry:
    """An observer and what it brought."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self._reader = InMemoryMetricReader()
        self.meters = MeterProvider([self._reader])
        self.observer = OtelObserver(self.tracers, self.meters)

    def spans(self) -> dict[str, Any]:
        """The last span of each name."""
        return {span.name: span for span in self._exporter.get_finished_spans()}

    def metrics(self) -> dict[str, list[Any]]:
        """The data points of each metric."""
        found = self._reader.get_metrics_data()
        assert found is not None
        return {
            metric.name: list(metric.data.data_points)
            for resource in found.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    """An observer and what it brought."""
    made = Telemetry()
    yield made
    made.meters.shutdown()
    made.tracers.shutdown()


@pytest.fixture
def client(
    telemetry: Telemetry, pem_file: Path, registered: SmartTestServer
) -> Iterator[keystay.TokenClient]:
    """A client that is observed."""
    observers = Observers(telemetry.observer)
    with (
        keystay.open_signer(f"file:{pem_file}", observers=observers) as signer,
        keystay.TokenClient(**client_settings(signer, registered, retries=1)) as made,
    ):
        yield made


class TestSpans:
    """What took time."""

    def test_token(self, telemetry: Telemetry, client: keystay.TokenClient) -> None:
        """Opening, signature, request and renewal, below the caller's own span."""
        tracer = telemetry.tracers.get_tracer("the application")
        with tracer.start_as_current_span("export") as outer:
            client.token()
        spans = telemetry.spans()
        assert {
            "keystay.signer.open", "keystay.assertion.sign", "keystay.token.request",
            "keystay.token.renew", "export",
        } == set(spans)  # fmt: skip
        request, signature = spans["keystay.token.request"], spans["keystay.assertion.sign"]
        assert SpanKind.CLIENT is request.kind
        assert outer.get_span_context().span_id == request.parent.span_id
        assert 0 < signature.end_time - signature.start_time
        assert request.start_time <= signature.start_time + 5_000_000
        assert {
            "keystay.client_id": CLIENT_ID,
            "keystay.algorithm": "ES384",
            "keystay.backend": "file",
            "keystay.custody": "in-process",
            "keystay.status": 200,
            "keystay.jti": signature.attributes["keystay.jti"],
        }.items() <= request.attributes.items()

    def test_failure(
        self, telemetry: Telemetry, client: keystay.TokenClient, registered: SmartTestServer
    ) -> None:
        """A refused request is an error, by its code."""
        registered.script(
            registered.token_endpoint, [Reply.json({"error": "invalid_client"}, status=401)]
        )
        with pytest.raises(KeystayError) as caught:
            client.token()
        span = telemetry.spans()["keystay.token.request"]
        assert StatusCode.ERROR is span.status.status_code
        assert caught.value.code == span.attributes["error.type"] == span.status.description

    def test_nothing_secret(self, telemetry: Telemetry, client: keystay.TokenClient) -> None:
        """Neither assertion nor token is in any of it."""
        value = client.token().value
        text = "".join(span.to_json() for span in telemetry.spans().values())
        assert value not in text
        WATCH.check(text, "the spans")


class TestMetrics:
    """What is counted and measured."""

    def test_token(
        self, telemetry: Telemetry, client: keystay.TokenClient, registered: SmartTestServer
    ) -> None:
        """Signatures, requests, renewals, retries, latencies, and the time to expiry."""
        registered.script(registered.token_endpoint, [Reply(503)])
        client.invalidate(client.token())
        metrics = telemetry.metrics()
        total = {name: sum(p.value for p in points) for name, points in metrics.items()
                 if hasattr(points[0], "value")}  # fmt: skip
        assert {
            "keystay.signatures": 2,
            "keystay.token.requests": 2,
            "keystay.token.renewals": 1,
            "keystay.token.retries": 1,
            "keystay.token.invalidations": 1,
        }.items() <= total.items()
        assert "keystay.token.expires_in" not in metrics
        for name in ("signature", "token.request", "token.renewal"):
            assert all(point.sum > 0 for point in metrics[f"keystay.{name}.duration"])
        failed = [p for p in metrics["keystay.token.requests"] if "error.type" in p.attributes]
        assert ["token-server-error"] == [p.attributes["error.type"] for p in failed]

    def test_time_to_expiry(self, telemetry: Telemetry, client: keystay.TokenClient) -> None:
        """It counts down by itself."""
        token = client.token()
        (point,) = telemetry.metrics()["keystay.token.expires_in"]
        assert token.lifetime - 60 < point.value <= token.lifetime
        assert CLIENT_ID == point.attributes["keystay.client_id"]

    def test_few_series(self, telemetry: Telemetry, client: keystay.TokenClient) -> None:
        """A second token adds no series: nothing that is new each time is an attribute."""
        client.token()
        before = {name: len(points) for name, points in telemetry.metrics().items()}
        client.request_token()
        assert before == {name: len(points) for name, points in telemetry.metrics().items()}


class TestPlugin:
    """As configured."""

    def test_once_in_a_process(self) -> None:
        """OpenTelemetry wants each instrument made once."""
        from keystay.observers import ObserverContext
        from keystay.observers.otel import keystay_open_observer

        first, second = (keystay_open_observer(context=ObserverContext("otel")) for _ in "12")
        assert first is second
        assert "<Observers otel>" == repr(open_observers({"otel": {}}))

    def test_not_loaded_unless_named(self) -> None:
        """Without an [observers.otel] table nothing of OpenTelemetry is imported."""
        program = (
            "import sys, keystay; keystay.TokenClient; from keystay.observers import "
            "open_observers; open_observers({}); open_observers({'audit': {'path': 'x'}});"
            "assert not [n for n in sys.modules if n.startswith('opentelemetry')]"
        )
        subprocess.run([sys.executable, "-c", program], check=True)
