"""Memory and time of building a merge of 1.1B-parameter shape, also straight into int8.

Three seeded random sources (TinyLlama's shape, bfloat16, one shard per layer) are written to a
temporary folder, a layer in memory at a time, and merged by dare_ties into a model that is ready
to run, by the engine's own factory. Each build is a fresh process that has built something small
before, in a warm page cache.

Two peaks are printed. `anonymous` (RssAnon, sampled every few milliseconds from outside) is what
the build allocates and nobody can take back: weights, drafts and Python. `resident` (VmHWM, kept
by the kernel) adds the pages of the mapped sources, which are the page cache's and go when memory
is short; they are dropped as soon as a tensor is merged. Both are compared with the weights after
what the process held before the build (imports) is taken off.

    python -m benchmarks.build_memory [--quick] [--rounds N] [--json FILE]
"""

import argparse
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

from benchmarks.memory_sources import QUICK, SHAPE, TINY, Shape, write_sources
from benchmarks.merge_kinds import recipe_document
from benchmarks.provenance import ROOT, find_commit, processor

QUANTIZATIONS = {"unquantised": None, "int8": "int8"}
SAMPLE_S = 0.003


def main() -> None:
    """Write the sources, measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a small shape, one round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the result")
    parser.add_argument("--child", nargs=2, metavar=("KIND", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        build_child(options.child[0], Path(options.child[1]))
        return
    shape, num_rounds = (QUICK, 1) if options.quick else (SHAPE, options.rounds)
    with tempfile.TemporaryDirectory(prefix="evoserve-memory-") as folder:
        write_sources(Path(folder) / "large", shape)
        write_sources(Path(folder) / "small", TINY)
        read_through(Path(folder))
        rounds = [
            {kind: measure(kind, Path(folder)) for kind in QUANTIZATIONS} for _ in range(num_rounds)
        ]
    result = describe(shape, rounds)
    print(format_table(result))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def read_through(folder: Path) -> None:
    """Into the page cache, as for every build but the first."""
    for file in sorted(folder.rglob("*.safetensors")):
        with file.open("rb") as opened:
            while opened.read(1 << 22):
                pass


def measure(kind: str, folder: Path) -> dict[str, float]:
    """One build in a process of its own, watched from here while it builds."""
    command = [sys.executable, "-m", "benchmarks.build_memory", "--child", kind, str(folder)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if child.stdout is None:
        raise RuntimeError("the child's output is not read")
    before = memory_bytes(child.pid, "RssAnon") if child.stdout.readline() else 0
    peak = before
    while child.poll() is None:
        peak = max(peak, memory_bytes(child.pid, "RssAnon"))
        time.sleep(SAMPLE_S)
    if child.returncode:
        raise SystemExit(f"the build '{kind}' ended with exit code {child.returncode}")
    found: dict[str, float] = json.loads(child.stdout.read())
    weights = found["weight_bytes"]
    return {
        **found,
        "anonymous_bytes": peak - before,
        "anonymous_ratio": (peak - before) / weights,
        "resident_ratio": found["resident_bytes"] / weights,
    }


def build_child(kind: str, folder: Path) -> None:
    """Import, build something small, say so, build, print the numbers."""
    from evoserve.config import Settings
    from evoserve.engine.factory import PathModelFactory
    from evoserve.manifest.load import build_manifest
    from evoserve.sources.checkpoint import open_checkpoint
    from evoserve.sources.recipe import Recipe

    manifest = build_manifest(recipe_document())
    factory = PathModelFactory(Settings(device="cpu", quantization=QUANTIZATIONS[kind]))

    def open_sources(size: str) -> Recipe:
        sources = {name: open_checkpoint(folder / size / name) for name in manifest.sources}
        return Recipe(manifest, sources)

    factory.build(open_sources("small")).lease.release()  # compiles, or loads what was compiled
    before = memory_bytes(os.getpid(), "VmHWM")
    print("ready", flush=True)
    start = time.perf_counter()
    model = factory.build(open_sources("large"))
    work_s = time.perf_counter() - start
    resident = memory_bytes(os.getpid(), "VmHWM") - before
    result = {"work_s": work_s, "weight_bytes": model.weight_bytes, "resident_bytes": resident}
    print(json.dumps(result))


def memory_bytes(pid: int, field: str) -> int:
    """A field of /proc/PID/status; 0 once the process has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    found = [int(line.split()[1]) for line in lines if line.startswith(field + ":")]
    return 1024 * found[0] if found else 0


def describe(shape: Shape, rounds: Sequence[dict[str, dict[str, float]]]) -> dict[str, Any]:
    """Summary ([median, least, most] of each number), where it was measured, every number."""
    summary = {
        kind: {
            key: [f([each[kind][key] for each in rounds]) for f in (statistics.median, min, max)]
            for key in rounds[0][kind]
        }
        for kind in QUANTIZATIONS
    }
    return {
        "benchmark": "build_memory",
        "shape": shape.__dict__,
        "num_parameters": shape.num_parameters,
        "summary": summary,
        "machine": {
            "processor": processor(),
            "num_cpus": os.cpu_count(),
            "system": platform.platform(),
        },
        "python": platform.python_version(),
        "commit": find_commit(),
        "rounds": rounds,
    }


def format_table(result: dict[str, Any]) -> str:
    """Markdown; medians over the rounds, peaks beside the weights."""
    lines = [
        f"{result['num_parameters'] / 1e6:.0f} million parameters, three sources, dare_ties",
        "",
        "| weights | build, s | weights, MB | anonymous peak, MB | / weights "
        "| resident peak / weights |",
        "|---|---|---|---|---|---|",
    ]
    for kind, row in result["summary"].items():
        median = {key: values[0] for key, values in row.items()}
        lines.append(
            f"| {kind} | {median['work_s']:.2f} | {median['weight_bytes'] / 1e6:.0f} "
            f"| {median['anonymous_bytes'] / 1e6:.0f} | {median['anonymous_ratio']:.2f} "
            f"| {median['resident_ratio']:.2f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
