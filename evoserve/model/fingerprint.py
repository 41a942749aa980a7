"""A digest of what a recipe builds to, to tell whether two machines serve the same model."""

import hashlib

import numpy as np
import torch

from evoserve.merge.build import evaluate_all
from evoserve.merge.expression import Expression, RecipeTensors
from evoserve.model.build import end_tensors
from evoserve.model.plan import plan_path
from evoserve.sources.architecture import layer_name, layer_shapes
from evoserve.sources.recipe import Recipe
from evoserve.sources.vocabulary import resolve_vocabulary


def weights_digest(recipe: Recipe, num_threads: int) -> str:
    """`sha256:` over every tensor of the path, float32 little-endian, and the hops' scales.

    Embedding, final norm and head come first, then each distinct layer in order of its first
    visit, its tensors in the order of `layer_shapes`; each is preceded by `model/name` and a zero
    byte. One layer is held in memory at a time.
    """
    plan = plan_path(recipe)
    tensors = RecipeTensors(recipe, resolve_vocabulary(recipe).rows)
    total = hashlib.sha256()
    for model, name in end_tensors(recipe, plan):
        _update(total, {f"{model}/{name}": tensors.expression(model, name)}, num_threads)
    for step in {step.ref: step for step in plan.steps}.values():
        model, layer = step.ref.model, step.ref.layer
        names = [layer_name(layer, short) for short in layer_shapes(step.architecture)]
        expressions = {f"{model}/{name}": tensors.expression(model, name) for name in names}
        _update(total, expressions, num_threads)
    scales = np.array([step.scale for step in plan.steps], dtype="<f4")
    total.update(f"{plan.target}\0".encode() + scales.tobytes())
    return "sha256:" + total.hexdigest()


def _update(total: "hashlib._Hash", expressions: dict[str, Expression], num_threads: int) -> None:
    built = {label: torch.empty(each.shape) for label, each in expressions.items()}
    jobs = [(expressions[label], out) for label, out in built.items()]
    evaluate_all(jobs, num_threads)
    for label, out in built.items():
        total.update(f"{label}\0".encode())
        total.update(out.numpy().astype("<f4", copy=False).data)
