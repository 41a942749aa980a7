"""A manifest with its sources found: what an engine loads, a check reads and an export writes."""

from collections.abc import Mapping
from dataclasses import dataclass

from evoserve.errors import IncompatibleSources
from evoserve.manifest.canonical import model_id
from evoserve.manifest.refs import LayerRef
from evoserve.manifest.schema import Manifest
from evoserve.sources.architecture import Architecture
from evoserve.sources.checkpoint import Checkpoint


@dataclass(frozen=True)
class Recipe:
    """A checked manifest and an open, lazily read checkpoint for each of its sources.

    warnings: what is allowed but may surprise, such as merged models with different rotary bases;
    one line each, for logs and `evoserve check`.
    """

    manifest: Manifest
    checkpoints: Mapping[str, Checkpoint]
    warnings: tuple[str, ...] = ()

    @property
    def model_id(self) -> str:
        """The id clients see: `name@digest12`."""
        return model_id(self.manifest)

    def architecture(self, model: str) -> Architecture:
        """That of a source, or of a merge's base."""
        return self.checkpoints[self.manifest.base_source(model)].architecture

    def steps(self) -> list[LayerRef]:
        """The path written out. Raises IncompatibleSources for a layer its model does not have."""
        manifest = self.manifest
        steps = manifest.steps(self.architecture(manifest.embed_model).num_layers)
        for ref in steps:
            count = self.architecture(ref.model).num_layers
            if ref.layer >= count:
                raise IncompatibleSources(
                    f"path step {ref}: model '{ref.model}' has layers 0 to {count - 1}"
                )
        return steps
