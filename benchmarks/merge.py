"""Merging speed: files to finished weights, against mergekit and against the arithmetic alone.

Base and two seeded perturbations of SmolLM2-135M in bfloat16 (random weights of that shape if the
demo model is absent), merged by dare_ties into float32 weights. Every measurement is a fresh
process with a warm page cache; the kinds take turns, so that noise hits all of them.

    python -m benchmarks.merge [--quick] [--rounds N] [--json FILE]
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
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.merge_kinds import CHILDREN, DEMO, NAMES, ROOT, write_sources
from benchmarks.provenance import find_commit, processor

KINDS = {
    "ours": "Recipe -> evaluate_all into new float32 tensors; kernels loaded, as in a server",
    "ours, model": "Recipe -> the engine's model factory, ready to run; kernels loaded",
    "ours, model, int8": "as `ours, model`, straight into int8",
    "ours, first merge": "as `ours`, kernels cached on disk, first merge of the process",
    "ours, no cache": "as `ours`, nothing cached: compiles the kernels",
    "mergekit": "run_merge to disk, then transformers loads it in float32",
    "floor, torch": "map the files, base + w1 (a - base) + w2 (b - base) in chunks, no masks",
    "floor, kernel": "the fused kernel alone, on arrays in memory",
}
PACKAGES = ("torch", "numpy", "numba", "safetensors", "transformers", "mergekit")


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument(
        "--cache", type=Path, default=Path(tempfile.gettempdir()) / "evoserve-bench"
    )
    parser.add_argument("--child", choices=["write", *KINDS], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child == "write":
        write_sources(options.cache)
        return
    if options.child:
        print(json.dumps(CHILDREN[options.child](options.cache)))
        return
    make_sources(options.cache)
    num_rounds = 2 if options.quick else options.rounds
    load_before = os.getloadavg()
    rounds = [measure_round(options.cache, number, num_rounds) for number in range(num_rounds)]
    result = describe(rounds, load_before)
    print(format_table(result))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def make_sources(cache: Path) -> None:
    """Write the three checkpoints once, in a process of its own so that this one stays small."""
    if not all((cache / name / "done").exists() for name in NAMES):
        command = [
            sys.executable,
            "-m",
            "benchmarks.merge",
            "--cache",
            str(cache),
            "--child",
            "write",
        ]
        subprocess.run(command, check=True)


def child_command(cache: Path, kind: str) -> list[str]:
    """This script again, to do one thing."""
    script = [sys.executable, "-m", "benchmarks.merge"]
    return [*script, "--cache", str(cache.resolve()), "--child", kind]


def measure_round(cache: Path, number: int, num_rounds: int) -> dict[str, dict[str, float]]:
    """Every kind once, in turn, in fresh processes."""
    for name in NAMES:
        for file in (cache / name).glob("*.safetensors"):
            _ = file.read_bytes()[-1]
    found = {}
    for kind in KINDS:
        found[kind] = run_child(cache, kind)
        print(
            f"round {number + 1}/{num_rounds} {kind}: {found[kind]['work_s']:.3f} s",
            file=sys.stderr,
        )
    return found


def run_child(cache: Path, kind: str) -> dict[str, float]:
    """Its own numbers and the wall time of the whole process, imports included."""
    with tempfile.TemporaryDirectory() as empty:
        kernels = empty if kind == "ours, no cache" else str(cache / "kernels")
        start = time.perf_counter()
        done = subprocess.run(
            child_command(cache, kind),
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
            env={**os.environ, "NUMBA_CACHE_DIR": kernels, "HF_HUB_OFFLINE": "1"},
        )
        process_s = time.perf_counter() - start
    numbers: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return {**numbers, "process_s": process_s}


def describe(
    rounds: Sequence[dict[str, dict[str, float]]], load_before: tuple[float, float, float]
) -> dict[str, Any]:
    """Summary, where it was measured, and every number."""
    return {
        "benchmark": "merge",
        "model": "SmolLM2-135M" if DEMO.exists() else "random weights, SmolLM2-135M's shape",
        "summary": {kind: summarise(rounds, kind) for kind in KINDS},
        "kinds": KINDS,
        "machine": {
            "processor": processor(),
            "num_cpus": os.cpu_count(),
            "system": platform.platform(),
            "load_before": load_before,
            "load_after": os.getloadavg(),
        },
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
        "python": platform.python_version(),
        "commit": find_commit(),
        "rounds": rounds,
    }


def summarise(rounds: Sequence[dict[str, dict[str, float]]], kind: str) -> dict[str, list[float]]:
    """[median, least, most] of each number, and of the ratio to ours within the same round."""
    table = {key: [r[kind][key] for r in rounds] for key in ("work_s", "process_s", "peak_bytes")}
    table["work_ratio"] = [r[kind]["work_s"] / r["ours"]["work_s"] for r in rounds]
    table["process_ratio"] = [r[kind]["process_s"] / r["ours"]["process_s"] for r in rounds]
    return {
        key: [statistics.median(values), min(values), max(values)] for key, values in table.items()
    }


def format_table(result: dict[str, Any]) -> str:
    """Markdown; times are median (least - most), ratios are to ours in the same round."""
    lines = [
        "| | work, s | ratio to ours | whole process, s | ratio to ours | peak memory, MB |",
        "|---|---|---|---|---|---|",
    ]
    for kind, row in result["summary"].items():
        cells = [
            spread(row["work_s"], 3),
            spread(row["work_ratio"], 2),
            spread(row["process_s"], 2),
            spread(row["process_ratio"], 2),
            f"{row['peak_bytes'][0] / 1e6:.0f}",
        ]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def spread(values: Sequence[float], digits: int) -> str:
    """`median (least - most)`."""
    median, least, most = (f"{value:.{digits}f}" for value in values)
    return f"{median} ({least} - {most})"


if __name__ == "__main__":
    main()
