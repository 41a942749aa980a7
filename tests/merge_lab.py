"""Random tensors and coefficients for tests of merging, and every way to merge them."""

from collections.abc import Callable, Sequence

import torch

from evoserve.manifest.methods import OPTION_DEFAULTS, TRAITS
from evoserve.merge import fused
from evoserve.merge.coefficients import Coefficients, Options
from evoserve.merge.masks import mask_key
from evoserve.merge.methods import METHODS
from evoserve.merge.torch_path import TorchStatistics, combine

NAMES = ("a", "b", "c", "d")


def one_span(num_elements: int, piece: Callable[[int, int], None]) -> None:
    piece(0, num_elements)


def make_options(method: str, **changes: object) -> Options:
    values = {**OPTION_DEFAULTS[method], **changes}
    return Options(**{"lambda_" if k == "lambda" else k: v for k, v in values.items()})  # type: ignore[arg-type]


def make_coefficients(
    method: str,
    weights: Sequence[float],
    densities: Sequence[float] | None = None,
    *,
    gammas: Sequence[float] | None = None,
    epsilons: Sequence[float] | None = None,
    t: float = 0.3,
    split_at: int = 0,
    has_base: bool | None = None,
    **options: object,
) -> Coefficients:
    count = len(weights)
    random = TRAITS[method].random
    return Coefficients(
        weights=tuple(weights),
        densities=tuple(densities or [1.0] * count),
        gammas=tuple(gammas or [0.01] * count),
        epsilons=tuple(epsilons or [0.15] * count),
        mask_keys=tuple(mask_key(5, name, "t") for name in NAMES[:count]) if random else (),
        t=t,
        split_at=split_at,
        has_base=TRAITS[method].base == "required" if has_base is None else has_base,
        options=make_options(method, **options),
    )


def merge_with_torch(method: str, c: Coefficients, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The reference: float32, whole tensors."""
    return combine(METHODS[method](c, TorchStatistics(inputs)), inputs, 0)


def merge_fused(method: str, c: Coefficients, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """The fused kernels, without rounding."""
    out = torch.empty(inputs[0].shape)
    combination = METHODS[method](c, fused.FusedStatistics(inputs, one_span))
    fused.combine_into(combination, inputs, torch.float32, out, one_span)
    return out
