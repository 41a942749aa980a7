"""Traces: a span for each part of a request, none for probes, and no waiting at the end."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import pytest
from fastapi.testclient import TestClient

from evoserve.api import tracing
from evoserve.api.app import create_app
from evoserve.api.tracing import Tracing
from evoserve.config import Settings
from evoserve.engine.protocol import FinishReason, GenerationRequest, TokenEvent

trace_sdk = pytest.importorskip("opentelemetry.sdk.trace")
export_sdk = pytest.importorskip("opentelemetry.sdk.trace.export")
memory = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")

CHAT = "/v1/chat/completions"
BODY = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}


class StuckExporter(export_sdk.SpanExporter):
    """A collector that takes spans and answers once it is released, or after 20 seconds."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.has_ended = threading.Event()

    def export(self, spans: Sequence[object]) -> object:
        self.released.wait(20)
        self.has_ended.set()
        return export_sdk.SpanExportResult.SUCCESS


async def say_ok(request: GenerationRequest) -> AsyncIterator[TokenEvent]:
    yield TokenEvent(ord("o"))
    yield TokenEvent(ord("k"), FinishReason.LENGTH)


@pytest.fixture
def make_app(make_service) -> Callable[..., TestClient]:
    def make(**settings: object) -> TestClient:
        service = make_service(say_ok)
        return TestClient(create_app(Settings(**settings), service.engine, service.registry))

    return make


@pytest.fixture
def exporter(monkeypatch: pytest.MonkeyPatch):
    """Has the spans of every application that is made after it."""
    exporter, provider = memory.InMemorySpanExporter(), trace_sdk.TracerProvider()
    provider.add_span_processor(export_sdk.SimpleSpanProcessor(exporter))
    monkeypatch.setattr("evoserve.api.app.build_tracing", lambda settings: Tracing(provider))
    return exporter


@pytest.fixture
def stuck() -> Iterator[StuckExporter]:
    exporter = StuckExporter()
    yield exporter
    exporter.released.set()


def test_traces_are_a_span_for_each_part(make_app, exporter) -> None:
    client = make_app()
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    client.post(CHAT, json={**BODY, "n": 2}, headers={"traceparent": parent})
    client.get("/v1/models")
    spans = exporter.get_finished_spans()
    root = next(span for span in spans if span.name == f"POST {CHAT}")
    assert format(root.context.trace_id, "032x") == parent[3:35]
    assert format(root.parent.span_id, "016x") == parent[36:52]
    assert root.attributes["http.response.status_code"] == 200
    children = [span for span in spans if span.parent is not None and span is not root]
    assert sorted(span.name for span in children) == sorted(["queue", "prefill", "decode"] * 2)
    for span in children:
        assert span.parent.span_id == root.context.span_id
        assert span.start_time <= span.end_time
    decode = next(span for span in children if span.name == "decode")
    assert decode.attributes["gen_ai.usage.output_tokens"] == 2
    assert next(s for s in spans if s.name == "GET /v1/models").parent is None


def test_probes_are_not_traced(make_app, exporter) -> None:
    client = make_app()
    for path in ("/live", "/ready", "/health", "/metrics", "/version"):
        client.get(path)
    assert [span.name for span in exporter.get_finished_spans()] == ["GET /version"]


def test_traces_are_off_by_default(make_app) -> None:
    assert make_app().app.state.service.tracing is None


def test_traces_are_sent_where_the_setting_says(make_app) -> None:
    made = make_app(otlp_endpoint="http://127.0.0.1:1/v1/traces").app.state.service.tracing
    assert made is not None
    made.close()


def test_a_collector_that_does_not_answer_holds_up_the_end_no_longer_than_that(
    stuck: StuckExporter, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "CLOSE_S", 0.01)
    provider = trace_sdk.TracerProvider()
    provider.add_span_processor(export_sdk.BatchSpanProcessor(stuck))
    provider.get_tracer("test").start_span("last").end()
    Tracing(provider).close()
    assert not stuck.has_ended.is_set()
    assert "not sent" in caplog.text


def test_the_last_spans_are_sent_at_the_end(stuck: StuckExporter) -> None:
    stuck.released.set()
    provider = trace_sdk.TracerProvider()
    provider.add_span_processor(export_sdk.BatchSpanProcessor(stuck))
    provider.get_tracer("test").start_span("last").end()
    Tracing(provider).close()
    assert stuck.has_ended.is_set()
