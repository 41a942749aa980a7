"""Optimizers by name: the one table that configuration chooses from."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from search.genome.encoded import EncodedGenome
from search.genome.lineage import LineageCodec
from search.optimizers.cma import Cma, CmaSettings
from search.optimizers.m2n2 import M2n2, M2n2Settings
from search.optimizers.mixed import Mixed, MixedSettings
from search.optimizers.nsga2 import Nsga2, Nsga2Settings
from search.optimizers.protocol import Optimizer
from search.optimizers.random_search import RandomSearch, RandomSettings


@dataclass(frozen=True)
class OptimizerKind:
    """How to build an optimizer, from the genome, a seed and its settings.

    max_objectives: None if it takes any number.
    """

    settings: type[Any]
    build: Callable[[EncodedGenome, int, Any], Optimizer]
    max_objectives: int | None = 1


def _build_m2n2(genome: EncodedGenome, seed: int, settings: M2n2Settings) -> Optimizer:
    if not isinstance(genome.codec, LineageCodec):
        raise ValueError("m2n2 evolves lineages: build the genome with build_lineage_genome")
    return M2n2(genome, len(genome.codec.models), seed, settings)


OPTIMIZERS: Mapping[str, OptimizerKind] = {
    "cma": OptimizerKind(CmaSettings, Cma),
    "mixed": OptimizerKind(MixedSettings, Mixed),
    "nsga2": OptimizerKind(Nsga2Settings, Nsga2, None),
    "m2n2": OptimizerKind(M2n2Settings, _build_m2n2),
    "random": OptimizerKind(RandomSettings, RandomSearch, None),
}


def build_optimizer(
    name: str, genome: EncodedGenome, seed: int, settings: Mapping[str, object] | None = None
) -> Optimizer:
    """The optimizer `name` with `settings` over its defaults. Raises ValueError."""
    kind = OPTIMIZERS.get(name)
    if kind is None:
        raise ValueError(f"optimizer '{name}': use one of {', '.join(OPTIMIZERS)}")
    if isinstance(genome.codec, LineageCodec) and name != "m2n2":
        raise ValueError(f"optimizer '{name}' cannot breed lineages; use m2n2")
    try:
        chosen = kind.settings(**(settings or {}))
    except TypeError:
        fields = ", ".join(kind.settings.__dataclass_fields__)
        given = ", ".join(settings or {})
        raise ValueError(f"optimizer '{name}' takes {fields}; got {given}") from None
    return kind.build(genome, seed, chosen)
