"""What a recipe will need, from headers alone: memory, bytes to read, time to build."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch

from evoserve.merge.expression import Expression, Leaf, RecipeTensors
from evoserve.model.build import end_tensors
from evoserve.model.cpu.records import kv_head_bytes
from evoserve.model.cpu.simd import PANEL
from evoserve.model.placement import Placement, matrix_bytes
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


def estimate(recipe: Recipe, placement: Placement, *, num_threads: int) -> Estimate:
    """Predict for weights placed so; num_threads 0 counts as all of torch's.

    Reads headers and tokenizers only. Raises what building would: InputError subclasses.
    """
    plan = plan_path(recipe)
    made = [each for part in made_together(recipe, plan) for each in part]
    used = {each.key: each for each in made}
    read = read_bytes(used.values())
    threads = num_threads or torch.get_num_threads()
    return Estimate(
        num_steps=len(plan.steps),
        num_layers=len({step.ref for step in plan.steps}),
        weight_bytes=placed_bytes(used.values(), placement),
        kv_bytes_per_token=kv_bytes_per_block(plan, placement, PANEL) // PANEL,
        read_bytes=read,
        build_s=read / (BYTES_PER_THREAD_SECOND * threads),
    )


def made_together(recipe: Recipe, plan: PathPlan) -> Iterator[list[Expression]]:
    """What is built and shared as one: embedding, final norm, head, then the layer of each step."""
    tensors = RecipeTensors(recipe, resolve_vocabulary(recipe).rows)
    for model, name in end_tensors(recipe, plan):
        yield [tensors.expression(model, name)]
    for step in plan.steps:
        names = [layer_name(step.ref.layer, short) for short in layer_shapes(step.architecture)]
        yield [tensors.expression(step.ref.model, name) for name in names]


def placed_bytes(expressions: Iterable[Expression], placement: Placement) -> int:
    """Of the weights, without the padding that kernels may want."""
    return sum(_placed_bytes(each, placement) for each in expressions)


def read_bytes(expressions: Iterable[Expression]) -> int:
    """Of the sources, each tensor once."""
    leaves = {leaf.key: leaf for leaf in _leaves(expressions)}
    return sum(_num_elements(leaf) * leaf.node.dtype.itemsize for leaf in leaves.values())


def kv_bytes_per_block(plan: PathPlan, placement: Placement, block_size: int) -> int:
    """As `PathModel.kv_bytes_per_block` of the model once it is built."""
    num_heads, head_dim = plan.embed.num_kv_heads, plan.embed.head_dim
    if placement.is_packed:
        return len(plan.steps) * num_heads * kv_head_bytes(head_dim, block_size)
    return len(plan.steps) * num_heads * 2 * head_dim * block_size * placement.dtype.itemsize


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
