"""From a manifest to a mergekit YAML with the same meaning, or an error that says what has none.

Coefficients are written as filters on layer numbers, never as gradients: a gradient is evaluated
in floating point and cannot reach the embedding and the head, a filter is exact.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import yaml

from evoserve.errors import ManifestError
from evoserve.manifest.mergekit_methods import MERGEKIT_METHODS, MergekitMethod
from evoserve.manifest.mergekit_settings import Layers, setting
from evoserve.manifest.methods import TRAITS
from evoserve.manifest.parts import MergeSpec, SourceSpec
from evoserve.manifest.refs import LayerRef, expand_path
from evoserve.manifest.schema import Manifest

_RANDOM_NOTE = (
    "# mergekit draws its masks from a generator of its own: coefficients are the recipe's, the\n"
    "# weights are not the same bit for bit, and differ from run to run without --random-seed.\n"
)


@dataclass(frozen=True)
class _Run:
    """Consecutive layers [start, stop) of one model from output layer `offset` on.

    stop: None for all layers of the model.
    """

    model: str
    start: int
    stop: int | None
    offset: int
    has_embed: bool
    has_head: bool


def export_mergekit(manifest: Manifest) -> str:
    """YAML that mergekit 0.1.5 merges with the manifest's coefficients on every tensor.

    What only concerns serving (name, description, generation, evaluation, ...) and the digests of
    sources do not cross. Raises ManifestError for a recipe that mergekit cannot express.
    """
    _check_scaling(manifest)
    runs = _runs(manifest)
    merges = _used_merges(manifest, runs)
    method = next(iter(merges.values())).method if merges else "passthrough"
    document: dict[str, Any] = {"merge_method": method}
    document |= _heading(manifest, method, merges)
    if runs[0].stop is None:
        document |= _whole(manifest, runs[0], merges)
    else:
        document["slices"] = [_slice(manifest, run, merges) for run in runs]
    note = _RANDOM_NOTE if TRAITS[method].random else ""
    return note + yaml.dump(
        document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None
    )


def _check_scaling(manifest: Manifest) -> None:
    scaling = manifest.scaling
    forms = (scaling.matrix, scaling.per_hop, scaling.network)
    if scaling.default != 1 or any(form is not None for form in forms):
        raise ManifestError(
            "mergekit cannot scale the hops of a path; export a checkpoint, which folds the scales "
            "into its weights",
            where="scaling",
        )


def _runs(manifest: Manifest) -> list[_Run]:
    if manifest.path is None:
        return [_Run(manifest.embed_model, 0, None, 0, has_embed=True, has_head=True)]
    steps = expand_path(manifest.path)
    found = []
    keyed = groupby(enumerate(steps), key=lambda item: (item[1].model, item[1].layer - item[0]))
    for _, items in keyed:
        run = list(items)
        (offset, first), last = run[0], run[-1]
        found.append(_run(first, last[1].layer + 1, offset, is_last=last[0] == len(steps) - 1))
    return found


def _run(first: LayerRef, stop: int, offset: int, *, is_last: bool) -> _Run:
    return _Run(first.model, first.layer, stop, offset, has_embed=offset == 0, has_head=is_last)


def _used_merges(manifest: Manifest, runs: Sequence[_Run]) -> dict[str, MergeSpec]:
    """The merges of the path, all expressible by one `merge_method` and `out_dtype`."""
    used = {r.model: manifest.merges[r.model] for r in runs if r.model in manifest.merges}
    for name, merge in used.items():
        _check_merge(manifest, name, merge)
    kinds = {(merge.method, merge.dtype) for merge in used.values()}
    if len(kinds) > 1:
        listed = ", ".join(f"{n} ({m.method}, {m.dtype})" for n, m in used.items())
        raise ManifestError(
            f"mergekit has one merge_method and dtype per file; the path visits {listed}",
            where="path",
        )
    plain = [run.model for run in runs if run.model not in used]
    if used and plain and next(iter(used.values())).method != "passthrough":
        raise ManifestError(
            f"mergekit cannot mix merged layers ({next(iter(used))}) with plain ones ({plain[0]})",
            where="path",
        )
    return used


def _check_merge(manifest: Manifest, name: str, merge: MergeSpec) -> None:
    where = f"merges.{name}"
    if merge.method not in MERGEKIT_METHODS:
        raise ManifestError(f"mergekit has no {merge.method}", where=f"{where}.method")
    nested = [model for model in merge.reads if model in manifest.merges]
    if nested:
        raise ManifestError(
            f"merges '{nested[0]}', itself a merge; mergekit needs that one as a checkpoint first",
            where=where,
        )
    if merge.options.or_default(merge.method).rescale == "density":
        raise ManifestError(
            "mergekit rescales to the l1 norm, not by density; set rescale to l1 or none",
            where=f"{where}.options.rescale",
        )
    if merge.method == "karcher" and len(set(map(str, merge.weights.values()))) > 1:
        raise ManifestError("mergekit's karcher has no weights", where=f"{where}.weights")


def _heading(manifest: Manifest, method: str, merges: dict[str, MergeSpec]) -> dict[str, Any]:
    """What concerns the whole file: base, dtype, tokenizer, chat template."""
    root = manifest.base_source(manifest.embed_model)
    has_base = MERGEKIT_METHODS[method].base == "ignored" or all(m.base for m in merges.values())
    heading: dict[str, Any] = {}
    if has_base:
        heading["base_model"] = _reference(manifest.sources[root])
    for merge in merges.values():
        heading |= {"dtype": "float32", "out_dtype": merge.dtype}
    tokenizer = manifest.tokenizer_model
    if tokenizer in manifest.sources or tokenizer in manifest.merges:
        source = manifest.base_source(tokenizer)
        if source != root or not has_base:
            heading["tokenizer_source"] = _reference(manifest.sources[source])
    else:
        heading["tokenizer_source"] = tokenizer
    if manifest.chat_template is not None:
        heading["chat_template"] = manifest.chat_template
    return heading


def _whole(manifest: Manifest, run: _Run, merges: dict[str, MergeSpec]) -> dict[str, Any]:
    """`models` and `parameters` for the whole of the one model."""
    inputs, shared = _inputs(manifest, run, merges)
    return {"models": inputs, **({"parameters": shared} if shared else {})}


def _slice(manifest: Manifest, run: _Run, merges: dict[str, MergeSpec]) -> dict[str, Any]:
    inputs, shared = _inputs(manifest, run, merges)
    for item in inputs:
        item["layer_range"] = [run.start, run.stop]
    found: dict[str, Any] = {"sources": inputs}
    merge = merges.get(run.model)
    if merge is not None and merge.base is not None:
        found["base_model"] = _reference(manifest.sources[merge.base])
    return found | ({"parameters": shared} if shared else {})


def _inputs(
    manifest: Manifest, run: _Run, merges: dict[str, MergeSpec]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The models with their parameters, and the parameters they share."""
    if run.model not in merges:
        return [{"model": _reference(manifest.sources[run.model])}], {}
    merge = merges[run.model]
    declared = MERGEKIT_METHODS[merge.method]
    where = f"merges.{run.model}.groups"
    read = Layers(run.start, run.stop, 0, run.has_embed, run.has_head)
    written = Layers(run.start, run.stop, run.offset - run.start, run.has_embed, run.has_head)
    inputs = [] if merge.base is None else [{"model": _reference(manifest.sources[merge.base])}]
    for model in merge.inputs:
        item: dict[str, Any] = {"model": _reference(manifest.sources[model])}
        parameters = {
            word: setting(merge, parameter.field, model, read, where)
            for word, parameter in declared.inputs.items()
        }
        inputs.append(item | ({"parameters": parameters} if parameters else {}))
    shared = dict(_options(merge, declared))
    if declared.has_t:
        shared["t"] = setting(merge, "t", merge.inputs[0], written, where)
    return inputs, shared


def _options(merge: MergeSpec, declared: MergekitMethod) -> Iterator[tuple[str, Any]]:
    options = merge.options.or_default(merge.method).model_dump(by_alias=True)
    for word, parameter in declared.shared.items():
        value = options[parameter.option]
        if parameter.option == "rescale":
            if value is not None:
                yield word, value == "l1"
        else:
            yield word, value


def _reference(source: SourceSpec) -> str | dict[str, Any]:
    """mergekit's name of a source: text, or an object where its signs + and @ would mislead."""
    parts = [(source.model, source.revision)]
    if source.adapter is not None:
        parts.append((source.adapter.model, source.adapter.revision))
    if any(
        sign in text
        for model, revision in parts
        for text in (model, revision or "")
        for sign in "+@"
    ):
        objects = [{"path": m, **({"revision": r} if r else {})} for m, r in parts]
        return dict(zip(("model", "lora"), objects, strict=False))
    return "+".join(model if not revision else f"{model}@{revision}" for model, revision in parts)


class _Dumper(yaml.SafeDumper):
    """Without aliases; with quotes around text that YAML 1.2 could take for a number."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write everything out."""
        del data
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = '"' if text[:1] in "-+.0123456789" else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _represent_text)
