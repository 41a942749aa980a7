"""From a recipe to a model that runs: evaluate what the store lacks straight into its buffers."""

from collections.abc import Mapping, Sequence

import torch

from evoserve.merge.expression import RecipeTensors
from evoserve.model.attention import TorchAttention
from evoserve.model.blueprint import (
    Blueprint,
    Placement,
    evaluate_jobs,
    layer_blueprint,
    tensor_blueprint,
)
from evoserve.model.layer import LayerWeights
from evoserve.model.path_model import ModelEnds, PathModel, PathParts, PathStep
from evoserve.model.plan import PathPlan, plan_path
from evoserve.model.store import Lease, Weight, WeightStore
from evoserve.sources.architecture import EMBED, FINAL_NORM, LM_HEAD
from evoserve.sources.recipe import Recipe
from evoserve.sources.vocabulary import resolve_vocabulary


def build_model(
    recipe: Recipe, store: WeightStore, *, device: str, dtype: torch.dtype, num_threads: int
) -> PathModel:
    """Build `recipe`, sharing with `store` every layer and tensor that is already there.

    Raises InputError subclasses (a source that is unreadable or not finite, models that do not
    fit together, an unsupported feature) and then leaves the store as it was.
    """
    plan = plan_path(recipe)
    placement = Placement(device, dtype)
    ends, layers = _blueprints(recipe, plan, placement)
    blueprints = {blueprint.key: blueprint for blueprint in (*ends, *layers)}

    def build(missing: Sequence[str]) -> Mapping[str, Weight]:
        return _make([blueprints[key] for key in missing], placement, num_threads)

    lease = store.acquire(blueprints, build)
    try:
        parts = _assemble(plan, lease, ends, layers, device)
        return PathModel(parts, TorchAttention(), lease)
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
    ends = [
        tensor_blueprint(tensors, model, name, placement)
        for model, name in end_tensors(recipe, plan)
    ]
    distinct = {step.ref: step.architecture for step in plan.steps}
    layers = {ref: layer_blueprint(tensors, ref, arch, placement) for ref, arch in distinct.items()}
    return ends, [layers[step.ref] for step in plan.steps]


def _make(
    blueprints: Sequence[Blueprint], placement: Placement, num_threads: int
) -> dict[str, Weight]:
    """All at once on the CPU; for another device one by one, to hold little in host memory."""
    size = len(blueprints) if placement.device == "cpu" else 1
    made: dict[str, Weight] = {}
    for start in range(0, len(blueprints), size):
        chunk = blueprints[start : start + size]
        drafts = [blueprint.draft() for blueprint in chunk]
        evaluate_jobs([job for draft in drafts for job in draft.jobs], num_threads)
        for blueprint, draft in zip(chunk, drafts, strict=True):
            made[blueprint.key] = draft.finish(placement.device)
    return made


def _assemble(
    plan: PathPlan,
    lease: Lease,
    ends: Sequence[Blueprint],
    layers: Sequence[Blueprint],
    device: str,
) -> PathParts:
    embed, norm, head = (_tensor(lease.get(blueprint.key)) for blueprint in ends)
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
        ModelEnds(embed, norm, plan.head.rms_norm_eps, head),
        tuple(rope.to(device) for rope in plan.ropes),
        plan.target,
        plan.max_model_len,
    )


def _tensor(weight: Weight) -> torch.Tensor:
    if not isinstance(weight, torch.Tensor):
        raise TypeError("a layer is stored under a tensor's key")
    return weight


def _layer(weight: Weight) -> LayerWeights:
    if not isinstance(weight, LayerWeights):
        raise TypeError("a tensor is stored under a layer's key")
    return weight
