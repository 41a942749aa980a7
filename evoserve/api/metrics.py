"""Prometheus metrics, under vLLM's names where the meaning is the same, by recipe.

vLLM counts a request with n choices as n; so do we: everything here is per sequence.
"""

import time
from collections.abc import Iterable, Sequence

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from evoserve.api.limits import RateLimits
from evoserve.api.recipe_metrics import BuildMetrics, HttpMetrics, RateGauges, RecipeGauges
from evoserve.api.record import Timing, current_record
from evoserve.engine.protocol import Engine, FinishReason, ModelStats, TokenEvent
from evoserve.lifecycle.lifecycle import Lifecycle

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

    def __init__(
        self,
        engine: Engine,
        lifecycle: Lifecycle | None = None,
        rates: RateLimits | None = None,
    ) -> None:
        """lifecycle: whose recipes are told of, None for none; rates: whose refusals."""
        self._engine = engine
        self._lifecycle = lifecycle
        self._registry = CollectorRegistry()
        self._by_model: list[Counter | Histogram] = []
        self._seen: set[str] = set()
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
        self.queue_time = self._histogram(
            "request_queue_time", "From submission until it was first admitted.", _REQUEST_BUCKETS
        )
        self.prefill_time = self._histogram(
            "request_prefill_time", "From admission to the first token.", _REQUEST_BUCKETS
        )
        self.decode_time = self._histogram(
            "request_decode_time", "From the first token to the end.", _REQUEST_BUCKETS
        )
        self.http = HttpMetrics(self._registry)
        self._registry.register(_EngineGauges(engine))
        if lifecycle is not None:
            BuildMetrics(self._registry, lifecycle)
            self._registry.register(RecipeGauges(lifecycle))
        if rates is not None:
            self._registry.register(RateGauges(rates))

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes, without the series of recipes that were deleted."""
        self._forget_deleted()
        for model in self._engine.stats().models:
            self.see(model.model_id)
        return generate_latest(self._registry)

    def see(self, model_id: str) -> None:
        """Series of this recipe are about to be made.

        Its ends begin at 0: `increase` does not count what a series begins with, and would miss
        the first error.
        """
        if model_id not in self._seen:
            self._seen.add(model_id)
            for reason in FinishReason:
                self.success.labels(model_id, reason)

    def _forget_deleted(self) -> None:
        if self._lifecycle is None:
            return
        known = {named.model_id for named in self._lifecycle.names().values()}
        known |= {entry.model_id for entry in self._lifecycle.recipes}
        known |= {model.model_id for model in self._engine.stats().models}
        for model_id in self._seen - known:
            self._seen.discard(model_id)
            for metric in self._by_model:
                metric.remove_by_labels({"model_name": model_id})

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        made = Counter(f"vllm:{name}", text, ["model_name", *labels], registry=self._registry)
        self._by_model.append(made)
        return made

    def _histogram(self, name: str, text: str, buckets: Sequence[float]) -> Histogram:
        made = Histogram(
            f"vllm:{name}_seconds", text, ["model_name"], buckets=buckets, registry=self._registry
        )
        self._by_model.append(made)
        return made


class SequenceTimer:
    """Measures one sequence from submission to its end."""

    def __init__(self, metrics: Metrics, model_id: str, num_prompt_tokens: int) -> None:
        metrics.see(model_id)
        self._metrics = metrics
        self._model_id = model_id
        self._num_prompt_tokens = num_prompt_tokens
        self._num_generated_tokens = 0
        self._queued_s = 0.0
        self._first: float | None = None
        self._trace = current_record().trace
        self._submitted = time.time()
        self._next_token = metrics.next_token.labels(model_id)
        self._generation_tokens = metrics.generation_tokens.labels(model_id)
        self._start = time.perf_counter()
        self._last: float | None = None

    def token(self, event: TokenEvent) -> None:
        """A token (or the end without one) has come."""
        now = time.perf_counter()
        if self._last is None:
            metrics, model_id = self._metrics, self._model_id
            metrics.prompt_tokens.labels(model_id).inc(self._num_prompt_tokens)
            metrics.cache_queries.labels(model_id).inc(self._num_prompt_tokens)
            metrics.cache_hits.labels(model_id).inc(event.num_cached_tokens)
            metrics.first_token.labels(model_id).observe(now - self._start)
            self._first, self._queued_s = now, event.queued_s
        else:
            self._next_token.observe(now - self._last)
        self._last = now
        if event.token_id is not None:
            self._generation_tokens.inc()
            self._num_generated_tokens += 1

    def end(self, reason: str) -> None:
        """The sequence is over: stop, length, abort or error."""
        metrics, model_id, now = self._metrics, self._model_id, time.perf_counter()
        metrics.success.labels(model_id, reason).inc()
        metrics.latency.labels(model_id).observe(now - self._start)
        first_s = None if self._first is None else self._first - self._start
        if self._first is not None and first_s is not None:
            metrics.queue_time.labels(model_id).observe(self._queued_s)
            metrics.prefill_time.labels(model_id).observe(max(0.0, first_s - self._queued_s))
            metrics.decode_time.labels(model_id).observe(now - self._first)
        if self._trace is not None:
            self._trace.sequence(self._timing(first_s, now - self._start, reason))

    def _timing(self, first_s: float | None, end_s: float, reason: str) -> Timing:
        return Timing(
            self._model_id,
            self._submitted,
            self._queued_s,
            first_s,
            end_s,
            self._num_prompt_tokens,
            self._num_generated_tokens,
            reason,
        )


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
