"""What a merge method boils down to for one tensor: coefficients, cutoffs and mask keys as data.

Methods (`evoserve.merge.methods`) return one of these; the torch path and the fused CPU path
both carry it out, in the same order of operations, and give the same bits.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from evoserve.merge.masks import MaskKey

Coefficient = float | torch.Tensor
"""One number (rounded to float32 when used), or a float32 tensor that broadcasts."""


@dataclass(frozen=True)
class Cutoff:
    """The `count` largest magnitudes: those above `bits`, and those equal to it up to `index`.

    bits: the float32 bits of the magnitude; among equal magnitudes the lower flat index comes
    first, so exactly `count` elements are in.
    """

    bits: int
    index: int


NOTHING = Cutoff(0x7FFFFFFF, -1)
EVERYTHING = Cutoff(0, 1 << 62)


@dataclass(frozen=True)
class KeepAll:
    """Nothing is dropped."""


@dataclass(frozen=True)
class KeepRandom:
    """DARE: an element stays iff (hash >> 8) < threshold."""

    key: MaskKey
    threshold: int


@dataclass(frozen=True)
class KeepMagnitude:
    """TIES, breadcrumbs: an element stays iff it is in `bottom` but not in `top`."""

    bottom: Cutoff
    top: Cutoff = NOTHING


@dataclass(frozen=True)
class KeepRanked:
    """DELLA: keep probability rises from `low` to `high` with the magnitude's rank in its row.

    inverse: divide what is kept by its own probability.
    """

    key: MaskKey
    low: float
    high: float
    inverse: bool


Keep = KeepAll | KeepRandom | KeepMagnitude | KeepRanked


@dataclass(frozen=True)
class Term:
    """`coefficient` times what `keep` leaves of (input - base).

    weight: what the term adds to the divisor where it agrees with the elected sign.
    """

    input: int
    coefficient: Coefficient
    keep: Keep = KeepAll()
    weight: float = 0.0


@dataclass(frozen=True)
class DeltaSum:
    """base + scale * sum of terms; the base is input 0.

    elect: keep only what agrees with the sign of the sum (zero counts as +);
    normalize: with elect, divide by the sum of the agreeing weights (0 counts as 1).
    """

    terms: tuple[Term, ...]
    elect: bool = False
    normalize: bool = False
    scale: float = 1.0


@dataclass(frozen=True)
class Linear:
    """Sum of coefficient * input over all inputs in order; coefficients of 0.0 are not read."""

    coefficients: tuple[Coefficient, ...]


@dataclass(frozen=True)
class Split:
    """`before` for the elements below flat index `at`, `after` for the rest."""

    at: int
    before: Linear
    after: Linear


Combination = DeltaSum | Linear | Split


class Statistics(Protocol):
    """What methods may ask about the inputs of one tensor; all answers are exact or float64.

    Sums run in a fixed order (docs/merging.md), so they do not depend on threads.
    """

    @property
    def num_elements(self) -> int:
        """Elements of the tensor."""
        ...

    def gram(self, *, rebased: bool, axis: int | None = None) -> torch.Tensor:
        """float64 inner products (K, K) of all inputs, or of their deltas from input 0.

        axis: sum along that axis alone; the others follow in the shape, `axis` itself with size 1.
        """
        ...

    def cutoffs(self, index: int, counts: Sequence[int]) -> tuple[Cutoff, ...]:
        """For each count, the cutoff of that many largest elements of (input `index` - base)."""
        ...

    def l1(self, index: int, keep: Keep) -> tuple[float, float]:
        """L1 norm of (input `index` - base) before and after `keep`."""
        ...
