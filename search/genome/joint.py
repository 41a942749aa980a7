"""Parameter space and data-flow space in one vector: the merge that is evolved is on the path.

The paper searches one after the other (`Pool.merges`, then `build_dfs_genome`); this searches both
at once.
"""

from dataclasses import dataclass

import numpy as np

from evoserve.manifest.refs import expand_path, format_path
from evoserve.manifest.schema import Manifest
from search.genome.axes import concat_axes
from search.genome.dfs import DfsSettings, PathCodec, build_path_codec
from search.genome.encoded import EncodedGenome
from search.genome.pool import Pool
from search.genome.protocol import Flags, Vector
from search.genome.ps import MergeCodec, PsSettings, build_merge_codec


@dataclass(frozen=True)
class JointCodec:
    """The merge's dimensions, then the path's."""

    pool: Pool
    merge: MergeCodec
    path: PathCodec
    merge_initial: Vector

    def decode(self, vector: Vector) -> Manifest:
        """The path at a point; the merge is left out where the path does not visit it."""
        layers, scaling = self.path.read(vector[self._split :])
        merge = {self.merge.settings.merge: self.merge.read(vector[: self._split])}
        return self.pool.manifest(merge, format_path(layers), scaling)

    def encode(self, manifest: Manifest) -> Vector:
        """Coefficients of a merge that is left out are at their start."""
        merge, path = self.merge_initial.copy(), self.path.axes.initial.copy()
        spec = manifest.merges.get(self.merge.settings.merge)
        if spec is not None:
            self.merge.write(spec, merge)
        self.path.write(expand_path(manifest.path or ()), manifest.scaling, path)
        return np.concatenate([merge, path])

    def is_active(self, vector: Vector) -> Flags:
        """The path's dimensions as in `PathCodec`, the merge's if it is in the recipe."""
        is_used = self.merge.settings.merge in self.decode(vector).merges
        merge = np.full(self._split, is_used)
        return np.concatenate([merge, self.path.is_active(vector[self._split :])])

    @property
    def _split(self) -> int:
        return len(self.merge_initial)


def build_joint_genome(pool: Pool, ps: PsSettings, dfs: DfsSettings) -> EncodedGenome:
    """A genome of one merge and a path over the pool and that merge (`ps.merge` in `dfs.models`).

    Raises ValueError for settings that do not fit.
    """
    if ps.merge not in dfs.models:
        raise ValueError(f"models: the path never visits merge '{ps.merge}'; name it there")
    axes, merge = build_merge_codec(pool, ps)
    root = ps.base or ps.models[0]
    layers = {model: pool.layers_of(root if model == ps.merge else model) for model in dfs.models}
    path = build_path_codec(layers, dfs)
    both = concat_axes([axes, path.axes])
    genome = EncodedGenome(both, JointCodec(pool, merge, path, axes.initial))
    genome.decode(both.initial)
    return genome
