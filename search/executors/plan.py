"""What a worker needs to begin: sources by digest, where to look for them, and settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evoserve.config import Settings
from evoserve.manifest.parts import SourceSpec
from evoserve.manifest.schema import Manifest
from evoserve.sources.locate import DEFAULT_CATALOGUE, build_locator
from evoserve.sources.resolve import resolve_recipe
from search.evaluate import Evaluator
from search.opened import OpenSources


@dataclass(frozen=True)
class WorkerPlan:
    """Plain picklable data. sources: with digests; base: what their relative paths count from.

    in_flight: candidates in a worker's memory at once.
    """

    sources: Mapping[str, SourceSpec]
    base: Path
    settings: Settings
    resident: Sequence[Manifest] = ()
    in_flight: int = 2

    def build(self) -> Evaluator:
        """An evaluator over sources that are opened and verified here. Raises InputError."""
        locator = build_locator(self.settings, self.base)
        checkpoints = {
            name: resolve_recipe(_alone(name, spec), locator).checkpoints[name]
            for name, spec in self.sources.items()
        }
        sources = OpenSources(self.sources, checkpoints)
        return Evaluator(sources, self.settings, self.resident, in_flight=self.in_flight)


def build_plan(
    sources: OpenSources,
    settings: Settings,
    base: Path,
    resident: Sequence[Manifest] = (),
    *,
    in_flight: int = 2,
) -> WorkerPlan:
    """The plan over opened sources; paths are made absolute, workers may run in other folders."""
    catalogue = settings.catalogue
    if catalogue is None and DEFAULT_CATALOGUE.is_file():
        catalogue = DEFAULT_CATALOGUE
    if catalogue is not None:
        settings = settings.model_copy(update={"catalogue": catalogue.absolute()})
    specs = dict(sources.specs)
    return WorkerPlan(specs, base.absolute(), settings, tuple(resident), in_flight)


def with_threads(plan: WorkerPlan, num_threads: int) -> WorkerPlan:
    """The plan with this many threads per worker, unless the settings say how many."""
    if plan.settings.threads:
        return plan
    changes = {"threads": max(1, num_threads)}
    return replace(plan, settings=plan.settings.model_copy(update=changes))


def _alone(name: str, spec: SourceSpec) -> Manifest:
    return Manifest(format="evoserve/1", name="source", sources={name: spec})
