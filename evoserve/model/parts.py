"""What a path model is made of, whatever runs it."""

from dataclasses import dataclass

import torch

from evoserve.model.layer import LayerWeights
from evoserve.model.linear import Embedding, Linear
from evoserve.model.plan import ScalingTarget
from evoserve.model.rope import Rope
from evoserve.sources.architecture import Architecture


@dataclass(frozen=True, eq=False)
class PathStep:
    """One hop: the layer, what its input is multiplied by, and what its own source prescribes.

    rope: index into the model's ropes; window: last tokens that attention sees, None for all.
    """

    layer: LayerWeights
    scale: float
    eps: float
    rope: int
    window: int | None


@dataclass(frozen=True, eq=False)
class ModelEnds:
    """norm: (hidden_size,), in the dtype of the activations; a tied head shares embed's storage."""

    embed: Embedding
    norm: torch.Tensor
    norm_eps: float
    head: Linear


@dataclass(frozen=True, eq=False)
class PathParts:
    """What a path model is made of; `architecture` is that of the model that gives the embedding.

    max_model_len: longest context in tokens.
    """

    architecture: Architecture
    steps: tuple[PathStep, ...]
    ends: ModelEnds
    ropes: tuple[Rope, ...]
    target: ScalingTarget
    max_model_len: int
