"""The digest of a recipe: SHA-256 over the RFC 8785 JSON of what determines weights and path."""

import hashlib

import rfc8785

from evoserve.manifest.schema import Manifest

_DETERMINING = ("format", "path", "scaling")


def canonical_json(manifest: Manifest) -> bytes:
    """What is hashed: the determining fields, values at their default written out, null ones not.

    A source that carries a digest is identified by it alone, so that moving or mirroring a
    checkpoint keeps the recipe's id; without one its location and revision stand in.
    """
    dumped = manifest.model_dump(mode="json", by_alias=True, exclude_none=True)
    kept = {key: dumped[key] for key in _DETERMINING if key in dumped}
    kept["sources"] = {name: _identity(source) for name, source in dumped["sources"].items()}
    kept["merges"] = {
        name: _without_empty({**dumped["merges"][name], "models": list(merge.inputs)})
        for name, merge in manifest.merges.items()
    }
    kept["tokenizer"] = manifest.tokenizer_model
    kept["embed"] = manifest.embed_model
    kept["head"] = manifest.head_model
    return rfc8785.dumps(kept)


def digest(manifest: Manifest) -> str:
    """`sha256:` and 64 hexadecimal digits."""
    return "sha256:" + hashlib.sha256(canonical_json(manifest)).hexdigest()


def model_id(manifest: Manifest) -> str:
    """`name@` and the first twelve digits of the digest: the id clients see."""
    return f"{manifest.name}@{digest(manifest).removeprefix('sha256:')[:12]}"


def _identity(source: dict[str, object]) -> dict[str, object]:
    adapter = source.get("adapter")
    folded = {"adapter": _identity(adapter)} if isinstance(adapter, dict) else {}
    fields = ("digest",) if "digest" in source else ("model", "revision")
    return {**{field: source[field] for field in fields if field in source}, **folded}


def _without_empty(merge: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in merge.items() if value != {}}
