"""The executor that a config names."""

from collections.abc import Sequence
from pathlib import Path

from evoserve.config import Settings
from evoserve.engine.factory import num_threads
from evoserve.manifest.schema import Manifest
from search.evaluate import Evaluator
from search.executors.config import ExecutorConfig
from search.executors.crew import Crew
from search.executors.dispatch import CrewExecutor
from search.executors.plan import WorkerPlan, build_plan, with_threads
from search.executors.processes import ProcessCrew
from search.executors.protocol import Executor
from search.opened import OpenSources


def build_executor(
    config: ExecutorConfig,
    sources: OpenSources,
    settings: Settings,
    base: Path,
    resident: Sequence[Manifest] = (),
) -> Executor:
    """Ready to evaluate; the caller closes it. base: what relative paths of sources count from.

    Raises InputError subclasses, also for what a worker meets on its machine, and EngineError.
    """
    if config.workers is None:
        return Evaluator(sources, settings, resident, in_flight=config.in_flight)
    plan = build_plan(sources, settings, base, resident, in_flight=config.in_flight)
    crew = _build_crew(config, plan, config.workers)
    return CrewExecutor(crew, in_flight=config.in_flight)


def _build_crew(config: ExecutorConfig, plan: WorkerPlan, workers: int) -> Crew:
    if config.kind == "processes":
        return ProcessCrew(with_threads(plan, num_threads(plan.settings) // workers), workers)
    # Here, because most searches do without the library.
    from search.executors.ray import RayCrew, RayOptions

    num_cpus = 1.0 if config.num_cpus is None else config.num_cpus
    options = RayOptions(config.address, num_cpus, config.num_gpus or 0.0)
    return RayCrew(with_threads(plan, int(num_cpus)), workers, options)
