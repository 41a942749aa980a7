"""Optimizer overhead: time per generation outside of any evaluation, at n = 6, 200 and 4,288.

    python -m benchmarks.optimizers [--quick] [--json FILE]

One generation is ask, tell with a made-up fitness, and state (what a resumable loop stores). The
median over generations is printed, with the size of the state and the genome's decode time.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.provenance import find_commit, processor
from evoserve.manifest.parts import SourceSpec
from search.genome.axes import Range, build_axes, concat_axes
from search.genome.dfs import DfsSettings, build_dfs_genome
from search.genome.lineage import lineage_axes
from search.genome.pool import Pool
from search.genome.protocol import Genome, Space
from search.genome.ps import PsSettings, build_ps_genome
from search.optimizers.cma import Cma, CmaSettings, default_population
from search.optimizers.m2n2 import M2n2, M2n2Settings
from search.optimizers.mixed import Mixed, MixedSettings
from search.optimizers.nsga2 import Nsga2, Nsga2Settings
from search.optimizers.protocol import Optimizer, Scored
from search.optimizers.random_search import RandomSearch, RandomSettings

SIZES = (6, 200, 4288)
NUM_ITEMS = 200


@dataclass(frozen=True)
class Row:
    """Medians of one optimizer on one space, milliseconds per generation."""

    optimizer: str
    size: int
    population: int
    ask_ms: float
    tell_ms: float
    state_ms: float
    state_bytes: int
    num_generations: int


def main() -> None:
    """Run all cases, print the table, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="5 generations each, not 30")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    arguments = parser.parse_args()
    count = 5 if arguments.quick else 30
    rows = [_measure(name, space, build, count) for name, space, build in _cases()]
    decode = {name: _decode_ms(genome, count) for name, genome in _genomes()}
    _print(rows, decode)
    if arguments.json:
        document = {
            **_provenance(),
            "generations": [asdict(row) for row in rows],
            "decode_ms": decode,
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _cases() -> Iterator[tuple[str, Space, Callable[[], Optimizer]]]:
    for size in SIZES:
        space = _mixed_box(size)
        count = 128 if size == max(SIZES) else default_population(size)
        full, separable = (CmaSettings(count, kind) for kind in ("full", "separable"))
        if size < max(SIZES):
            yield "cma full", space, partial(Cma, space, 0, full)
        yield "cma separable", space, partial(Cma, space, 0, separable)
        mixed = MixedSettings(count)
        yield "mixed", space, partial(Mixed, space, 0, mixed)
        nsga2 = Nsga2Settings(population=max(40, count))
        yield "nsga2", space, partial(Nsga2, space, 0, nsga2)
        plain = RandomSettings(count)
        yield "random", space, partial(RandomSearch, space, 0, plain)
    lineages = lineage_axes(3, 32)
    yield "m2n2 (32 merges)", lineages, partial(M2n2, lineages, 3, 0, M2n2Settings())


def _mixed_box(size: int) -> Space:
    """As in the paper's DFS, 192 bits of 4,288; below that, one dimension in three."""
    bits = 192 if size == max(SIZES) else size // 3
    names = [str(index) for index in range(size)]
    indicators = build_axes(names[:bits], [Range(-1, 1, 0.2, 0.1)] * bits, is_binary=True)
    return concat_axes([indicators, build_axes(names[bits:], [Range()] * (size - bits))])


def _genomes() -> Iterator[tuple[str, Genome]]:
    names = ("base", "a", "b", "c")
    sources = {name: SourceSpec(model=name) for name in names}
    pool = Pool("bench", sources, dict.fromkeys(names, 32))
    yield "ps n=6", build_ps_genome(pool, PsSettings("dare_ties", ("a", "b", "c"), "base"))
    yield "dfs n=4289", build_dfs_genome(pool, DfsSettings(("a", "b")))


def _measure(name: str, space: Space, build: Callable[[], Optimizer], count: int) -> Row:
    optimizer = build()
    rng = np.random.default_rng(0)
    num_objectives = 2 if name == "nsga2" else 1
    times: list[tuple[float, float, float]] = []
    state, asked = b"", optimizer.ask()
    for _ in range(count + 1):
        start = time.perf_counter()
        asked = optimizer.ask()
        answered = time.perf_counter()
        told = [_score(x, rng, num_objectives) for x in asked]
        scored = time.perf_counter()
        optimizer.tell(told)
        updated = time.perf_counter()
        state = optimizer.state()
        times.append((answered - start, updated - scored, time.perf_counter() - updated))
    # The first generation was asked above and only copied here: it is not counted.
    ask, tell, kept = (round(1e3 * statistics.median(t), 3) for t in zip(*times[1:], strict=True))
    return Row(name, space.size, len(asked), ask, tell, kept, len(state), count)


def _score(x: np.ndarray, rng: np.random.Generator, num_objectives: int) -> Scored:
    items = rng.integers(0, 2, NUM_ITEMS).astype(np.float64)
    objectives = np.array([items.mean(), -float(x.mean())][:num_objectives])
    return Scored(x, objectives, items)


def _decode_ms(genome: Genome, count: int) -> float:
    rng = np.random.default_rng(0)
    times = []
    for _ in range(count):
        x = rng.normal(genome.initial, genome.sigma)
        start = time.perf_counter()
        genome.decode(x)
        times.append(time.perf_counter() - start)
    return round(1e3 * statistics.median(times), 3)


def _print(rows: list[Row], decode: dict[str, float]) -> None:
    print("| optimizer | n | population | ask ms | tell ms | state ms | state kB |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for row in rows:
        print(
            f"| {row.optimizer} | {row.size} | {row.population} | {row.ask_ms:.2f} | "
            f"{row.tell_ms:.2f} | {row.state_ms:.2f} | {row.state_bytes / 1000:.0f} |"
        )
    for name, ms in decode.items():
        print(f"decode {name}: {ms:.2f} ms")


def _provenance() -> dict[str, object]:
    return {
        "benchmark": "optimizers",
        "commit": find_commit(),
        "hardware": {
            "cpu": processor(),
            "num_cpus": os.cpu_count(),
            "num_threads": os.environ.get("OMP_NUM_THREADS"),
            "system": platform.platform(),
        },
        "python": platform.python_version(),
        "packages": {name: version(name) for name in ("numpy", "cma", "pymoo")},
    }


if __name__ == "__main__":
    main()
