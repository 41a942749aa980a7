"""Groups of tensors that share coefficients, built from a layer count.

Paper 2403.13187 evolves one group; a layer there is the input embedding, a block, or the output
side, so bands and per-layer groups give the embedding and the head groups of their own.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from evoserve.manifest.refs import parse_group

FILTERS = ("self_attn", "mlp")


def build_groups(
    num_layers: int,
    granularity: Literal["one", "layers"] | int | Sequence[str] = "one",
    *,
    split: bool = False,
) -> tuple[str, ...]:
    """Manifest groups that cover every tensor of a model of `num_layers` layers.

    granularity: one, layers (one group per layer), a number of bands, or the groups themselves.
    split: each group of layers becomes three: self_attn, mlp, and what is left (the norms).
    Raises ValueError for more bands than layers or a malformed group.
    """
    if isinstance(granularity, int):
        groups = ["embed", *_bands(num_layers, granularity), "head"]
    elif granularity == "one":
        groups = ["all"]
    elif granularity == "layers":
        groups = ["embed", *(f"layers[{i}]" for i in range(num_layers)), "head"]
    elif isinstance(granularity, str):
        raise ValueError(f"'{granularity}': use 'one', 'layers', a number of bands, or a list")
    else:
        groups = list(granularity)
    for group in groups:
        parse_group(group)
    return tuple(part for group in groups for part in (_split(group) if split else (group,)))


def _bands(num_layers: int, count: int) -> list[str]:
    if not 1 <= count <= num_layers:
        raise ValueError(f"{count} bands of {num_layers} layers: use 1 to {num_layers}")
    edges = [index * num_layers // count for index in range(count + 1)]
    return [f"layers[{a}:{b}]" for a, b in pairwise(edges)]


def _split(group: str) -> tuple[str, ...]:
    parsed = parse_group(group)
    if parsed.filter is not None or parsed.part in ("embed", "head"):
        return (group,)
    # The first group that matches wins, so the plain one at the end takes what is left.
    return (*(f"{group}.{name}" for name in FILTERS), group)
