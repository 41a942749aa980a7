"""Cost as work grows: context, path, recipes, streams; every point in several repetitions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.scale_engine import Bench, make_settings, resident_bytes, write_tokens
from benchmarks.scale_recipes import (
    NUM_LAYERS,
    build_band_merges,
    build_path,
    build_paths,
    open_recipe,
)
from benchmarks.scale_result import DECODE, KV, PREFILL, RESIDENT, STEP, WEIGHTS, Point
from evoserve.engine.runtime import RecipeRuntime
from evoserve.manifest.schema import Manifest

KV_BYTES = 4 * 2**30
SMALL_KV_BYTES = 2**28
NUM_REQUESTS = 20


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    window: decode steps of one repetition; most_tokens: of several sequences together, longer
    contexts are measured with one sequence only.
    """

    contexts: tuple[int, ...]
    paths: tuple[float, ...]
    recipes: tuple[int, ...]
    streams: tuple[int, ...]
    repetitions: int
    window: int
    most_tokens: int


FULL = Effort(
    contexts=(128, 512, 1024, 2048, 4096, 8000),
    paths=(1, 1.5, 2, 3),
    recipes=(1, 2, 5, 10, 20),
    streams=(1, 2, 4, 8, 16, 32, 64, 128),
    repetitions=5,
    window=6,
    most_tokens=8 * 4096,
)
QUICK = Effort((128, 512), (1, 2), (1, 4), (1, 4, 16), 3, 2, 8 * 512)


@dataclass(frozen=True)
class Case:
    """One curve: its titles and what measures it for a form of the weights."""

    title: str
    x_name: str
    measure: Callable[[str, Effort], list[Point]]


def measure_contexts(form: str, effort: Effort) -> list[Point]:
    """One sequence and eight of their own texts, longer and longer.

    A text's beginning comes from the prefix cache, so `prefill` is of the tokens since the last
    point: the cost there, not on average. Its repetitions are the chunks.
    """
    bench = Bench(make_settings(form, kv_cache_bytes=KV_BYTES))
    runtime = bench.load(open_recipe(build_path(NUM_LAYERS)))
    texts = [write_tokens(f"context {number}", max(effort.contexts)) for number in range(8)]
    points = []
    for context in effort.contexts:
        bench.submit(runtime, texts[0][:context])
        chunks = [tokens / spent_s for tokens, spent_s in bench.prefill() if tokens]
        numbers = {**_decode(bench, effort, 1), PREFILL: chunks}
        points.append(_point("1 sequence", context, numbers))
        if len(texts) * context <= effort.most_tokens:
            for text in texts[1:]:
                bench.submit(runtime, text[:context])
            bench.prefill()
            numbers = _decode(bench, effort, len(texts))
            points.append(_point("8 sequences", context, numbers))
        bench.clear()
    bench.close()
    return points


def measure_paths(form: str, effort: Effort) -> list[Point]:
    """The same layers visited more often; 1 and 8 sequences of 128 tokens."""
    points = []
    for factor in effort.paths:
        bench = Bench(make_settings(form, kv_cache_bytes=KV_BYTES))
        runtime = bench.load(open_recipe(build_path(round(factor * NUM_LAYERS))))
        for count in (1, 8):
            texts = [write_tokens(f"path {count} {number}", 128) for number in range(count)]
            numbers = _spread_over(bench, effort, [runtime], texts)
            points.append(_point(f"{count} sequence{'s' * (count > 1)}", factor, numbers))
        bench.close()
    return points


def measure_recipes(form: str, effort: Effort) -> list[Point]:
    """Twenty requests of 64 tokens spread over the recipes; paths, and merges with a band."""
    most = max(effort.recipes)
    kinds = {"paths": build_paths(most), "merges": build_band_merges(most)}
    return [
        point
        for series, manifests in kinds.items()
        for point in _grow_recipes(form, effort, series, manifests)
    ]


def measure_streams(form: str, effort: Effort) -> list[Point]:
    """More and more sequences of 64 tokens on one recipe; the earlier ones come from the cache."""
    most = max(effort.streams)
    settings = make_settings(form, kv_cache_bytes=KV_BYTES, max_num_seqs=most)
    bench = Bench(settings)
    runtime = bench.load(open_recipe(build_path(NUM_LAYERS)))
    points = []
    for count in effort.streams:
        for number in range(count):
            bench.submit(runtime, write_tokens(f"streams {number}", 64))
        bench.prefill()
        points.append(_point("streams", count, _decode(bench, effort, count)))
        bench.clear()
    bench.close()
    return points


CASES = {
    "context": Case("Context length", "tokens of context", measure_contexts),
    "path": Case("Path length", "times 30 layers", measure_paths),
    "recipes": Case("Loaded recipes, 20 requests", "recipes", measure_recipes),
    "streams": Case("Concurrent streams", "streams", measure_streams),
}


def _grow_recipes(
    form: str, effort: Effort, series: str, manifests: Sequence[Manifest]
) -> list[Point]:
    """Load more recipes beside those that are there."""
    bench = Bench(make_settings(form, kv_cache_bytes=SMALL_KV_BYTES))
    points = []
    for count in effort.recipes:
        for manifest in manifests[len(bench.runtimes) : count]:
            bench.load(open_recipe(manifest))
        texts = [write_tokens(f"recipes {count} {n}", 64) for n in range(NUM_REQUESTS)]
        points.append(_point(series, count, _spread_over(bench, effort, bench.runtimes, texts)))
    bench.close()
    return points


def _spread_over(
    bench: Bench,
    effort: Effort,
    runtimes: Sequence[RecipeRuntime],
    texts: Sequence[Sequence[int]],
) -> dict[str, list[float]]:
    """The requests in turn over the recipes; prefill as one number, that of all of them."""
    for number, text in enumerate(texts):
        bench.submit(runtimes[number % len(runtimes)], text)
    chunks = bench.prefill()
    rate = sum(tokens for tokens, _ in chunks) / sum(spent_s for _, spent_s in chunks)
    numbers = _decode(bench, effort, len(texts), len(runtimes))
    bench.clear()
    return {**numbers, PREFILL: [rate]}


def _decode(
    bench: Bench, effort: Effort, num_sequences: int, num_recipes: int = 1
) -> dict[str, list[float]]:
    """Repetitions of `window` tokens of every sequence; a step serves one recipe."""
    bench.decode(num_recipes)
    num_steps = effort.window * num_recipes
    times = [bench.decode(num_steps) for _ in range(effort.repetitions)]
    numbers = {DECODE: [effort.window * num_sequences / spent_s for spent_s in times]}
    if num_recipes == 1:
        numbers[STEP] = [1e3 * spent_s / num_steps for spent_s in times]
    return {
        **numbers,
        WEIGHTS: [bench.models.num_bytes / 1e6],
        KV: [bench.kv_bytes / 1e6],
        RESIDENT: [resident_bytes() / 1e6],
    }


def _point(series: str, x: float, numbers: dict[str, list[float]]) -> Point:
    return {"series": series, "x": x, "numbers": numbers}
