"""The seam between optimizers and recipes: a genome decodes vectors to manifests."""

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from evoserve.manifest.schema import Manifest

Vector = NDArray[np.float64]
Flags = NDArray[np.bool_]


class Space(Protocol):
    """What an optimizer needs to know of a search space of float64 vectors (size,).

    lower, upper: bounds per dimension; initial: where a search starts; sigma: the initial step
    per dimension; is_binary: dimensions of which only the sign counts (x > 0 means on).
    """

    @property
    def size(self) -> int: ...
    @property
    def lower(self) -> Vector: ...
    @property
    def upper(self) -> Vector: ...
    @property
    def initial(self) -> Vector: ...
    @property
    def sigma(self) -> Vector: ...
    @property
    def is_binary(self) -> Flags: ...

    def is_active(self, genotype: Vector) -> Flags:
        """Which dimensions influence what the point stands for; changing the others does not."""
        ...


class Genome(Space, Protocol):
    """An encoding of recipes as vectors; every point decodes to a valid one.

    names: one readable name per dimension, for reports.
    """

    @property
    def names(self) -> tuple[str, ...]: ...

    def decode(self, genotype: Vector) -> Manifest:
        """The recipe at a point; values beyond the bounds are clipped, NaN is a ValueError."""
        ...

    def encode(self, manifest: Manifest) -> Vector:
        """A point that decodes to `manifest`. Raises ValueError if the genome has none."""
        ...
