"""Metrics of requests by route, and of recipes: states, bytes, builds, moves of aliases."""

from collections.abc import Iterable
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from evoserve.api.limits import RateLimits
from evoserve.lifecycle.book import RecipeState
from evoserve.lifecycle.events import Event
from evoserve.lifecycle.lifecycle import Lifecycle
from evoserve.lifecycle.store import Action

_ROUTE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 600)
_BUILD_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_FAILURES = ("500", "503")
_OUTCOMES = {"ready": "ready", "failed": "failed", "registered": "refused"}


class HttpMetrics:
    """Requests by route (its pattern, never a path), method and status."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Registers its families."""
        self._requests = Counter(
            "evoserve:http_requests",
            "Answers.",
            ["route", "method", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "evoserve:http_request_seconds",
            "From a request's head to the end of its answer.",
            ["route"],
            buckets=_ROUTE_BUCKETS,
            registry=registry,
        )

    def expect(self, routes: Iterable[tuple[str, str]]) -> None:
        """Failures of these (pattern, method) begin at 0.

        `increase` does not count what a series begins with, and would miss the first burst.
        """
        for route, method in routes:
            for status in _FAILURES:
                self._requests.labels(route, method, status)

    def count(self, route: str, method: str, status: int, elapsed_s: float) -> None:
        """An answer has been sent, or the client has left (499)."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(elapsed_s)


class BuildMetrics:
    """Counts builds and changes of aliases from a lifecycle's events."""

    def __init__(self, registry: CollectorRegistry, lifecycle: Lifecycle) -> None:
        """Counts what is kept of the past (builds before the port opened), then listens."""
        self._builds = Counter(
            "evoserve:builds", "Builds that ended, by outcome.", ["outcome"], registry=registry
        )
        self._seconds = Histogram(
            "evoserve:build_seconds",
            "From the first tensor read to a warm recipe.",
            buckets=_BUILD_BUCKETS,
            registry=registry,
        )
        self._moves = Counter(
            "evoserve:alias_changes", "Changes of aliases.", ["action"], registry=registry
        )
        self._building: dict[str, float] = {}
        for outcome in _OUTCOMES.values():
            self._builds.labels(outcome)
        for action in get_args(Action):
            self._moves.labels(action)
        with lifecycle.events.follow(after=0) as past:
            while (event := past.get_nowait() if past.qsize() else None) is not None:
                self._hear(event)
        lifecycle.events.listen(self._hear)

    def _hear(self, event: Event) -> None:
        if event.kind == "alias" and "action" in event.data:
            self._moves.labels(str(event.data["action"])).inc()
        if event.kind == "recipe" and "state" in event.data:
            self._enter(event.subject, str(event.data["state"]), event.at)

    def _enter(self, model_id: str, state: str, at: float) -> None:
        if state == RecipeState.BUILDING:
            self._building.setdefault(model_id, at)
            return
        start = self._building.pop(model_id, None)
        if start is not None and state in _OUTCOMES:
            self._builds.labels(_OUTCOMES[state]).inc()
            self._seconds.observe(at - start)


class RecipeGauges:
    """What the lifecycle knows when it is scraped; deleted recipes are gone by themselves."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        """Reads `lifecycle` whenever it is scraped."""
        self._lifecycle = lifecycle

    def collect(self) -> Iterable[Metric]:
        """prometheus_client's: the families now."""
        state = GaugeMetricFamily(
            "evoserve:recipe_state", "1 for the state it is in.", labels=["model_name", "state"]
        )
        weights = _by_model("evoserve:recipe_weight_bytes", "Weights by itself, shared or not.")
        caches = _by_model("evoserve:recipe_kv_cache_bytes", "KV cache.")
        for entry in self._lifecycle.recipes:
            for each in RecipeState:
                state.add_metric([entry.model_id, str(each)], float(entry.state is each))
            if entry.info is not None:
                weights.add_metric([entry.model_id], entry.info.weight_bytes)
                caches.add_metric([entry.model_id], entry.info.kv_cache_bytes)
        return [state, weights, caches]


class RateGauges:
    """Requests that rate limits have refused, by what was used up."""

    def __init__(self, rates: RateLimits) -> None:
        """Reads `rates` whenever it is scraped."""
        self._rates = rates

    def collect(self) -> Iterable[Metric]:
        """prometheus_client's: the family now."""
        refused = CounterMetricFamily(
            "evoserve:rate_limited", "Requests refused with 429.", labels=["kind"]
        )
        for kind, number in self._rates.num_refused.items():
            refused.add_metric([kind], number)
        return [refused]


def _by_model(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, labels=["model_name"])
