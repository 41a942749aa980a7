"""Where a step's time goes, part by part, and how far each is from the machine's limit.

    python -m benchmarks.profile_step [--quick] [--form float32|int8]... [--json FILE]

SmolLM2-135M in process. A decode of 1, 8 and 32 sequences at a context of about 150 tokens and a
prefill of 512 tokens are stepped by the engine's own scheduler, runner and sampler, each on the
clock. Then the kernels of that pass are called alone, on its own records and buffers, by all
threads: every kind of product over the weights of all steps, attention to the KV cache as it is,
the work on rows between them, and the handing out of that work with nothing to do. Before each
call other memory is read, so that the caches hold none of its weights, as in the pass. What the
pass takes beyond the sum is waiting for the slower thread and rows that the other core wrote.

The limit of a part is the time for its bytes at the bandwidth of a streaming read by all threads,
or for its operations at the micro-kernel's speed on data in the L1 cache, whichever is more; both
are measured in the same run. HTTP: CPU time of a real server's event loop beside 32 streams.
"""

import argparse
import asyncio
import signal
import sys
import time
from pathlib import Path

from benchmarks.profile_http import measure_http
from benchmarks.profile_parts import Load, measure_limits, measure_parts
from benchmarks.profile_result import (
    PYTHON,
    Form,
    Part,
    Result,
    Scenario,
    format_http,
    format_limits,
    format_scenario,
)
from benchmarks.profile_team import ClockedModels, Stopwatch
from benchmarks.provenance import ROOT, find_commit, machine
from benchmarks.scale_engine import FORMS, Bench, make_settings, write_tokens
from benchmarks.scale_recipes import NUM_LAYERS, build_path, open_recipe
from benchmarks.scale_result import write_json
from benchmarks.serve_server import SubjectError
from evoserve.engine.runtime import RecipeRuntime
from evoserve.engine.sampler import sample
from evoserve.engine.sequence import Chunk
from evoserve.model.cpu.records import Array

RESULT = ROOT / "benchmarks" / "results" / "profile_step.json"
CONTEXT, PREFILL_TOKENS = 140, 512
DECODES = (1, 8, 32)
NUM_STEPS, NUM_CALLS = 21, 9
QUICK_STEPS, QUICK_CALLS = 5, 3


class Profiler:
    """One form of the weights, loaded, and how often everything is measured."""

    def __init__(self, form: str, num_steps: int, num_calls: int) -> None:
        """Builds the model."""
        settings = make_settings(
            form, enable_prefix_caching=False, max_num_batched_tokens=PREFILL_TOKENS
        )
        self._models = ClockedModels(settings)
        self._bench = Bench(settings, self._models)
        self._runtime = self._bench.load(open_recipe(build_path(NUM_LAYERS)))
        self._num_steps, self._num_calls = num_steps, num_calls
        self.watch = Stopwatch(self._models.team.num_threads)

    def decode(self, num_sequences: int) -> Scenario:
        """Every sequence has a text of its own."""
        for number in range(num_sequences):
            self._bench.submit(self._runtime, write_tokens(f"decode {number}", CONTEXT))
        self._bench.prefill()
        self._bench.decode(2)
        clocks = [self._step() for _ in range(self._num_steps)]
        name = f"decode, {num_sequences} sequence{'s' * (num_sequences > 1)}"
        found = _scenario(name, num_sequences, clocks, self._parts())
        self._bench.clear()
        return found

    def prefill(self) -> Scenario:
        """A new text in every repetition."""
        clocks = []
        for number in range(self._num_calls):
            self._bench.submit(self._runtime, write_tokens(f"prefill {number}", PREFILL_TOKENS))
            clocks.append(self._step())
            self._bench.clear()
        self._bench.submit(self._runtime, write_tokens("prefill", PREFILL_TOKENS))
        name = f"prefill, {PREFILL_TOKENS} tokens"
        found = _scenario(name, PREFILL_TOKENS, clocks, self._parts())
        self._bench.clear()
        return found

    def close(self) -> None:
        """Free weights and threads."""
        self._bench.close()
        self._models.team.close()

    def _step(self) -> dict[str, float]:
        return clocked_step(self._runtime, self._models)[0]

    def _parts(self) -> list[Part]:
        """Of one more step, whose results are lost."""
        parts, scheduler = self._models.parts, self._runtime.scheduler
        if parts is None:
            raise RuntimeError("no model was built")
        chunks = scheduler.schedule()
        found: list[Part] = []

        def experiment(job: Array, steps: Array) -> None:
            load = load_of(chunks)
            found.extend(measure_parts(self.watch, parts, load, (job, steps), self._num_calls))

        self._models.team.experiment = experiment
        self._runtime.runner.forward(chunks)
        return found


def main() -> None:
    """Measure, print, write the JSON."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a server must not be left behind
    options = _parse()
    result = describe()
    num_steps, num_calls = (QUICK_STEPS, QUICK_CALLS) if options.quick else (NUM_STEPS, NUM_CALLS)
    for form in options.form or list(FORMS):
        profiler = Profiler(form, num_steps, num_calls)
        found: Form = {"limits": measure_limits(profiler.watch, is_int8=form == "int8")}
        found["scenarios"] = []
        for count in DECODES:
            print(f"{form}: {count} sequences", file=sys.stderr, flush=True)
            found["scenarios"].append(profiler.decode(count))
        found["scenarios"].append(profiler.prefill())
        profiler.close()
        try:
            found["http"] = asyncio.run(measure_http(form))
        except SubjectError as error:
            print(error, file=sys.stderr)
        result["forms"][form] = found
        print("\n".join(format_form(form, found)), flush=True)
    file = options.json or (None if options.quick else RESULT)
    if file is not None:
        write_json(file, result)


def format_form(form: str, found: Form) -> list[str]:
    """Markdown of one form of the weights."""
    lines = ["", format_limits(form, found["limits"])]
    for scenario in found["scenarios"]:
        lines += ["", *format_scenario(form, scenario, found["limits"])]
    http = found.get("http")
    return lines if http is None else [*lines, "", format_http(form, http)]


def clocked_step(
    runtime: RecipeRuntime, models: ClockedModels
) -> tuple[dict[str, float], tuple[Chunk, ...]]:
    """What `EngineCore.step` does, with the clock between; seconds by PYTHON, native and step."""
    clock = time.perf_counter
    begun = clock()
    chunks = runtime.scheduler.schedule()
    scheduled = clock()
    logits = runtime.runner.forward(chunks)
    computed = clock()
    samples = sample(chunks, logits)
    sampled = clock()
    runtime.scheduler.commit(chunks, samples)
    ended = clock()
    native = models.team.pass_s
    times = (scheduled - begun, computed - scheduled - native, sampled - computed, ended - sampled)
    clocks = dict(zip(PYTHON, times, strict=True))
    return {**clocks, "native": native, "step": ended - begun}, chunks


def load_of(chunks: tuple[Chunk, ...]) -> Load:
    """What the kernels have to do for these chunks, without sliding windows."""
    pairs = sum(c.num_tokens * c.stop - c.num_tokens * (c.num_tokens - 1) // 2 for c in chunks)
    return Load(
        num_tokens=sum(chunk.num_tokens for chunk in chunks),
        num_rows=sum(chunk.num_logits for chunk in chunks),
        num_read=sum(chunk.stop for chunk in chunks),
        num_pairs=pairs,
    )


def describe() -> Result:
    """A result without numbers: where and of what."""
    return {
        "benchmark": "profile_step",
        "model": "SmolLM2-135M",
        "machine": machine(),
        "commit": find_commit(),
        "forms": {},
    }


def _scenario(
    name: str, num_tokens: int, clocks: list[dict[str, float]], parts: list[Part]
) -> Scenario:
    return {
        "name": name,
        "num_tokens": num_tokens,
        "seconds": [each["step"] for each in clocks],
        "native": [each["native"] for each in clocks],
        "python": {key: [each[key] for each in clocks] for key in PYTHON},
        "parts": parts,
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few repetitions; no file")
    parser.add_argument("--form", action="append", choices=list(FORMS), help="default: both")
    parser.add_argument("--json", type=Path, help=f"default: {RESULT.relative_to(ROOT)}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
