"""The real mini zoo, opened for executors."""

from dataclasses import dataclass
from pathlib import Path

from evoserve.config import Settings
from evoserve.manifest.parts import SourceSpec
from evoserve.sources.catalogue import load_catalogue
from evoserve.sources.locate import SourceLocator
from search.executors.plan import WorkerPlan, build_plan
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
