"""What a recipe will hold in memory, from headers alone, in parts that recipes may share."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch

from evoserve.config import Settings
from evoserve.engine.factory import resolve_device, resolve_dtype
from evoserve.merge.expression import Expression, Leaf, RecipeTensors
from evoserve.model.build import end_tensors
from evoserve.model.placement import Placement, matrix_bytes
from evoserve.model.plan import PathPlan, plan_path
from evoserve.sources.architecture import layer_name, layer_shapes
from evoserve.sources.recipe import Recipe
from evoserve.sources.vocabulary import resolve_vocabulary


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
    placement = _placement(settings)
    plan = plan_path(recipe)
    tensors = RecipeTensors(recipe, resolve_vocabulary(recipe).rows)
    parts = {
        _key(made): Part(
            sum(_placed_bytes(each, placement) for each in made),
            sum(_num_elements(leaf) * _itemsize(leaf) for leaf in _leaves(made)),
        )
        for made in _made_together(recipe, plan, tensors)
    }
    token_bytes = 2 * len(plan.steps) * plan.embed.num_kv_heads * plan.embed.head_dim
    longest = min(settings.max_model_len or plan.max_model_len, plan.max_model_len)
    blocks = settings.max_num_seqs * -(-longest // settings.block_size)
    usable = blocks * settings.block_size * token_bytes * placement.dtype.itemsize
    return Footprint(parts, min(settings.kv_cache_bytes, usable), plan.max_model_len)


def union_bytes(held: Iterable[Footprint]) -> int:
    """Weights and KV caches of recipes together, shared parts counted once."""
    footprints = list(held)
    parts = {key: part for each in footprints for key, part in each.parts.items()}
    weights = sum(part.weight_bytes for part in parts.values())
    return weights + sum(each.kv_cache_bytes for each in footprints)


def _placement(settings: Settings) -> Placement:
    """As `evoserve.model.backend.choose_backend` has it, without making anything."""
    device = resolve_device(settings.device)
    dtype = resolve_dtype(settings.dtype, device)
    is_packed = device == "cpu" and dtype == torch.float32
    return Placement(device, dtype, settings.quantization, is_packed)


def _made_together(
    recipe: Recipe, plan: PathPlan, tensors: RecipeTensors
) -> Iterator[list[Expression]]:
    for model, name in end_tensors(recipe, plan):
        yield [tensors.expression(model, name)]
    for step in plan.steps:
        names = [layer_name(step.ref.layer, short) for short in layer_shapes(step.architecture)]
        yield [tensors.expression(step.ref.model, name) for name in names]


def _leaves(expressions: Iterable[Expression]) -> Iterator[Expression]:
    for expression in expressions:
        if isinstance(expression.node, Leaf):
            yield expression
        else:
            yield from _leaves(expression.node.inputs)


def _key(made: Iterable[Expression]) -> str:
    return hashlib.sha256(" ".join(each.key for each in made).encode()).hexdigest()


def _placed_bytes(expression: Expression, placement: Placement) -> int:
    """Without the padding that kernels may want."""
    if len(expression.shape) == 2:
        return matrix_bytes(*expression.shape, expression.node.dtype, placement)
    return _num_elements(expression) * placement.dtype.itemsize


def _num_elements(expression: Expression) -> int:
    return torch.Size(expression.shape).numel()


def _itemsize(leaf: Expression) -> int:
    return leaf.node.dtype.itemsize
