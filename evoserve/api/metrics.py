"""Prometheus metrics, under vLLM's names where the meaning is the same, by recipe.

vLLM counts a request with n choices as n; so do we: everything here is per sequence.
"""

import time
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from evoserve.engine.protocol import Engine, ModelStats, TokenEvent

# vLLM's bucket limits, in seconds, so that quantiles computed from both can be compared.
_FIRST_TOKEN_BUCKETS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75,
    1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560,
)  # fmt: skip
_NEXT_TOKEN_BUCKETS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75,
    1, 2.5, 5, 7.5, 10, 20, 40, 80,
)  # fmt: skip
_REQUEST_BUCKETS = (
    0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60,
    120, 240, 480, 960, 1920, 7680,
)  # fmt: skip


class Metrics:
    """The counters and histograms of one server; gauges are read from the engine when scraped."""

    def __init__(self, engine: Engine) -> None:
        self._registry = CollectorRegistry()
        self.prompt_tokens = self._counter("prompt_tokens", "Prompt tokens.")
        self.generation_tokens = self._counter("generation_tokens", "Tokens generated.")
        self.cache_queries = self._counter("prefix_cache_queries", "Prompt tokens looked up.")
        self.cache_hits = self._counter("prefix_cache_hits", "Prompt tokens found in the cache.")
        self.success = self._counter(
            "request_success", "Sequences that ended, by reason.", "finished_reason"
        )
        self.first_token = self._histogram(
            "time_to_first_token", "From submission to the first token.", _FIRST_TOKEN_BUCKETS
        )
        self.next_token = self._histogram(
            "inter_token_latency", "From one token of a sequence to the next.", _NEXT_TOKEN_BUCKETS
        )
        self.latency = self._histogram(
            "e2e_request_latency", "From submission to the end.", _REQUEST_BUCKETS
        )
        self._registry.register(_EngineGauges(engine))

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"vllm:{name}", text, ["model_name", *labels], registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(
            f"vllm:{name}_seconds", text, ["model_name"], buckets=buckets, registry=self._registry
        )


class SequenceTimer:
    """Measures one sequence from submission to its end."""

    def __init__(self, metrics: Metrics, model_id: str, num_prompt_tokens: int) -> None:
        self._metrics = metrics
        self._model_id = model_id
        self._num_prompt_tokens = num_prompt_tokens
        self._start = time.perf_counter()
        self._last: float | None = None

    def token(self, event: TokenEvent) -> None:
        """A token (or the end without one) has come."""
        now = time.perf_counter()
        metrics, model_id = self._metrics, self._model_id
        if self._last is None:
            metrics.prompt_tokens.labels(model_id).inc(self._num_prompt_tokens)
            metrics.cache_queries.labels(model_id).inc(self._num_prompt_tokens)
            metrics.cache_hits.labels(model_id).inc(event.num_cached_tokens)
            metrics.first_token.labels(model_id).observe(now - self._start)
        else:
            metrics.next_token.labels(model_id).observe(now - self._last)
        self._last = now
        if event.token_id is not None:
            metrics.generation_tokens.labels(model_id).inc()

    def end(self, reason: str) -> None:
        """The sequence is over: stop, length, abort or error."""
        self._metrics.success.labels(self._model_id, reason).inc()
        self._metrics.latency.labels(self._model_id).observe(time.perf_counter() - self._start)


class _EngineGauges:
    """What the engine knows at the moment of scraping."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        stats = self._engine.stats()
        running = _gauge("vllm:num_requests_running", "Sequences in the running batch.")
        waiting = _gauge("vllm:num_requests_waiting", "Sequences waiting for a place.")
        usage = _gauge("vllm:kv_cache_usage_perc", "KV cache blocks in use; 1 is all of them.")
        for model in stats.models:
            running.add_metric([model.model_id], model.num_running)
            waiting.add_metric([model.model_id], model.num_waiting)
            usage.add_metric([model.model_id], _usage(model))
        weights = GaugeMetricFamily("evoserve:weight_bytes", "Weights held, shared ones once.")
        weights.add_metric([], stats.weight_bytes)
        preempted = CounterMetricFamily("evoserve:num_preemptions", "Sequences preempted.")
        preempted.add_metric([], stats.num_preemptions)
        return [running, waiting, usage, weights, preempted]


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["model_name"])


def _usage(model: ModelStats) -> float:
    return 1 - model.num_free_blocks / model.num_blocks if model.num_blocks else 0.0
