"""The real mini zoo, opened for executors."""

import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from executor_lab import assert_equal, crew_executor, sums

from evoserve.config import Settings
from evoserve.manifest.parts import SourceSpec
from evoserve.sources.catalogue import load_catalogue
from evoserve.sources.locate import SourceLocator
from search.evaluate import Evaluator
from search.executors.crew import Crew
from search.executors.plan import WorkerPlan, build_plan
from search.executors.protocol import Job
from search.genome.baselines import one_source
from search.genome.pool import Pool
from search.opened import OpenSources, open_sources

ROOT = Path(__file__).parents[4]
SETTINGS = Settings(threads=1, max_model_len=128, catalogue=ROOT / "models/catalogue.toml")


@dataclass(frozen=True)
class Zoo:
    """Three of the mini zoo's models."""

    sources: OpenSources
    pool: Pool

    @property
    def plan(self) -> WorkerPlan:
        """For workers over these sources, one candidate at a time."""
        return build_plan(self.sources, SETTINGS, ROOT, in_flight=1)


def open_zoo() -> Zoo:
    """base, ja and math."""
    locator = SourceLocator(load_catalogue(ROOT / "models/catalogue.toml"))
    names = ("base", "ja", "math")
    sources = open_sources({name: SourceSpec(model=f"mini/{name}") for name in names}, locator)
    return Zoo(sources, Pool("test", sources.specs, sources.num_layers))


class KillableCrew(Crew, Protocol):
    """One whose workers are processes of this machine."""

    @property
    def pids(self) -> list[int]: ...


def assert_a_kill_is_survived(start: Callable[[WorkerPlan], KillableCrew]) -> None:
    """start: two workers; the first is killed with a candidate in its hands."""
    zoo = open_zoo()
    manifests = [one_source(zoo.pool, name) for name in ("math", "base", "ja")]
    jobs = [Job(manifest, sums()) for manifest in manifests]
    crew = start(zoo.plan)
    with crew_executor(crew) as executor:
        pids = crew.pids
        os.kill(pids[0], signal.SIGSTOP)  # it takes a candidate and is not done when it is killed
        results = executor.evaluate(jobs)
        found = dict([next(results)])
        assert 0 not in found
        os.kill(pids[0], signal.SIGKILL)
        found.update(results)
        assert crew.pids[1] == pids[1]
        assert crew.pids[0] != pids[0]
    with Evaluator(zoo.sources, SETTINGS) as evaluator:
        for index, expected in evaluator.evaluate(jobs):
            assert_equal(found[index], expected)
