"""Cheaper fitness against the full one: on recorded scores of a real search, and in real searches.

    python -m benchmarks.fitness [--quick] [--json FILE]

A CMA-ES search on the mini zoo is recorded with every item asked. Each fitness then replays its
generations from that table: share of the items asked, error of the means, rank correlation and
agreement on the better half within a generation, and what would have been reported as best. Last,
a search of its own with each kind, same seed, and the held-out score of what it reports.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.fitness_cases import Bench, Counter, Run, Scores, individuals, load_case
from benchmarks.provenance import find_commit
from evoserve.manifest.load import parse_manifest
from search.config import SearchConfig
from search.fitness.asking import is_whole
from search.fitness.config import (
    FitnessConfig,
    FullConfig,
    IrtConfig,
    MinibatchConfig,
    RacingConfig,
)
from search.fitness.validation import find_best
from search.store import Individual


@dataclass(frozen=True)
class Replay:
    """One fitness on recorded generations.

    asked: share of the items; mae: of the means that are not of all items; spearman, half: rank
    correlation, and share of the better half found, within a generation, on average from the third
    on; regret: full mean of the best there was, less that of the one reported; wrong: dropped
    although better than the best before.
    """

    fitness: str
    asked: float
    mae: float | None
    spearman: float
    half: float
    regret: float
    dropped: int
    wrong: int


@dataclass(frozen=True)
class Result:
    """A search with one fitness; scores: of what it reports, on all search items and held out.

    asked: items asked, validation included, as a share of the full search's.
    """

    fitness: str
    asked: float
    search_score: float
    test_score: float
    seconds: float


def main() -> None:
    """Record, replay, search, print the tables, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="30 items and 4 generations")
    parser.add_argument("--json", type=Path, help="write the numbers here")
    arguments = parser.parse_args()
    num_items, num_generations = (30, 4) if arguments.quick else (100, 9)
    bench = Bench(load_case(0, num_items, num_generations))
    start = time.perf_counter()
    full = bench.search(bench.config)
    seconds = time.perf_counter() - start
    replays = [_replay(bench, full, kind) for kind in _kinds(num_items)]
    _print_replays(replays)
    results = [_result(bench, FullConfig(), full, full, seconds)]
    for kind in _searched(num_items):
        start = time.perf_counter()
        run = bench.search(_with(bench.config, kind))
        results.append(_result(bench, kind, run, full, time.perf_counter() - start))
    _print_results(results)
    bench.recorder.close()
    if arguments.json:
        document = {
            **_provenance(),
            "num_items": num_items,
            "num_generations": num_generations,
            "replays": [asdict(replay) for replay in replays],
            "searches": [asdict(result) for result in results],
        }
        arguments.json.parent.mkdir(parents=True, exist_ok=True)
        arguments.json.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _kinds(num_items: int) -> list[FitnessConfig]:
    tenth = num_items // 10
    sizes = (tenth, 2 * tenth, 3 * tenth)
    return [
        FullConfig(),
        *(MinibatchConfig(kind="minibatch", size=size) for size in (*sizes, 5 * tenth)),
        *(
            RacingConfig(kind="racing", chunk=chunk, keep=keep)
            for chunk in (tenth, 25 * num_items // 100)
            for keep in (0.0, 0.5)
        ),
        *(
            IrtConfig(kind="irt", size=size, dimensions=dimensions)
            for dimensions in (1, 2)
            for size in sizes
        ),
    ]


def _searched(num_items: int) -> list[FitnessConfig]:
    fifth = num_items // 5
    return [
        MinibatchConfig(kind="minibatch", size=fifth),
        RacingConfig(kind="racing", chunk=num_items // 10),
        RacingConfig(kind="racing", chunk=num_items // 10, keep=0.0),
        IrtConfig(kind="irt", size=fifth),
    ]


def _with(config: SearchConfig, kind: FitnessConfig) -> SearchConfig:
    return config.model_copy(update={"fitness": kind})


def _replay(bench: Bench, full: Run, kind: FitnessConfig) -> Replay:
    counter = Counter(bench.recorder)
    fitness = bench.fitness(counter, _with(bench.config, kind))
    generations = []
    for number, recorded in enumerate(full.generations):
        manifests = [parse_manifest(one.manifest) for one in recorded]
        samples = dict(fitness.score(number, manifests))
        genotypes = [one.genotype for one in recorded]
        generations.append(individuals(number, genotypes, manifests, samples))
        fitness.learn(generations[-1])
    truths = [_means(recorded) for recorded in full.generations]
    guesses = [_means(generation) for generation in generations]
    is_part = [np.array([not is_whole(one.items) for one in each]) for each in generations]
    errors = np.concatenate(
        [np.abs(g - t)[part] for g, t, part in zip(guesses, truths, is_part, strict=True)]
    )
    later = list(zip(guesses, truths, strict=True))[2:]
    reported = _reported(kind, [one for generation in generations for one in generation])
    dropped, wrong = _dropped(kind, truths, is_part)
    return Replay(
        _name(kind),
        counter.num_asked / full.num_asked,
        float(errors.mean()) if len(errors) else None,
        float(np.nanmean([_spearman(guess, truth) for guess, truth in later])),
        float(np.mean([_half(guess, truth) for guess, truth in later])),
        float(np.concatenate(truths).max() - truths[reported.generation][reported.position]),
        dropped,
        wrong,
    )


def _dropped(
    kind: FitnessConfig, truths: Sequence[Scores], is_part: Sequence[np.ndarray]
) -> tuple[int, int]:
    """How many racing dropped, and how many of them were better than the best before."""
    if kind.kind != "racing":
        return 0, 0
    dropped = wrong = 0
    best = -1.0
    for truth, part in zip(truths, is_part, strict=True):
        dropped += int(part.sum())
        wrong += int((part & (truth > best)).sum())
        best = max(best, float(truth[~part].max(initial=-1.0)))
    return dropped, wrong


def _spearman(guess: Scores, truth: Scores) -> float:
    """Correlation of the ranks, equal ones averaged."""
    ranks = [
        (each[:, None] > each).sum(axis=1) + (each[:, None] == each).sum(axis=1) / 2
        for each in (guess, truth)
    ]
    return float(np.corrcoef(*ranks)[0, 1])


def _half(guess: Scores, truth: Scores) -> float:
    """Share of the guessed better half that is at least as good as the true better half's last."""
    count = len(truth) // 2
    last = np.sort(truth)[-count]
    return float((truth[np.argsort(-guess, kind="stable")[:count]] >= last).mean())


def _reported(kind: FitnessConfig, found: Sequence[Individual]) -> Individual:
    """The best of those that were asked everything; for mini-batches the highest mean of all."""
    if kind.kind == "minibatch":
        return find_best(found)
    return find_best([one for one in found if is_whole(one.items)])


def _result(bench: Bench, kind: FitnessConfig, run: Run, full: Run, seconds: float) -> Result:
    """Mini-batches report the generation's best that validates best."""
    num_asked = run.num_asked
    if kind.kind == "minibatch":
        bests = [find_best(generation) for generation in run.generations]
        num_asked += len(bests) * len(bench.validation.items)
        best = max(
            bests, key=lambda one: bench.score(parse_manifest(one.manifest), bench.validation)
        )
    else:
        best = _reported(kind, run.individuals)
    manifest = parse_manifest(best.manifest)
    scores = [bench.score(manifest, task) for task in (bench.task, bench.test)]
    return Result(_name(kind), num_asked / full.num_asked, scores[0], scores[1], round(seconds, 1))


def _means(generation: Sequence[Individual]) -> Scores:
    return np.array([float(one.objectives[0]) for one in generation])


def _name(kind: FitnessConfig) -> str:
    match kind:
        case MinibatchConfig():
            return f"minibatch {kind.size}"
        case RacingConfig():
            return f"racing, chunk {kind.chunk}, keep {kind.keep}"
        case IrtConfig():
            return f"irt {kind.size}, {kind.dimensions}-dim."
    return "full"


def _print_replays(replays: list[Replay]) -> None:
    print("| fitness | items asked | error of means | Spearman | better half | regret | dropped |")
    print("|---|---:|---:|---:|---:|---:|---:|")
    for one in replays:
        mae = "-" if one.mae is None else f"{one.mae:.3f}"
        print(
            f"| {one.fitness} | {100 * one.asked:.0f}% | {mae} | {one.spearman:.2f} | "
            f"{100 * one.half:.0f}% | {one.regret:.2f} | {one.dropped} ({one.wrong} wrongly) |"
        )


def _print_results(results: list[Result]) -> None:
    print("| search with | items asked | search items | held out | seconds |")
    print("|---|---:|---:|---:|---:|")
    for one in results:
        print(
            f"| {one.fitness} | {100 * one.asked:.0f}% | {100 * one.search_score:.1f}% | "
            f"{100 * one.test_score:.1f}% | {one.seconds:.0f} |"
        )


def _provenance() -> dict[str, object]:
    return {
        "benchmark": "fitness",
        "commit": find_commit(),
        "hardware": {
            "num_cpus": os.cpu_count(),
            "num_threads": os.environ.get("OMP_NUM_THREADS"),
            "system": platform.platform(),
        },
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
