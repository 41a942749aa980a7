"""What a recipe will need, from headers alone: memory, bytes to read, time to build."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from evoserve.merge.expression import Expression, Leaf, RecipeTensors
from evoserve.model.build import end_tensors
from evoserve.model.placement import Placement, Quantization, matrix_bytes
from evoserve.model.plan import PathPlan, plan_path
from evoserve.sources.architecture import layer_name, layer_shapes
from evoserve.sources.recipe import Recipe
from evoserve.sources.vocabulary import resolve_vocabulary

# Source bytes that one thread reads and merges in a second, with the files in the page cache:
# benchmarks/results/merge.json, "ours, model": 807 MB in 0.41 s on two threads.
BYTES_PER_THREAD_SECOND = 1.0e9


@dataclass(frozen=True)
class Estimate:
    """Predictions for one recipe by itself; weights that are shared in it count once."""

    num_steps: int
    num_layers: int
    weight_bytes: int
    kv_bytes_per_token: int
    read_bytes: int
    build_s: float


def estimate(
    recipe: Recipe,
    *,
    dtype: torch.dtype,
    num_threads: int,
    quantization: Quantization | None = None,
    is_packed: bool = False,
) -> Estimate:
    """Predict for activations and KV cache in `dtype`; num_threads 0 counts as all of torch's.

    quantization, is_packed: how matrices are stored, see `Placement`.
    Reads headers and tokenizers only. Raises what building would: InputError subclasses.
    """
    placement = Placement("cpu", dtype, quantization, is_packed)
    plan = plan_path(recipe)
    vocabulary = resolve_vocabulary(recipe)
    tensors = RecipeTensors(recipe, vocabulary.rows)
    used = {each.key: each for each in _expressions(recipe, plan, tensors)}
    leaves = {leaf.key: leaf for leaf in _leaves(used.values())}
    read_bytes = sum(_num_elements(leaf) * _dtype(leaf).itemsize for leaf in leaves.values())
    heads = plan.embed.num_kv_heads * plan.embed.head_dim
    threads = num_threads or torch.get_num_threads()
    return Estimate(
        num_steps=len(plan.steps),
        num_layers=len({step.ref for step in plan.steps}),
        weight_bytes=sum(_placed_bytes(each, placement) for each in used.values()),
        kv_bytes_per_token=2 * len(plan.steps) * heads * placement.dtype.itemsize,
        read_bytes=read_bytes,
        build_s=read_bytes / (BYTES_PER_THREAD_SECOND * threads),
    )


def _expressions(recipe: Recipe, plan: PathPlan, tensors: RecipeTensors) -> Iterator[Expression]:
    for model, name in end_tensors(recipe, plan):
        yield tensors.expression(model, name)
    for step in plan.steps:
        for short in layer_shapes(step.architecture):
            yield tensors.expression(step.ref.model, layer_name(step.ref.layer, short))


def _leaves(expressions: Iterable[Expression]) -> Iterator[Expression]:
    for expression in expressions:
        if isinstance(expression.node, Leaf):
            yield expression
        else:
            yield from _leaves(expression.node.inputs)


def _placed_bytes(expression: Expression, placement: Placement) -> int:
    if len(expression.shape) == 2:
        return matrix_bytes(*expression.shape, expression.node.dtype, placement)
    return _num_elements(expression) * placement.dtype.itemsize


def _num_elements(expression: Expression) -> int:
    return torch.Size(expression.shape).numel()


def _dtype(leaf: Expression) -> torch.dtype:
    return leaf.node.dtype
