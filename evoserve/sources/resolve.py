"""From a manifest to a recipe: every source found, verified, opened and compared with the rest."""

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

from evoserve.errors import SourceError, UnsupportedModel
from evoserve.manifest.parts import SourceSpec
from evoserve.manifest.schema import Manifest
from evoserve.sources.adapter import open_adapter
from evoserve.sources.checkpoint import Checkpoint, open_checkpoint
from evoserve.sources.compatible import check_compatible
from evoserve.sources.digest import adapter_digest, source_digest, verify_digest
from evoserve.sources.locate import SourceLocator
from evoserve.sources.recipe import Recipe

_MAX_THREADS = 8


def resolve_recipe(manifest: Manifest, locator: SourceLocator, *, verify: bool = True) -> Recipe:
    """Open all sources in parallel; only headers and, to verify digests, bytes are read.

    verify: check the digests that the manifest carries. Raises SourceError (DigestMismatch),
    UnsupportedModel and IncompatibleSources; of several faults, that of the first source.
    """
    with ThreadPoolExecutor(max_workers=_MAX_THREADS) as pool:
        futures = {
            name: pool.submit(_open_source, name, spec, locator, verify=verify)
            for name, spec in manifest.sources.items()
        }
        checkpoints = {name: future.result() for name, future in futures.items()}
    architectures = {name: found.architecture for name, found in checkpoints.items()}
    recipe = Recipe(manifest, checkpoints, check_compatible(manifest, architectures))
    recipe.steps()
    return recipe


def pinned(manifest: Manifest, recipe: Recipe) -> Manifest:
    """The manifest with the digest of every source and adapter as they lie on this machine."""
    sources = {
        name: _pin(spec, recipe.checkpoints[name]) for name, spec in manifest.sources.items()
    }
    return Manifest.model_validate(
        {
            **{field: getattr(manifest, field) for field in type(manifest).model_fields},
            "sources": sources,
        }
    )


def _open_source(
    name: str, spec: SourceSpec, locator: SourceLocator, *, verify: bool
) -> Checkpoint:
    folder = locator.locate(name, spec)
    checkpoint = _named(f"source '{name}'", lambda: open_checkpoint(folder))
    digests = [spec.digest]
    if verify and spec.digest is not None:
        verify_digest(name, spec.digest, source_digest(folder))
    if spec.adapter is not None:
        adapter, base = locator.locate_adapter(name, spec.adapter), checkpoint
        digests.append(spec.adapter.digest)
        if verify and spec.adapter.digest is not None:
            verify_digest(f"{name} (adapter)", spec.adapter.digest, adapter_digest(adapter))
        checkpoint = _named(f"adapter of source '{name}'", lambda: open_adapter(adapter, base))
    known = [digest for digest in digests if digest is not None]
    is_verified = verify and len(known) == len(digests)
    return replace(checkpoint, digest="+".join(known) if is_verified else None)


def _named(who: str, open_: Callable[[], Checkpoint]) -> Checkpoint:
    """What `open_` gives; its errors name the source too, not the folder alone."""
    try:
        return open_()
    except (SourceError, UnsupportedModel) as error:
        raise type(error)(f"{who}: {error}") from None


def _pin(spec: SourceSpec, checkpoint: Checkpoint) -> SourceSpec:
    changes: Mapping[str, object] = {"digest": source_digest(checkpoint.folder)}
    if spec.adapter is not None and checkpoint.adapter is not None:
        adapter = spec.adapter.model_copy(update={"digest": adapter_digest(checkpoint.adapter)})
        changes = {**changes, "adapter": adapter}
    return spec.model_copy(update=changes)
