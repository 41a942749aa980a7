"""What a recipe will hold in memory, from headers alone, in parts that recipes may share."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from evoserve.config import Settings
from evoserve.engine.factory import resolve_placement
from evoserve.merge.expression import Expression
from evoserve.model.estimate import kv_bytes_per_block, made_together, placed_bytes, read_bytes
from evoserve.model.plan import plan_path
from evoserve.sources.recipe import Recipe


@dataclass(frozen=True)
class Part:
    """A layer or tensor: the bytes it takes, up to padding, and those read to make it."""

    weight_bytes: int
    read_bytes: int


@dataclass(frozen=True)
class Footprint:
    """A recipe's parts by what they are made of (equal keys are held once), and its KV cache.

    kv_cache_bytes: an upper limit; max_model_len: what the weights were made for.
    """

    parts: Mapping[str, Part]
    kv_cache_bytes: int
    max_model_len: int

    @property
    def weight_bytes(self) -> int:
        """Of this recipe by itself."""
        return sum(part.weight_bytes for part in self.parts.values())

    def new_parts(self, held: Iterable["Footprint"]) -> list[Part]:
        """The parts that none of the recipes in `held` has."""
        known = {key for each in held for key in each.parts}
        return [part for key, part in self.parts.items() if key not in known]


def predict(recipe: Recipe, settings: Settings) -> Footprint:
    """The footprint under `settings`. Raises what building would: InputError subclasses."""
    placement = resolve_placement(settings)
    plan = plan_path(recipe)
    parts = {
        _key(made): Part(placed_bytes(made, placement), read_bytes(made))
        for made in made_together(recipe, plan)
    }
    longest = min(settings.max_model_len or plan.max_model_len, plan.max_model_len)
    blocks = settings.max_num_seqs * -(-longest // settings.block_size)
    usable = blocks * kv_bytes_per_block(plan, placement, settings.block_size)
    return Footprint(parts, min(settings.kv_cache_bytes, usable), plan.max_model_len)


def union_bytes(held: Iterable[Footprint]) -> int:
    """Weights and KV caches of recipes together, shared parts counted once."""
    footprints = list(held)
    parts = {key: part for each in footprints for key, part in each.parts.items()}
    weights = sum(part.weight_bytes for part in parts.values())
    return weights + sum(each.kv_cache_bytes for each in footprints)


def _key(made: Iterable[Expression]) -> str:
    return hashlib.sha256(" ".join(each.key for each in made).encode()).hexdigest()
