"""A recipe's path resolved to numbers: what build and export need before weights are read."""

from dataclasses import dataclass
from typing import Literal

import torch

from evoserve.manifest.refs import LayerRef
from evoserve.model.rope import Rope, build_rope
from evoserve.model.scaling import hop_scales
from evoserve.sources.architecture import Architecture
from evoserve.sources.recipe import Recipe

ScalingTarget = Literal["mlp_output", "hidden_state"]


@dataclass(frozen=True)
class PlannedStep:
    """One hop. rope: index into the plan's ropes; window: of the layer's place in its source."""

    ref: LayerRef
    scale: float
    architecture: Architecture
    rope: int
    window: int | None


@dataclass(frozen=True, eq=False)
class PathPlan:
    """The path with its scales; `embed` and `head` are the architectures of the two ends.

    max_model_len: the shortest context, in tokens, of the models on the path.
    """

    steps: tuple[PlannedStep, ...]
    ropes: tuple[Rope, ...]
    target: ScalingTarget
    embed: Architecture
    head: Architecture
    max_model_len: int


def plan_path(recipe: Recipe) -> PathPlan:
    """Resolve layers, scales, rotary embeddings and windows.

    Raises IncompatibleSources for a layer that does not exist, ManifestError for wrong scales,
    UnsupportedModel for an unsupported rotary embedding.
    """
    manifest = recipe.manifest
    refs = recipe.steps()
    scales = hop_scales(manifest.scaling, refs, lambda name: recipe.architecture(name).num_layers)
    ropes: list[Rope] = []
    index = {ref.model: _rope_index(ropes, recipe.architecture(ref.model)) for ref in refs}
    steps = []
    for ref, scale in zip(refs, scales, strict=True):
        arch = recipe.architecture(ref.model)
        steps.append(PlannedStep(ref, scale, arch, index[ref.model], arch.windows[ref.layer]))
    return PathPlan(
        tuple(steps),
        tuple(ropes),
        manifest.scaling.target,
        recipe.architecture(manifest.embed_model),
        recipe.architecture(manifest.head_model),
        min(step.architecture.max_position_embeddings for step in steps),
    )


def _rope_index(ropes: list[Rope], arch: Architecture) -> int:
    """The place of the rotary embedding of `arch` in `ropes`, where it is added if it is new."""
    built = build_rope(arch)
    for index, rope in enumerate(ropes):
        if rope.attention_scaling == built.attention_scaling and torch.equal(
            rope.inv_freq, built.inv_freq
        ):
            return index
    ropes.append(built)
    return len(ropes) - 1
