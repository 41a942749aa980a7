"""The profile of a real step: its clock, and the work that it counts, rightly counted."""

import ctypes
import os
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.profile_http import cpu_times
from benchmarks.profile_kernels import HEAD, multiply_layers
from benchmarks.profile_parts import (
    PRODUCTS,
    Load,
    attention_costs,
    measure_limits,
    measure_parts,
    product_costs,
)
from benchmarks.profile_result import PYTHON, Part
from benchmarks.profile_step import clocked_step, load_of
from benchmarks.profile_team import ClockedModels, Stopwatch
from benchmarks.provenance import ROOT
from benchmarks.scale_engine import FORMS, Bench, make_settings, write_tokens
from evoserve.manifest.load import build_manifest
from evoserve.sources.checkpoint import open_checkpoint
from evoserve.sources.recipe import Recipe

MINI = ROOT / "models" / "mini" / "base"
LAYERS, HIDDEN, HEADS, DIM, VOCAB, WIDTH = 6, 128, 4, 32, 1024, 256


class Lab:
    """The mini model on two threads, two sequences in decode."""

    def __init__(self, form: str) -> None:
        settings = make_settings(form, threads=2, kv_cache_bytes=2**22)
        self.models = ClockedModels(settings)
        self.bench = Bench(settings, self.models)
        source = {"a": {"model": str(MINI)}}
        manifest = build_manifest({"format": "evoserve/1", "name": "m", "sources": source})
        self.runtime = self.bench.load(Recipe(manifest, {"a": open_checkpoint(MINI)}))
        for seed in "ab":
            tokens = [token % VOCAB for token in write_tokens(seed, 20)]
            self.bench.submit(self.runtime, tokens)
        self.bench.prefill()


@pytest.fixture(params=list(FORMS))
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    made = Lab(request.param)
    yield made
    made.bench.close()
    made.models.team.close()


def test_a_step_on_the_clock_is_a_step(lab: Lab) -> None:
    kv_bytes = lab.bench.kv_bytes
    times, chunks = clocked_step(lab.runtime, lab.models)
    assert len(chunks) == 2
    assert all(chunk.num_tokens == 1 for chunk in chunks)
    assert min(times.values()) >= 0
    assert sum(times[name] for name in (*PYTHON, "native")) == pytest.approx(times["step"])
    assert lab.bench.kv_bytes >= kv_bytes > 0


def in_a_pass(lab: Lab, experiment: Callable[[Any, Any, Load], None]) -> None:
    """Run `experiment(job, steps, load)` after one more pass, on its records."""
    chunks = lab.runtime.scheduler.schedule()
    lab.models.team.experiment = lambda job, steps: experiment(job, steps, load_of(chunks))
    lab.runtime.runner.forward(chunks)


def test_the_head_alone_repeats_the_logits_of_the_pass(lab: Lab) -> None:
    def experiment(job: Any, steps: Any, load: Load) -> None:
        cells = (ctypes.c_float * (load.num_rows * VOCAB)).from_address(
            int(job["scratch"]["logits"][0])
        )
        logits = np.frombuffer(cells, np.float32)
        expected = logits.copy()
        logits[:] = 0
        product = partial(multiply_layers, job, steps, HEAD, 2)
        Stopwatch(2).time(product, num_phases=1, repetitions=1, is_cold=False)
        assert expected.any()
        assert np.array_equal(logits, expected)

    in_a_pass(lab, experiment)


def test_every_part_is_measured_and_beside_its_limit(lab: Lab) -> None:
    watch, parts = Stopwatch(2), lab.models.parts
    assert parts is not None
    limits = measure_limits(watch, is_int8=False)
    assert all(min(rates) > 0 for rates in limits.values())
    measured: list[Part] = []

    def experiment(job: Any, steps: Any, load: Load) -> None:
        measured.extend(measure_parts(watch, parts, load, (job, steps), 2))

    in_a_pass(lab, experiment)
    names = [part["name"] for part in measured]
    assert names == [*PRODUCTS, "attention", "rows", "handing out rows"]
    assert all(len(part["seconds"]) == 2 and min(part["seconds"]) > 0 for part in measured)


def test_operations_and_bytes_are_those_of_the_shapes(lab: Lab) -> None:
    parts, load = lab.models.parts, Load(num_tokens=8, num_rows=1, num_read=100, num_pairs=300)
    assert parts is not None
    weights = {"out": HIDDEN * HIDDEN, "gate and up": 2 * HIDDEN * WIDTH, "down": HIDDEN * WIDTH}
    for name, count in weights.items():
        num_bytes, operations = product_costs(parts, name, load)
        assert operations == 2 * count * (8 * (LAYERS - 1) + 1)
        assert num_bytes >= count * LAYERS
    assert product_costs(parts, "head", load)[1] == 2 * HIDDEN * VOCAB
    assert product_costs(parts, "qkv", load)[1] == 2 * HIDDEN * 2 * HIDDEN * 8 * LAYERS
    kv, operations = attention_costs(parts, load)
    assert (kv, operations) == (LAYERS * 100 * 2 * 4 * 2 * DIM, LAYERS * 300 * 4 * HEADS * DIM)


def test_a_prefill_attends_to_half_a_square(lab: Lab) -> None:
    chunks = lab.runtime.scheduler.schedule()
    load = load_of(chunks)
    assert load.num_tokens == load.num_rows == 2
    assert load.num_pairs == load.num_read == sum(chunk.stop for chunk in chunks)
    lab.runtime.scheduler.abort_all()
    lab.bench.clear()
    lab.bench.submit(lab.runtime, list(range(10, 20)))
    chunks = lab.runtime.scheduler.schedule()
    assert load_of(chunks) == Load(num_tokens=10, num_rows=1, num_read=10, num_pairs=55)
    lab.bench.clear()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="threads are found in /proc")
def test_cpu_times_are_of_a_process_s_threads() -> None:
    times = cpu_times(os.getpid())
    assert times is not None
    assert times[0] > 0
    assert cpu_times(1 << 30) is None
