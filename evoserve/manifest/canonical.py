"""The digest of a recipe: SHA-256 over the RFC 8785 JSON of what determines weights and path."""

import hashlib
from typing import Any

import rfc8785

from evoserve.manifest.methods import COEFFICIENT_DEFAULTS, TRAITS
from evoserve.manifest.parts import MergeSpec
from evoserve.manifest.refs import expand_path, format_path
from evoserve.manifest.schema import Manifest


def normal_form(manifest: Manifest) -> dict[str, Any]:
    """The determining fields as plain JSON, in one form for all spellings of the same recipe.

    Defaults are written out, null fields left out, the path in its shortest spelling, the scaling
    matrix sorted; a seed that nothing reads is left out. A source that carries a digest is
    identified by it alone, so that moving or mirroring a checkpoint keeps the recipe's id; without
    one its location and revision stand in.
    """
    dumped = manifest.model_dump(mode="json", by_alias=True, exclude_none=True)
    scaling = dumped["scaling"]
    if manifest.scaling.matrix is not None:
        scaling["matrix"] = sorted(scaling["matrix"])
    kept = {
        "format": manifest.format,
        "sources": {name: _identity(source) for name, source in dumped["sources"].items()},
        "merges": {name: _merge(merge) for name, merge in manifest.merges.items()},
        "scaling": scaling,
        "tokenizer": manifest.tokenizer_model,
        "embed": manifest.embed_model,
        "head": manifest.head_model,
    }
    if manifest.path is not None:
        kept["path"] = format_path(expand_path(manifest.path))
    return kept


def canonical_json(manifest: Manifest) -> bytes:
    """What is hashed: the normal form as RFC 8785 JSON."""
    return rfc8785.dumps(normal_form(manifest))


def digest(manifest: Manifest) -> str:
    """`sha256:` and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(canonical_json(manifest)).hexdigest()


def model_id(manifest: Manifest) -> str:
    """`name@` and the first twelve digits of the digest: the id clients see."""
    return f"{manifest.name}@{digest(manifest).removeprefix('sha256:')[:12]}"


def _identity(source: dict[str, Any]) -> dict[str, Any]:
    adapter = source.get("adapter")
    folded = {"adapter": _identity(adapter)} if isinstance(adapter, dict) else {}
    fields = ("digest",) if "digest" in source else ("model", "revision")
    return {**{field: source[field] for field in fields if field in source}, **folded}


def _merge(merge: MergeSpec) -> dict[str, Any]:
    dumped = merge.model_dump(mode="json", by_alias=True, exclude_none=True)
    traits = TRAITS[merge.method]
    fields = ("method", "base", "dtype", "groups", "t", "split")
    kept: dict[str, Any] = {field: dumped[field] for field in fields if field in dumped}
    kept["models"] = list(merge.inputs)
    kept["options"] = merge.options.or_default(merge.method).model_dump(
        by_alias=True, exclude_none=True
    )
    for field, default in COEFFICIENT_DEFAULTS.items():
        if field in traits.coefficients:
            kept[field] = {model: dumped[field].get(model, default) for model in merge.inputs}
    return {**kept, "seed": merge.seed} if traits.random else kept
