"""From a mergekit YAML to a manifest with the same meaning, tensor by tensor.

Every parameter is evaluated at every tensor as mergekit 0.1.5 does it; the results are gathered
into groups. Whole-model merges become one merge, slices become merges and a path over them, and
passthrough slices a path over the sources. docs/mergekit.md tells the differences.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from evoserve.errors import ManifestError
from evoserve.manifest.document import parse_document
from evoserve.manifest.grouping import Row, Table, build_groups
from evoserve.manifest.load import build_manifest
from evoserve.manifest.mergekit_config import (
    LayerCounts,
    MergekitConfig,
    Slice,
    layer_count,
    parse_config,
)
from evoserve.manifest.mergekit_models import ModelRef, free_name, source_name
from evoserve.manifest.mergekit_tensors import (
    Cell,
    Column,
    SlicePlace,
    columns,
    merged_inputs,
    read_options,
    read_rows,
)
from evoserve.manifest.methods import OptionValue
from evoserve.manifest.refs import LayerRef, format_path
from evoserve.manifest.schema import Manifest

_RESERVED = ("union", "embed")
_WORD = re.compile(r"[A-Za-z0-9_.]+")


@dataclass(frozen=True)
class _Key:
    """What slices must agree in to be parts of one merge."""

    base: ModelRef | None
    columns: tuple[Column, ...]
    models: tuple[ModelRef, ...]
    options: tuple[tuple[str, OptionValue], ...]

    @property
    def root(self) -> ModelRef:
        """The model that gives the merge its shape."""
        return self.base or self.models[0]


@dataclass
class _Draft:
    """A merge in the making: the rows of the tensors that some slice asks for."""

    name: str
    key: _Key
    cells: dict[Cell, dict[str, Row]] = field(default_factory=dict)


def import_mergekit(text: str, *, name: str, num_layers: LayerCounts) -> Manifest:
    """The manifest that means what the YAML `text` means to mergekit 0.1.5.

    `num_layers` tells the layer count of a model by its path or id as the file writes it.
    Raises ManifestError that names the path in the YAML for what is wrong or cannot be said.
    """
    config = parse_config(parse_document(text), num_layers)
    names = _source_names(config)
    drafts, path = _draft(config, names)
    document: dict[str, Any] = {
        "format": "evoserve/1",
        "name": name,
        "sources": {named: _source(ref) for ref, named in names.items()},
        "merges": {draft.name: _merge(config, draft, names, num_layers) for draft in drafts},
        "tokenizer": _tokenizer(config, names, drafts, path[0]),
        "chat_template": config.chat_template,
        "provenance": {"imported_from": "mergekit"},
    }
    if not _is_identity(config, path, len(names), len(drafts), num_layers):
        document["path"] = format_path(path)
    return build_manifest(document)


def _draft(
    config: MergekitConfig, names: dict[ModelRef, str]
) -> tuple[list[_Draft], list[LayerRef]]:
    """The merges that the slices need, and the path over them and the sources."""
    drafts: list[_Draft] = []
    path: list[LayerRef] = []
    last = len(config.slices) - 1
    for index, slice_ in enumerate(config.slices):
        place = SlicePlace(slice_, len(path), index == 0, index == last)
        rows = read_rows(config, place)
        if config.method == "passthrough" and _is_plain(rows):
            model = names[slice_.inputs[0].model]
        else:
            options = tuple(read_options(config, place).items())
            model = _place_rows(drafts, _key(config, slice_, options), rows, names)
        path += [LayerRef(model, layer) for layer in range(slice_.start, slice_.stop)]
    return drafts, path


def _key(
    config: MergekitConfig, slice_: Slice, options: tuple[tuple[str, OptionValue], ...]
) -> _Key:
    base = None if config.declared.base == "ignored" else slice_.base
    models = tuple(item.model for item in merged_inputs(config, slice_))
    return _Key(base, columns(config, slice_), models, options)


def _is_plain(rows: dict[Cell, dict[str, Row]]) -> bool:
    """Are all scales 1, so that the source itself will do?"""
    return all(row == (1.0,) for cell in rows.values() for row in cell.values())


def _place_rows(
    drafts: list[_Draft], key: _Key, rows: dict[Cell, dict[str, Row]], names: dict[ModelRef, str]
) -> str:
    """Add the rows to a draft that they do not contradict, or to a new one; its name."""
    for draft in drafts:
        if draft.key == key and all(draft.cells.get(c, row) == row for c, row in rows.items()):
            draft.cells.update(rows)
            return draft.name
    taken = [*_RESERVED, *names.values(), *(draft.name for draft in drafts)]
    drafts.append(_Draft(free_name("merged", taken), key, dict(rows)))
    return drafts[-1].name


def _merge(
    config: MergekitConfig, draft: _Draft, names: dict[ModelRef, str], num_layers: LayerCounts
) -> dict[str, Any]:
    key = draft.key
    count = layer_count(num_layers, key.root.model, "")
    layers = [draft.cells.get(layer) for layer in range(count)]
    table = Table(draft.cells.get("embed"), layers, draft.cells.get("head"))
    groups, rows = build_groups(table, _filters(config))
    merge: dict[str, Any] = {
        "method": config.method,
        "base": names[key.base] if key.base else None,
        "models": [names[model] for model in key.models],
        "dtype": config.dtype or "float32",
        "options": dict(key.options),
        "groups": list(groups),
    }
    for index, column in enumerate(key.columns):
        values = [row[index] for row in rows]
        value = values[0] if len(set(values)) == 1 else values
        if column.model is None:
            merge[column.field] = value
        else:
            merge.setdefault(column.field, {})[names[column.model]] = value
    return merge


def _filters(config: MergekitConfig) -> list[str]:
    """The filters of the file that a group can carry, in the order of the file."""
    scopes = [*config.scopes]
    for slice_ in config.slices:
        scopes += [slice_.scope, *(item.scope for item in slice_.inputs)]
    words = [
        choice.filter
        for scope in scopes
        for choices in scope.settings.values()
        for choice in choices
        if choice.filter is not None and _WORD.fullmatch(choice.filter)
    ]
    return list(dict.fromkeys(words))


def _source_names(config: MergekitConfig) -> dict[ModelRef, str]:
    refs = [item.model for slice_ in config.slices for item in slice_.inputs]
    if isinstance(config.tokenizer, ModelRef):
        refs.append(config.tokenizer)
    elif config.tokenizer != "union" and config.base is not None:
        refs.append(config.base)
    names: dict[ModelRef, str] = {}
    for ref in refs:
        if ref not in names:
            names[ref] = source_name(ref, [*_RESERVED, *names.values()])
    return names


def _source(ref: ModelRef) -> dict[str, Any]:
    source: dict[str, Any] = {"model": ref.model, "revision": ref.revision}
    if ref.adapter is not None:
        source["adapter"] = {"model": ref.adapter, "revision": ref.adapter_revision}
    return source


def _tokenizer(
    config: MergekitConfig,
    names: dict[ModelRef, str],
    drafts: Sequence[_Draft],
    first: LayerRef,
) -> str | None:
    """The manifest's `tokenizer`; None if that of the embedding's model is meant."""
    if isinstance(config.tokenizer, ModelRef):
        return names[config.tokenizer]
    if config.tokenizer == "union":
        return "union"
    if config.base is None:
        if config.tokenizer == "base":
            raise ManifestError("is 'base', but there is no base_model", where="tokenizer_source")
        return None
    roots = {draft.name: names[draft.key.root] for draft in drafts}
    own = roots.get(first.model, first.model)
    return None if names[config.base] == own else names[config.base]


def _is_identity(
    config: MergekitConfig,
    path: Sequence[LayerRef],
    num_sources: int,
    num_merges: int,
    num_layers: LayerCounts,
) -> bool:
    """Would leaving the path out mean the same?"""
    if num_merges != 1 and (num_merges or num_sources != 1):
        return False
    key = _key(config, config.slices[0], ())
    count = layer_count(num_layers, key.root.model, config.slices[0].where)
    return list(path) == [LayerRef(path[0].model, layer) for layer in range(count)]
