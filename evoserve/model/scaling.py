"""From a manifest's scaling to one float32 per hop of the path; pure Python, no torch.

Paper 2403.13187, section 3.2: `W_ij` scales the input that layer j receives from layer i; for large
pools a network `pi_theta(i, j, t)` gives it. What W multiplies is `ScalingSpec.target`.
"""

import math
import struct
from collections.abc import Callable, Sequence

from evoserve.errors import ManifestError
from evoserve.manifest.check import EMBED_HOP
from evoserve.manifest.parts import NetworkScaling, ScalingSpec
from evoserve.manifest.refs import LayerRef


def hop_scales(
    scaling: ScalingSpec, steps: Sequence[LayerRef], num_layers: Callable[[str], int]
) -> tuple[float, ...]:
    """The scale of every hop, rounded once to float32; hop 0 comes from the embedding.

    `num_layers` gives the layer count of a model of the network's pool.
    Raises ManifestError for a wrong count or a scale that is not finite in float32.
    """
    if scaling.matrix is not None:
        where, scales = "scaling.matrix", _from_matrix(scaling.matrix, scaling.default, steps)
    elif scaling.per_hop is not None:
        where, scales = "scaling.per_hop", list(scaling.per_hop)
    elif scaling.network is not None:
        where, scales = "scaling.network", _from_network(scaling.network, steps, num_layers)
    else:
        where, scales = "scaling.default", [scaling.default] * len(steps)
    if len(scales) != len(steps):
        raise ManifestError(
            f"has {len(scales)} numbers for a path of {len(steps)} steps", where=where
        )
    return tuple(_float32(scale, where, hop) for hop, scale in enumerate(scales))


def _from_matrix(
    matrix: Sequence[tuple[str, str, float]], default: float, steps: Sequence[LayerRef]
) -> list[float]:
    entries = {(source, target): scale for source, target, scale in matrix}
    before = [EMBED_HOP, *map(str, steps[:-1])]
    return [
        entries.get((source, str(ref)), default) for source, ref in zip(before, steps, strict=True)
    ]


def _from_network(
    network: NetworkScaling, steps: Sequence[LayerRef], num_layers: Callable[[str], int]
) -> list[float]:
    """W = 1 + pi_theta((i + 1) / M, j / M, t / T), in float64."""
    first: dict[str, int] = {}
    total = 0
    for model in network.pool:
        first[model] = total
        total += num_layers(model)
    positions = [first[ref.model] + ref.layer for ref in steps]
    scales = []
    for hop, (source, target) in enumerate(zip([-1, *positions[:-1]], positions, strict=True)):
        inputs = [(source + 1) / total, target / total, hop / len(steps)]
        scales.append(1.0 + _evaluate(network, inputs))
    return scales


def _evaluate(network: NetworkScaling, inputs: Sequence[float]) -> float:
    values = list(inputs)
    last = len(network.weights) - 1
    for index, (matrix, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        sums = [
            math.fsum((offset, *(a * b for a, b in zip(row, values, strict=True))))
            for row, offset in zip(matrix, bias, strict=True)
        ]
        values = sums if index == last else [math.tanh(value) for value in sums]
    return values[0]


def _float32(scale: float, where: str, hop: int) -> float:
    try:
        rounded: float = struct.unpack("<f", struct.pack("<f", scale))[0]
    except OverflowError:
        rounded = math.inf
    if not math.isfinite(rounded):
        raise ManifestError(f"scale {scale} of hop {hop} is not finite in float32", where=where)
    return rounded
