"""Prometheus metrics of one server; those of sequences are in `sequence_metrics`."""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Gauge, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from evoserve.api.limits import RateLimits
from evoserve.api.recipe_metrics import BuildMetrics, HttpMetrics, RateGauges, RecipeGauges
from evoserve.api.sequence_metrics import SequenceMetrics
from evoserve.engine.protocol import Engine, ModelStats
from evoserve.lifecycle.lifecycle import Lifecycle


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
        self.sequences = SequenceMetrics(self._registry)
        self.http = HttpMetrics(self._registry)
        self._registry.register(_EngineGauges(engine))
        ProcessCollector(registry=self._registry)
        if lifecycle is not None:
            BuildMetrics(self._registry, lifecycle)
            self._registry.register(RecipeGauges(lifecycle))
        if rates is not None:
            self._registry.register(RateGauges(rates))

    def watch(self, is_ready: Callable[[], bool]) -> None:
        """Export what `is_ready` says whenever it is scraped; call this once."""
        ready = Gauge("evoserve:ready", "1 while /ready is 200.", registry=self._registry)
        ready.set_function(is_ready)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes, without the series of recipes that were deleted."""
        loaded = [model.model_id for model in self._engine.stats().models]
        if self._lifecycle is not None:
            named = {named.model_id for named in self._lifecycle.names().values()}
            registered = {entry.model_id for entry in self._lifecycle.recipes}
            self.sequences.forget_all_but(named | registered | set(loaded))
        for model_id in loaded:
            self.sequences.see(model_id)
        return generate_latest(self._registry)


class _EngineGauges:
    """What the engine knows at the moment of scraping."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def collect(self) -> Iterable[Metric]:
        stats = self._engine.stats()
        running = _gauge("vllm:num_requests_running", "Sequences in the running batch.")
        waiting = _gauge("vllm:num_requests_waiting", "Sequences waiting for a place.")
        usage = _gauge("vllm:kv_cache_usage_perc", "KV cache blocks in use; 1 is all of them.")
        preempted = CounterMetricFamily(
            "vllm:num_preemptions", "Sequences preempted.", labels=["model_name"]
        )
        for model in stats.models:
            running.add_metric([model.model_id], model.num_running)
            waiting.add_metric([model.model_id], model.num_waiting)
            usage.add_metric([model.model_id], _usage(model))
            preempted.add_metric([model.model_id], model.num_preemptions)
        weights = GaugeMetricFamily("evoserve:weight_bytes", "Weights held, shared ones once.")
        weights.add_metric([], stats.weight_bytes)
        return [running, waiting, usage, weights, preempted]


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["model_name"])


def _usage(model: ModelStats) -> float:
    return 1 - model.num_free_blocks / model.num_blocks if model.num_blocks else 0.0
