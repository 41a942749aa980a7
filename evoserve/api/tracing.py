"""OpenTelemetry traces: a span for each request, and below it queue, prefill and decode.

An extra (`otel`); nothing of it is imported unless traces are configured.
"""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from evoserve import __version__
from evoserve.api.record import RequestRecord, Timing, Trace
from evoserve.config import Settings
from evoserve.errors import ConfigError

CLOSE_S = 3.0  # for the last spans; a collector that is away must not hold up the exit

_LOG = logging.getLogger(__name__)
_NS = 1_000_000_000


class Tracing:
    """Starts traces under a tracer provider of the OpenTelemetry SDK, which it owns."""

    def __init__(self, provider: Any) -> None:
        """provider: `opentelemetry.sdk.trace.TracerProvider`."""
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("evoserve", __version__)
        self._propagator = TraceContextTextMapPropagator()

    def start(self, headers: Mapping[str, str], request_id: str) -> Trace:
        """Open a request's span, below the one that its `traceparent` header names."""
        from opentelemetry.trace import SpanKind

        carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
        span = self._tracer.start_span(
            "request",
            context=self._propagator.extract(carrier),
            kind=SpanKind.SERVER,
            attributes={"gen_ai.request.id": request_id},
        )
        return _RequestTrace(self._tracer, span)

    def close(self) -> None:
        """Send what is left, as far as that takes no longer than CLOSE_S.

        The SDK's own limit is 30 s; its thread is left behind, as a daemon.
        """
        sending = threading.Thread(target=self._provider.shutdown, daemon=True)
        sending.start()
        sending.join(CLOSE_S)
        if sending.is_alive():
            _LOG.warning("the last spans were not sent within %g s", CLOSE_S)


class _RequestTrace:
    """The spans of one request."""

    def __init__(self, tracer: Any, span: Any) -> None:
        self._tracer = tracer
        self._span = span

    def sequence(self, timing: Timing) -> None:
        """Queue, prefill and decode of one sequence, as far as it came."""
        first_s = timing.end_s if timing.first_token_s is None else timing.first_token_s
        queued_s = min(timing.queued_s, first_s)
        marks = [("queue", 0.0, queued_s), ("prefill", queued_s, first_s)]
        if timing.first_token_s is not None:
            marks.append(("decode", first_s, timing.end_s))
        attributes = {
            "gen_ai.response.model": timing.model_id,
            "gen_ai.usage.input_tokens": timing.num_prompt_tokens,
            "gen_ai.usage.output_tokens": timing.num_generated_tokens,
            "gen_ai.response.finish_reasons": [timing.reason],
        }
        for name, start_s, end_s in marks:
            self._child(name, timing.submitted + start_s, timing.submitted + end_s, attributes)

    def end(self, record: RequestRecord, method: str, status: int) -> None:
        """Name the span by method and route, and close it."""
        from opentelemetry.trace import StatusCode

        self._span.update_name(f"{method} {record.route}")
        self._span.set_attributes(
            {
                "http.request.method": method,
                "http.route": record.route,
                "http.response.status_code": status,
            }
        )
        if record.recipe is not None:
            self._span.set_attribute("gen_ai.request.model", record.recipe)
        if status >= 500:
            self._span.set_status(StatusCode.ERROR)
        self._span.end(int(time.time() * _NS))

    def _child(self, name: str, start: float, end: float, attributes: dict[str, Any]) -> None:
        from opentelemetry.trace import set_span_in_context

        span = self._tracer.start_span(
            name,
            context=set_span_in_context(self._span),
            start_time=int(start * _NS),
            attributes=attributes,
        )
        span.end(int(end * _NS))


def build_tracing(settings: Settings) -> Tracing | None:
    """What `otlp_endpoint` asks for. Raises ConfigError without the extra."""
    if settings.otlp_endpoint is None:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise ConfigError(
            "setting 'otlp_endpoint' needs the extra: pip install 'evoserve[otel]'"
        ) from None
    resource = Resource.create({"service.name": "evoserve", "service.version": __version__})
    provider = TracerProvider(resource=resource)
    exporter = OTLPSpanExporter(endpoint=settings.otlp_endpoint)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return Tracing(provider)
