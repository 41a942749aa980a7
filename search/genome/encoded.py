"""The one genome class: axes, and a codec that reads and writes clean vectors."""

from dataclasses import dataclass
from typing import Protocol

from evoserve.manifest.canonical import canonical_json
from evoserve.manifest.refs import expand_path, format_path
from evoserve.manifest.schema import Manifest
from search.genome.axes import Axes
from search.genome.protocol import Flags, Vector


class Codec(Protocol):
    """An encoding for vectors that are already within the bounds."""

    def decode(self, vector: Vector) -> Manifest:
        """The recipe at a point."""
        ...

    def encode(self, manifest: Manifest) -> Vector:
        """The point that comes nearest; `EncodedGenome` checks that it is exact.

        Raises ValueError or KeyError for a manifest of another make.
        """
        ...

    def is_active(self, vector: Vector) -> Flags:
        """Which dimensions influence the recipe; all the others may change at once."""
        ...


@dataclass(frozen=True)
class EncodedGenome:
    """A `Genome` of any codec."""

    axes: Axes
    codec: Codec

    def __post_init__(self) -> None:
        if self.axes.size == 0:
            raise ValueError("there is nothing to evolve: the genome has no dimension")

    @property
    def size(self) -> int:
        """Number of dimensions."""
        return self.axes.size

    @property
    def lower(self) -> Vector:
        """Lower bounds (size,)."""
        return self.axes.lower

    @property
    def upper(self) -> Vector:
        """Upper bounds (size,)."""
        return self.axes.upper

    @property
    def initial(self) -> Vector:
        """Where a search starts (size,)."""
        return self.axes.initial

    @property
    def sigma(self) -> Vector:
        """Initial steps (size,)."""
        return self.axes.sigma

    @property
    def is_binary(self) -> Flags:
        """Dimensions of which only the sign counts (size,)."""
        return self.axes.is_binary

    @property
    def names(self) -> tuple[str, ...]:
        """A readable name per dimension."""
        return self.axes.names

    def decode(self, genotype: Vector) -> Manifest:
        """The recipe at a point, clipped to the bounds. Raises ValueError for NaN."""
        return self.codec.decode(self.axes.clip(genotype))

    def encode(self, manifest: Manifest) -> Vector:
        """A point that decodes to the same merges, path and scaling.

        Raises ValueError if no point does (another method, another pool, values out of bounds).
        """
        try:
            vector = self.axes.clip(self.codec.encode(manifest))
        except (KeyError, IndexError) as error:
            raise ValueError(f"'{manifest.name}' is not of this genome: no {error}") from None
        if not is_same_recipe(self.decode(vector), manifest):
            raise ValueError(f"no point of this genome decodes to '{manifest.name}'")
        return vector

    def is_active(self, genotype: Vector) -> Flags:
        """Which dimensions influence the decoded recipe; changing all others does not."""
        return self.codec.is_active(self.axes.clip(genotype))


def is_same_recipe(first: Manifest, second: Manifest) -> bool:
    """Do both make the same weights and path, given that sources of one name are the same?"""
    if set(first.sources) != set(second.sources):
        return False
    aligned = second.model_copy(update={"sources": first.sources, "path": _short(second)})
    return canonical_json(first.model_copy(update={"path": _short(first)})) == canonical_json(
        aligned
    )


def _short(manifest: Manifest) -> tuple[str, ...] | None:
    return None if manifest.path is None else tuple(format_path(expand_path(manifest.path)))
