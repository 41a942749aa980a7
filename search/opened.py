"""The sources of a search, found, pinned and opened once; every candidate borrows them."""

from collections.abc import Mapping
from dataclasses import dataclass

from evoserve.errors import SourceError
from evoserve.manifest.parts import SourceSpec
from evoserve.manifest.schema import Manifest
from evoserve.sources.architecture import Architecture
from evoserve.sources.checkpoint import Checkpoint
from evoserve.sources.compatible import check_compatible
from evoserve.sources.locate import SourceLocator
from evoserve.sources.recipe import Recipe
from evoserve.sources.resolve import pinned, resolve_recipe


@dataclass(frozen=True)
class OpenSources:
    """Open checkpoints by name, and their specs with the digests of what lies there."""

    specs: Mapping[str, SourceSpec]
    checkpoints: Mapping[str, Checkpoint]

    @property
    def num_layers(self) -> dict[str, int]:
        """Layer count per source."""
        return {name: found.architecture.num_layers for name, found in self.checkpoints.items()}

    def recipe(self, manifest: Manifest) -> Recipe:
        """The manifest over the open checkpoints; only names matter, nothing is verified again.

        Raises IncompatibleSources, and SourceError for a source that is not open.
        """
        missing = sorted(set(manifest.sources) - set(self.checkpoints))
        if missing:
            opened = ", ".join(self.checkpoints)
            raise SourceError(f"source '{missing[0]}' is not open; the search has {opened}")
        used = {name: self.checkpoints[name] for name in manifest.sources}
        architectures: dict[str, Architecture] = {
            name: checkpoint.architecture for name, checkpoint in used.items()
        }
        recipe = Recipe(manifest, used, check_compatible(manifest, architectures))
        recipe.steps()
        return recipe


def open_sources(sources: Mapping[str, SourceSpec], locator: SourceLocator) -> OpenSources:
    """Open every source, verify the digests that are given and compute the others.

    A local folder that the catalogue does not name is kept as an absolute path, so that a recipe
    can be exported to any folder. Raises SourceError and UnsupportedModel.
    """
    specs: dict[str, SourceSpec] = {}
    checkpoints: dict[str, Checkpoint] = {}
    for name, spec in sources.items():
        alone = Manifest(
            format="evoserve/1", name="source", sources={name: _absolute(spec, locator)}
        )
        recipe = resolve_recipe(alone, locator)
        specs[name] = pinned(alone, recipe).sources[name]
        checkpoints[name] = recipe.checkpoints[name]
    return OpenSources(specs, checkpoints)


def _absolute(spec: SourceSpec, locator: SourceLocator) -> SourceSpec:
    changes: dict[str, object] = {}
    if _is_local(spec.model, locator):
        changes["model"] = str((locator.base / spec.model).resolve())
    if spec.adapter is not None and _is_local(spec.adapter.model, locator):
        model = str((locator.base / spec.adapter.model).resolve())
        changes["adapter"] = spec.adapter.model_copy(update={"model": model})
    return spec.model_copy(update=changes)


def _is_local(model: str, locator: SourceLocator) -> bool:
    return model not in locator.catalogue and (locator.base / model).is_dir()
