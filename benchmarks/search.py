"""Candidates per minute of a search, and its time outside generation, beside mergekit-evolve.

    python -m benchmarks.search [--quick] [--peer-python PATH] [--rounds N] [--json FILE]

DARE-TIES on the mini zoo (100 items, up to 96 new tokens) and on SmolLM2-135M with its two
perturbations (50 items, up to 32 new tokens). Both sides take turns in one run and get the same
sources, prompts, generation lengths (greedy) and coefficients; ours builds the masks from a hash,
the peer's from torch's generator, so replies differ a little unless the densities are 1, which is
compared. Time "outside" is that in which no candidate was generating. The optimizer by itself, at
n = 6, 200 and 4,288: `python -m benchmarks.optimizers`.

The peer needs an environment of its own, and is skipped without `--peer-python`:

    python3.11 -m venv DIR
    DIR/bin/pip install 'mergekit[evolve]==0.1.5' lm_eval==0.4.13 torch==2.13.0 transformers==5.19.0
    python -m benchmarks.search --peer-python DIR/bin/python

What was patched to run it on a CPU stands in `benchmarks/peers/mergekit_evolve.py`.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.merge import spread
from benchmarks.provenance import find_commit, processor
from benchmarks.search_cases import CASES, FOLDER, ROOT, Case, without_chance
from benchmarks.search_ours import PARTS, Ours
from benchmarks.search_peer import Peer, fastest

PACKAGES = ("torch", "numpy", "numba", "safetensors", "tokenizers", "transformers")
PEER_PACKAGES = ("mergekit", "lm_eval", "torch", "transformers", "pydantic")
Round = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Result:
    """A case's rounds; check: mean scores of both sides on one merge without random masks."""

    rounds: list[Round]
    ways: dict[str, float]
    check: dict[str, float]


def main() -> None:
    """Measure, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one round, few and short candidates, no peer"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--peer-python", type=Path, help="Python of the peer's environment")
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.peer_python = 1, None
    if options.peer_python is None:
        print("the peer is skipped: no --peer-python, or --quick", file=sys.stderr)
    load_before = os.getloadavg()
    found = {}
    for case in CASES:
        if all((ROOT / "models" / folder).is_dir() for folder in case.folders.values()):
            chosen = case.quick() if options.quick else case
            found[case.name] = measure(chosen, options.rounds, options.peer_python)
        else:
            print(f"{case.name} is skipped: run `make demo-model` first", file=sys.stderr)
    result = describe(found, load_before, options.peer_python)
    print(format_tables(result["summary"]))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def measure(case: Case, num_rounds: int, python: Path | None) -> Result:
    """Rounds in turn, ours first, after both sides have warmed up."""
    with ExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        ours = Ours(case.config(case.ours), FOLDER)
        stack.callback(ours.close)
        same = without_chance(ours.manifests(0)[0])
        check, peer = {"ours": ours.score(same)}, None
        ways: dict[str, float] = {}
        if python is not None:
            both = [case.genotype(same)] * 2
            chosen, peer, ways = fastest(python, case, work, both)
            stack.callback(peer.close)
            check["peer"] = peer.evaluate(both[:1])[0]["score"]
            print(f"{case.name}: the peer runs {chosen.describe()}", file=sys.stderr)
        ours.run(0)
        rounds = [measure_round(case, ours, peer, seed) for seed in range(1, num_rounds + 1)]
    return Result(rounds, ways, check)


def measure_round(case: Case, ours: Ours, peer: Peer | None, seed: int) -> Round:
    """One generation of ours, and its first candidates on the peer."""
    found = {"ours": ours.run(seed)}
    if peer is not None:
        manifests = ours.manifests(seed)[: case.theirs]
        answers = peer.evaluate([case.genotype(manifest) for manifest in manifests])
        sums = {key: sum(answer[key] for answer in answers) for key in answers[0]}
        mean_score = sums.pop("score") / len(answers)
        found["peer"] = {**sums, "num_candidates": len(answers), "mean_score": mean_score}
    for side, numbers in found.items():
        numbers["per_minute"] = 60 * numbers["num_candidates"] / numbers["total_s"]
        numbers["outside_share"] = 1 - numbers["generation_s"] / numbers["total_s"]
        print(f"{case.name} {seed} {side}: {numbers['per_minute']:.1f}/min", file=sys.stderr)
    return found


def describe(
    found: dict[str, Result], load_before: tuple[float, float, float], python: Path | None
) -> dict[str, Any]:
    """Summary, where it was measured, and every number."""
    return {
        "benchmark": "search",
        "summary": {name: summarise(result) for name, result in found.items()},
        "cases": [asdict(case) for case in CASES],
        "machine": {
            "processor": processor(),
            "num_cpus": os.cpu_count(),
            "system": platform.platform(),
            "load_before": load_before,
            "load_after": os.getloadavg(),
        },
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "peer_versions": peer_versions(python),
        "python": platform.python_version(),
        "commit": find_commit(),
        "results": {name: asdict(result) for name, result in found.items()},
    }


def summarise(result: Result) -> dict[str, Any]:
    """[median, least, most] over the rounds, of each side and of ours to the peer's."""
    summary: dict[str, Any] = {"check": result.check, "ways": result.ways}
    for side in result.rounds[0]:
        numbers = [each[side] for each in result.rounds]
        keys = ("per_minute", "outside_share", "mean_score")
        table = {key: [each[key] for each in numbers] for key in keys}
        table["tokens_each"] = [each["num_tokens"] / each["num_candidates"] for each in numbers]
        for part in PARTS:
            if f"{part}_s" in numbers[0]:
                table[f"{part}_ms"] = [
                    1e3 * each[f"{part}_s"] / each["num_candidates"] for each in numbers
                ]
        summary[side] = {key: three(values) for key, values in table.items()}
    if "peer" in result.rounds[0]:
        ratios = [r["ours"]["per_minute"] / r["peer"]["per_minute"] for r in result.rounds]
        summary["ratio"] = three(ratios)
    return summary


def three(values: Sequence[float]) -> list[float]:
    """[median, least, most]."""
    return [statistics.median(values), min(values), max(values)]


def peer_versions(python: Path | None) -> dict[str, str]:
    """Of the packages in the peer's environment."""
    if python is None:
        return {}
    code = f"import importlib.metadata as m; print({{n: m.version(n) for n in {PEER_PACKAGES}}})"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout.replace("'", '"'))
    return versions


def format_tables(summary: dict[str, Any]) -> str:
    """Markdown; median (least - most) over the rounds."""
    lines = [
        "| | side | candidates/min | ratio | outside generation, % | tokens each | score |",
        "|---|---|---|---|---|---|---|",
    ]
    parts = [
        "| ms per candidate | " + " | ".join(PARTS) + " |",
        "|---|" + "---|" * len(PARTS),
    ]
    for name, case in summary.items():
        for side in ("ours", "peer"):
            if side in case:
                ratio = spread(case["ratio"], 1) if side == "ours" and "ratio" in case else ""
                row = case[side]
                share = [100 * value for value in row["outside_share"]]
                cells = [spread(row["per_minute"], 1), ratio, spread(share, 1)]
                cells += [f"{row['tokens_each'][0]:.0f}", f"{row['mean_score'][0]:.3f}"]
                lines.append(f"| {name} | {side} | " + " | ".join(cells) + " |")
        times = [spread(case["ours"][f"{part}_ms"], 2) for part in PARTS]
        parts.append(f"| {name} | " + " | ".join(times) + " |")
        if "peer" in case["check"]:
            both = case["check"]
            parts += ["", f"{name}, densities 1: ours {both['ours']}, peer {both['peer']}", ""]
    return "\n".join([*lines, "", *parts])


if __name__ == "__main__":
    main()
