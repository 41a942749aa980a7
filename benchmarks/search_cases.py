"""The two searches of `benchmarks.search`, as configs of ours and as jobs of the peer's."""

from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path

from evoserve.manifest.parts import PerGroup
from evoserve.manifest.schema import Manifest
from search.config import SearchConfig

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "models" / "searches"
MERGE = "ps"


@dataclass(frozen=True)
class Way:
    """One way to run the peer; kind: `memory` or `disk`."""

    kind: str
    dtype: str
    batch_size: int
    threads: int

    def describe(self) -> str:
        """Such as `memory, float32, batch 100, 1 thread(s)`."""
        return f"{self.kind}, {self.dtype}, batch {self.batch_size}, {self.threads} thread(s)"


Ways = tuple[Way, ...]


@dataclass(frozen=True)
class Case:
    """What both sides do: DARE-TIES over `base`, greedy replies to the mini zoo's English items.

    folders: source to folder below models/, the base first; threads: of our engine.
    ours, theirs: candidates per round of ours and of the peer's, the first ones of a generation;
    ways: those of the peer that are tried, the fastest takes part.
    """

    name: str
    folders: dict[str, str]
    num_items: int
    max_new_tokens: int
    threads: int
    ours: int
    theirs: int
    ways: Ways

    @property
    def base(self) -> str:
        """The source that the others were tuned from."""
        return next(iter(self.folders))

    @property
    def models(self) -> tuple[str, ...]:
        """The sources that are merged, in order."""
        return tuple(self.folders)[1:]

    def config(self, count: int) -> SearchConfig:
        """A search of one random generation of `count` candidates, the same on every run."""
        return SearchConfig.model_validate(
            {
                "name": f"bench-{self.name}",
                "evaluations": count,
                "sources": {name: f"../{folder}" for name, folder in self.folders.items()},
                "genome": {
                    "kind": "ps",
                    "ps": {
                        "method": "dare_ties",
                        "base": self.base,
                        "models": self.models,
                        "options": {"rescale": "l1"},
                    },
                },
                "optimizer": {"name": "random", "settings": {"population": count}},
                "objectives": ({"task": "items"},),
                "tasks": (
                    {
                        "name": "items",
                        "builtin": "mini",
                        "split": "search",
                        "language": "en",
                        "count": self.num_items,
                        "max_new_tokens": self.max_new_tokens,
                    },
                ),
                "engine": {"threads": self.threads},
            }
        )

    def quick(self) -> "Case":
        """The same with few candidates, items and tokens."""
        return replace(self, ours=2, num_items=4, max_new_tokens=8)

    def job(self, way: Way, items: Path, work: Path) -> dict[str, object]:
        """What `benchmarks/peers/mergekit_evolve.py` reads."""
        places = {name: str(ROOT / "models" / path) for name, path in self.folders.items()}
        return {
            "base": places[self.base],
            "models": [places[name] for name in self.models],
            "items": str(items),
            "max_new_tokens": self.max_new_tokens,
            "work": str(work),
            **asdict(way),
        }

    def genotype(self, manifest: Manifest) -> list[float]:
        """The recipe's coefficients in the peer's order: weight and density of each model."""
        merge = manifest.merges[MERGE]
        return [
            _number(table[name])
            for name in self.models
            for table in (merge.weights, merge.densities)
        ]


def _number(value: PerGroup) -> float:
    return float(value if isinstance(value, int | float) else value[0])


def without_chance(manifest: Manifest) -> Manifest:
    """The same merge with every density 1: no random mask, so both sides make the same model."""
    merge = manifest.merges[MERGE]
    whole = merge.model_copy(update={"densities": dict.fromkeys(merge.densities, 1.0)})
    return manifest.model_copy(update={"merges": {MERGE: whole}})


def _ways(kinds: str, dtypes: str, batches: tuple[int, ...], threads: tuple[int, ...]) -> Ways:
    choices = product(kinds.split(), dtypes.split(), batches, threads)
    return tuple(Way(*choice) for choice in choices)


CASES = (
    Case(
        "mini",
        {name: f"mini/{name}" for name in ("base", "ja", "math", "math2")},
        num_items=100,
        max_new_tokens=96,
        threads=1,
        ours=24,
        theirs=4,
        ways=(
            *_ways("memory disk", "float32", (100,), (1, 2)),
            *_ways("memory disk", "bfloat16", (100,), (1,)),
        ),
    ),
    Case(
        "SmolLM2-135M",
        {
            "base": "demo/smollm2-135m-instruct",
            "a": "demo/smollm2-perturbed-a",
            "b": "demo/smollm2-perturbed-b",
        },
        num_items=50,
        max_new_tokens=32,
        threads=2,
        ours=4,
        theirs=2,
        ways=_ways("memory disk", "float32", (50,), (2,)),
    ),
)
