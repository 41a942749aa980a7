"""The tensors of a stock checkpoint: expressions of the recipe times what the fold prescribes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from evoserve.errors import ManifestError
from evoserve.merge.expression import Expression, RecipeTensors
from evoserve.model.blueprint import Job, evaluate_jobs
from evoserve.model.build import end_tensors
from evoserve.model.fold import Fold
from evoserve.model.plan import PathPlan
from evoserve.model.shards import TensorSlot
from evoserve.sources.architecture import EMBED, FINAL_NORM, LM_HEAD, layer_name, layer_shapes
from evoserve.sources.recipe import Recipe

_CHUNK_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class StockTensor:
    """One tensor to write: `expression`, of what `label` names, times `factor`."""

    slot: TensorSlot
    label: str
    expression: Expression
    factor: float


def stock_tensors(
    recipe: Recipe, plan: PathPlan, fold: Fold, tensors: RecipeTensors
) -> list[StockTensor]:
    """Every tensor of the stock checkpoint in order; a head equal to the embedding is left out."""

    def make(name: str, source: tuple[str, str], factor: float) -> StockTensor:
        expression = tensors.expression(*source)
        label = f"tensor '{source[1]}' of model '{source[0]}'"
        return StockTensor(TensorSlot(name, tuple(expression.shape)), label, expression, factor)

    embed_source, norm_source, head_source = end_tensors(recipe, plan)
    embed = make(EMBED, embed_source, fold.embed)
    head = make(LM_HEAD, head_source, 1.0)
    layers = [
        make(
            layer_name(index, short),
            (step.ref.model, layer_name(step.ref.layer, short)),
            layer.factor(short),
        )
        for index, (step, layer) in enumerate(zip(plan.steps, fold.layers, strict=True))
        for short in layer_shapes(step.architecture)
    ]
    found = [embed, *layers, make(FINAL_NORM, norm_source, fold.final_norm)]
    is_tied = embed.expression.key == head.expression.key and fold.embed == 1.0
    return found if is_tied else [*found, head]


def produce_tensors(
    tensors: Mapping[str, StockTensor],
    slots: Sequence[TensorSlot],
    dtype: torch.dtype,
    num_threads: int,
) -> Iterator[torch.Tensor]:
    """The tensors of `slots` in `dtype`, a few hundred megabytes at a time.

    Raises SourceError for a tensor that is not finite, ManifestError for one that only the scale
    makes so.
    """
    for chunk in _chunks([tensors[slot.name] for slot in slots]):
        jobs = [
            Job(
                tensor.label,
                tensor.expression,
                torch.empty(
                    tensor.slot.shape, dtype=dtype if tensor.factor == 1.0 else torch.float32
                ),
            )
            for tensor in chunk
        ]
        evaluate_jobs(jobs, num_threads)
        for tensor, job in zip(chunk, jobs, strict=True):
            yield job.out if tensor.factor == 1.0 else _scale(tensor, job.out, dtype)


def _scale(tensor: StockTensor, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    scaled = value.mul_(tensor.factor).to(dtype)
    if not torch.isfinite(scaled).all():
        raise ManifestError(
            f"folding the scale {tensor.factor:.6g} into {tensor.label} overflows {dtype}; "
            "export as float32",
            where="scaling",
        )
    return scaled


def _chunks(tensors: Sequence[StockTensor]) -> Iterator[list[StockTensor]]:
    chunk: list[StockTensor] = []
    filled = 0
    for tensor in tensors:
        size = tensor.slot.num_bytes(torch.float32)
        if chunk and filled + size > _CHUNK_BYTES:
            yield chunk
            chunk, filled = [], 0
        chunk.append(tensor)
        filled += size
    if chunk:
        yield chunk
