"""From a recipe to a model that runs: what the store lacks is built, a few tensors at a time."""

from collections.abc import Sequence

import torch

from evoserve.merge.expression import RecipeTensors
from evoserve.model.backend import Backend
from evoserve.model.blueprint import (
    Blueprint,
    layer_blueprint,
    table_blueprint,
    vector_blueprint,
)
from evoserve.model.layer import LayerWeights
from evoserve.model.linear import Table
from evoserve.model.parts import ModelEnds, PathParts, PathStep
from evoserve.model.path_model import PathModel
from evoserve.model.placement import Placement
from evoserve.model.plan import PathPlan, plan_path
from evoserve.model.produce import produce_weights
from evoserve.model.store import Lease, Weight, WeightStore
from evoserve.sources.architecture import EMBED, FINAL_NORM, LM_HEAD
from evoserve.sources.recipe import Recipe
from evoserve.sources.vocabulary import resolve_vocabulary


def build_model(
    recipe: Recipe, store: WeightStore, backend: Backend, *, num_threads: int
) -> PathModel:
    """Build `recipe`, sharing with `store` every layer and tensor that is already there.

    num_threads: for merging. Host memory beyond the weights is bounded by a few tensors, see
    `produce_weights`. Raises InputError subclasses (a source that is unreadable or not finite,
    models that do not fit together, an unsupported feature) and then leaves the store as it was.
    """
    plan = plan_path(recipe)
    ends, layers = _blueprints(recipe, plan, backend.placement)
    blueprints = {blueprint.key: blueprint for blueprint in (*ends, *layers)}

    def build(missing: Sequence[str]) -> dict[str, Weight]:
        return produce_weights([blueprints[key] for key in missing], num_threads)

    lease = store.acquire(blueprints, build)
    try:
        parts = _assemble(plan, lease, ends, layers, backend.placement.device)
        return PathModel(parts, backend.make_forward(parts), lease)
    except BaseException:
        lease.release()
        raise


def release(model: PathModel) -> None:
    """Give the model's weights back to its store; those that nobody else uses are freed."""
    model.lease.release()


def end_tensors(recipe: Recipe, plan: PathPlan) -> tuple[tuple[str, str], ...]:
    """(model, tensor name) of embedding, final norm and head; a tied head is its embedding."""
    embed, head = recipe.manifest.embed_model, recipe.manifest.head_model
    head_name = EMBED if plan.head.tie_word_embeddings else LM_HEAD
    return (embed, EMBED), (head, FINAL_NORM), (head, head_name)


def _blueprints(
    recipe: Recipe, plan: PathPlan, placement: Placement
) -> tuple[list[Blueprint], list[Blueprint]]:
    tensors = RecipeTensors(recipe, resolve_vocabulary(recipe).rows)
    embed, norm, head = end_tensors(recipe, plan)
    ends = [
        table_blueprint(tensors, *embed, placement),
        vector_blueprint(tensors, *norm, placement),
        table_blueprint(tensors, *head, placement),
    ]
    distinct = {step.ref: step.architecture for step in plan.steps}
    layers = {ref: layer_blueprint(tensors, ref, arch, placement) for ref, arch in distinct.items()}
    return ends, [layers[step.ref] for step in plan.steps]


def _assemble(
    plan: PathPlan,
    lease: Lease,
    ends: Sequence[Blueprint],
    layers: Sequence[Blueprint],
    device: str,
) -> PathParts:
    embed, norm, head = (lease.get(blueprint.key) for blueprint in ends)
    steps = [
        PathStep(
            _layer(lease.get(blueprint.key)),
            step.scale,
            step.architecture.rms_norm_eps,
            step.rope,
            step.window,
        )
        for step, blueprint in zip(plan.steps, layers, strict=True)
    ]
    return PathParts(
        plan.embed,
        tuple(steps),
        ModelEnds(_table(embed).embed, _tensor(norm), plan.head.rms_norm_eps, _table(head).head),
        tuple(rope.to(device) for rope in plan.ropes),
        plan.target,
        plan.max_model_len,
    )


def _table(weight: Weight) -> Table:
    if not isinstance(weight, Table):
        raise TypeError("no table is stored under a table's key")
    return weight


def _tensor(weight: Weight) -> torch.Tensor:
    if not isinstance(weight, torch.Tensor):
        raise TypeError("no tensor is stored under a tensor's key")
    return weight


def _layer(weight: Weight) -> LayerWeights:
    if not isinstance(weight, LayerWeights):
        raise TypeError("no layer is stored under a layer's key")
    return weight
