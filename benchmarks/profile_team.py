"""A model whose native passes are clocked, and kernels timed on all threads of its team."""

import threading
import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from benchmarks.profile_kernels import new_cells, read_through, spent_s
from evoserve.config import Settings
from evoserve.engine.factory import ServableModel, num_threads
from evoserve.model.backend import Backend
from evoserve.model.build import build_model
from evoserve.model.cpu.native import load_kernels
from evoserve.model.cpu.path import CpuForward
from evoserve.model.cpu.records import Array
from evoserve.model.cpu.team import Team
from evoserve.model.parts import PathParts
from evoserve.model.placement import Placement
from evoserve.model.store import WeightStore
from evoserve.sources.recipe import Recipe

Experiment = Callable[[Array, Array], None]
Kernel = Callable[[Array, int], object]
"""Takes cells and the number of its thread."""
_EVICT_BYTES = 96 * 2**20


class ClockedTeam(Team):
    """Notes how long each pass took, and hands the next one's records to an experiment.

    The experiment runs while every address in them is good, after the pass itself.
    """

    def __init__(self, num_threads: int) -> None:
        """No experiment waits."""
        super().__init__(num_threads)
        self.pass_s = 0.0
        self.experiment: Experiment | None = None

    def run(self, job: Array, steps: Array) -> None:
        """Run the pass on the clock."""
        started_s = time.perf_counter()
        super().run(job, steps)
        self.pass_s = time.perf_counter() - started_s
        experiment, self.experiment = self.experiment, None
        if experiment is not None:
            job["kernels"] = load_kernels().record  # a pass fills in its own copy
            job["team"]["num_threads"] = self.num_threads
            experiment(job, steps)


class ClockedModels:
    """A `ModelFactory` of models that one clocked team runs; keeps the parts of the last one."""

    def __init__(self, settings: Settings) -> None:
        """For the CPU in float32, quantised as the settings say."""
        self.team = ClockedTeam(num_threads(settings))
        self.parts: PathParts | None = None
        placement = Placement("cpu", torch.float32, settings.quantization, is_packed=True)
        self._backend = Backend(placement, self._forward)
        self._store = WeightStore()

    @property
    def num_bytes(self) -> int:
        """Weights held now."""
        return self._store.num_bytes

    def build(self, recipe: Recipe) -> ServableModel:
        """As the server would build it."""
        threads = self.team.num_threads
        return build_model(recipe, self._store, self._backend, num_threads=threads)

    def _forward(self, parts: PathParts) -> CpuForward:
        self.parts = parts
        return CpuForward(parts, self.team)


class Stopwatch:
    """Times kernels that all threads run at once, with caches that hold none of their weights."""

    def __init__(self, num_threads: int) -> None:
        """Takes memory larger than the caches."""
        self.num_threads = num_threads
        self._other = np.ones(_EVICT_BYTES // 8, np.int64)

    def time(
        self, kernel: Kernel, *, num_phases: int = 0, repetitions: int, is_cold: bool
    ) -> list[float]:
        """Seconds of each repetition; is_cold: read other memory before, as a pass's rest would."""
        self._run(kernel, num_phases)  # compiles
        times = []
        for _ in range(repetitions):
            if is_cold:
                self._run(partial(read_through, self._other, self.num_threads), 0)
            times.append(self._run(kernel, num_phases))
        return times

    def _run(self, kernel: Kernel, num_phases: int) -> float:
        cells = new_cells(num_phases)
        helpers = [
            threading.Thread(target=kernel, args=(cells, n)) for n in range(1, self.num_threads)
        ]
        for helper in helpers:
            helper.start()
        kernel(cells, 0)
        for helper in helpers:
            helper.join()
        return spent_s(cells)
