"""What a tensor of a source or merge is made of: expressions, keyed by what determines them.

Two expressions with the same key have the same bits, so a runtime holds them once.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from evoserve.errors import IncompatibleSources, ManifestError, SourceError
from evoserve.manifest.parts import MergeSpec
from evoserve.manifest.refs import Group, parse_group
from evoserve.merge.coefficients import (
    Coefficients,
    Options,
    resolve_coefficients,
    resolve_options,
)
from evoserve.merge.shortcuts import same_as_input, used_models
from evoserve.sources.architecture import (
    EMBED,
    LM_HEAD,
    split_layer_name,
    tensor_shapes,
)
from evoserve.sources.checkpoint import Checkpoint, TensorReader
from evoserve.sources.digest import content_state
from evoserve.sources.recipe import Recipe

TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_TABLES = (EMBED, LM_HEAD)


@dataclass(frozen=True)
class Leaf:
    """A tensor of a source; `rows`, int64, picks rows of a vocabulary table (-1: no such row)."""

    reader: TensorReader
    name: str
    dtype: torch.dtype
    rows: torch.Tensor | None = None


@dataclass(frozen=True)
class Merge:
    """A method applied to the inputs, base first; the result is rounded to `dtype`."""

    method: str
    inputs: tuple["Expression", ...]
    coefficients: Coefficients
    dtype: torch.dtype


@dataclass(frozen=True)
class Expression:
    """How to make one tensor of `shape`; `key` is a SHA-256 of everything that determines it."""

    key: str
    shape: tuple[int, ...]
    node: Leaf | Merge = field(compare=False, repr=False)


class RecipeTensors:
    """The tensors of every source and merge of a recipe, as expressions; reads headers only.

    vocabulary_rows: for each source the int64 rows of its embedding and head, one per row of the
    result, -1 where it lacks the token; None (or no entry) takes the source's rows as they are.
    """

    def __init__(
        self, recipe: Recipe, vocabulary_rows: Mapping[str, torch.Tensor | None] | None = None
    ) -> None:
        self._recipe = recipe
        rows = vocabulary_rows or {}
        self._rows = {name: given for name, given in rows.items() if given is not None}
        self._identities = {n: _identity(each) for n, each in recipe.checkpoints.items()}
        self._row_digests = {name: _row_digest(given) for name, given in self._rows.items()}
        merges = recipe.manifest.merges
        self._options: dict[str, Options] = {n: resolve_options(m) for n, m in merges.items()}
        self._groups = {n: [parse_group(g) for g in m.groups] for n, m in merges.items()}
        self._shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        self._splits: dict[tuple[str, int], dict[str, int]] = {}
        self._known: dict[tuple[str, str], Expression] = {}

    def expression(self, model: str, name: str) -> Expression:
        """How to make tensor `name` (in full) of source or merge `model`.

        Raises ManifestError for an unknown model, a tensor that no group matches and coefficients
        that make no sense together, SourceError for a tensor the model does not have,
        IncompatibleSources for shapes that differ.
        """
        found = self._known.get((model, name))
        if found is None:
            manifest = self._recipe.manifest
            if model in manifest.merges:
                found = self._merge(model, manifest.merges[model], name)
            elif model in manifest.sources:
                found = self._leaf(model, name)
            else:
                raise ManifestError(f"unknown model '{model}'")
            self._known[model, name] = found
        return found

    def _leaf(self, model: str, name: str) -> Expression:
        checkpoint = self._recipe.checkpoints[model]
        stored = name
        if name == LM_HEAD and checkpoint.architecture.tie_word_embeddings:
            stored = EMBED
        info = checkpoint.tensors.info(stored)
        described: dict[str, object] = {
            "source": self._identities[model],
            "tensor": stored,
        }
        shape, rows = info.shape, None
        if name in _TABLES and model in self._rows:
            rows = self._rows[model]
            _check_rows(model, name, rows, shape)
            shape = (len(rows), *shape[1:])
            described["rows"] = self._row_digests[model]
        return Expression(
            _key(described), shape, Leaf(checkpoint.tensors, stored, info.dtype, rows)
        )

    def _merge(self, model: str, spec: MergeSpec, name: str) -> Expression:
        inputs = tuple(self.expression(each, name) for each in spec.reads)
        for other, each in zip(spec.reads, inputs, strict=True):
            if each.shape != inputs[0].shape:
                raise IncompatibleSources(
                    f"merge '{model}', tensor '{name}': shape {list(inputs[0].shape)} of "
                    f"'{spec.reads[0]}' != {list(each.shape)} of '{other}'"
                )
        group = self._group(model, spec, name)
        split_at = self._split_at(model, spec, group, name)
        coefficients = resolve_coefficients(spec, self._options[model], group, name, split_at)
        _check_coefficients(model, spec, group, coefficients)
        dtype = TORCH_DTYPES[spec.dtype]
        merge = Merge(spec.method, inputs, coefficients, dtype)
        return simplify(merge, mapped=name in _TABLES and bool(self._rows))

    def _group(self, model: str, spec: MergeSpec, name: str) -> int:
        index = _first_group(self._groups[model], name)
        if index is None:
            raise ManifestError(
                f"no group of merge '{model}' matches tensor '{name}'; groups: "
                f'{", ".join(spec.groups)}; add "all" at the end to catch the rest',
                where=f"merges.{model}.groups",
            )
        return index

    def _split_at(self, model: str, spec: MergeSpec, group: int, name: str) -> int:
        """Where the group's split point falls in this tensor, as a flat index."""
        if spec.method != "split_slerp":
            return 0
        starts = self._splits.get((model, group))
        if starts is None:
            starts = self._splits[model, group] = self._starts(model, group)
        split = spec.coefficients(spec.inputs[0], group)["split"]
        size = torch.Size(self._model_shapes(model)[name]).numel()
        return min(max(round(split * starts[""]) - starts[name], 0), size)

    def _starts(self, model: str, group: int) -> dict[str, int]:
        """Offset of each tensor of the group along its flattened parameters; "" is their sum."""
        starts, total = {}, 0
        for name, shape in self._model_shapes(model).items():
            if _first_group(self._groups[model], name) == group:
                starts[name] = total
                total += torch.Size(shape).numel()
        return {**starts, "": total}

    def _model_shapes(self, model: str) -> dict[str, tuple[int, ...]]:
        if model not in self._shapes:
            shapes = tensor_shapes(self._recipe.architecture(model))
            for rows in self._rows.values():
                for table in _TABLES:
                    if table in shapes:
                        shapes[table] = (len(rows), *shapes[table][1:])
            self._shapes[model] = shapes
        return self._shapes[model]


def simplify(merge: Merge, *, mapped: bool = False) -> Expression:
    """The merge without inputs that have no influence; an input itself if the two are equal.

    mapped: rows are picked by token, and a model of weight 0 may still fill in a missing row.
    """
    shape = merge.inputs[0].shape
    c = merge.coefficients
    same = same_as_input(merge.method, c, torch.Size(shape).numel())
    if same is not None and not mapped and _is_lossless(merge.inputs[same], merge.dtype):
        return merge.inputs[same]
    if not mapped:
        used = used_models(merge.method, c)
        kept = (*range(c.first), *(k + c.first for k in used))
        inputs = tuple(merge.inputs[i] for i in kept)
        merge = Merge(merge.method, inputs, c.select(used), merge.dtype)
    described = {
        "merge": merge.method,
        "inputs": [each.key for each in merge.inputs],
        "has_base": c.has_base,
        "dtype": str(merge.dtype),
        **merge.coefficients.describe(merge.method),
    }
    return Expression(_key(described), shape, merge)


def _is_lossless(expression: Expression, dtype: torch.dtype) -> bool:
    """Does rounding to `dtype` keep every value of the expression?"""
    return expression.node.dtype == dtype or (
        dtype == torch.float32 and expression.node.dtype in (torch.bfloat16, torch.float16)
    )


def _first_group(groups: list[Group], name: str) -> int | None:
    layer = split_layer_name(name)
    if layer is not None:
        part, number = "layers", layer[0]
    else:
        part, number = ("embed" if name == EMBED else "head"), None
    matching = (i for i, group in enumerate(groups) if group.matches(part, number, name))
    return next(matching, None)


def _check_coefficients(model: str, spec: MergeSpec, group: int, c: Coefficients) -> None:
    where = f"merges.{model}"
    divides = spec.method == "karcher" or (spec.method == "linear" and c.options.normalize)
    if divides and abs(sum(c.weights)) < 1e-8:
        raise ManifestError(
            f"weights {list(c.weights)} of group '{spec.groups[group]}' sum to 0 and cannot be "
            f"normalised by {spec.method}",
            where=f"{where}.weights",
        )
    if spec.method not in ("della", "della_linear"):
        return
    for name, density, epsilon in zip(spec.inputs, c.densities, c.epsilons, strict=True):
        if density < 1 and not 0 < density - epsilon <= density + epsilon < 1:
            raise ManifestError(
                f"density {density} -+ epsilon {epsilon} of model '{name}' must stay inside (0, 1)",
                where=f"{where}.epsilons",
            )


def _identity(checkpoint: Checkpoint) -> list[str]:
    """A source's verified digest, or what its files (and its adapter's) are on this machine now."""
    if checkpoint.digest is not None:
        return [checkpoint.digest]
    folders = [checkpoint.folder, *([checkpoint.adapter] if checkpoint.adapter else [])]
    return [state for folder in folders for state in content_state(folder)]


def _check_rows(model: str, name: str, rows: torch.Tensor, shape: tuple[int, ...]) -> None:
    if rows.dtype != torch.int64 or rows.ndim != 1:
        raise SourceError(f"rows of source '{model}' must be int64 of one dimension")
    if len(rows) and not -1 <= int(rows.min()) <= int(rows.max()) < shape[0]:
        raise SourceError(
            f"rows of source '{model}' reach from {int(rows.min())} to {int(rows.max())}, but "
            f"tensor '{name}' has rows 0 to {shape[0] - 1}"
        )


def _row_digest(rows: torch.Tensor) -> str:
    return hashlib.sha256(rows.contiguous().numpy().tobytes()).hexdigest()


def _key(described: Mapping[str, object]) -> str:
    text = json.dumps(described, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
