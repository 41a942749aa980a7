"""One coefficient over all tensors as a mergekit setting: a number, or numbers behind filters."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from evoserve.errors import ManifestError
from evoserve.manifest.parts import MergeSpec
from evoserve.manifest.refs import Group, find_group, parse_group
from evoserve.manifest.tensor_names import EMBED_TENSORS, HEAD_TENSORS, LAYER_TENSORS, full_name

MAX_LISTED_LAYERS = 1024
Setting = float | list[dict[str, object]]
_Values = Mapping[str, float]


@dataclass(frozen=True)
class Layers:
    """Which tensors a setting speaks of: layers [start, stop), the embedding, the head.

    stop: None for all there are; shift: what is added to a layer's number in the name that the
    filter sees.
    """

    start: int
    stop: int | None
    shift: int
    has_embed: bool
    has_head: bool


def setting(merge: MergeSpec, field: str, model: str, layers: Layers, where: str) -> Setting:
    """`field` of `model` on all tensors. Raises ManifestError if a tensor lies in no group."""
    groups = [parse_group(text) for text in merge.groups]
    numbers = [merge.coefficients(model, index)[field] for index in range(len(groups))]
    if len(set(numbers)) == 1:
        return numbers[0]
    listed = _listed_layers(groups, layers, where)
    cells = []
    if layers.has_embed:
        cells.append(("", _values(groups, numbers, "embed", None, where)))
    for layer in listed:
        prefix = f"layers.{layer + layers.shift}."
        cells.append((prefix, _values(groups, numbers, "layers", layer, where)))
    if layers.has_head:
        cells.append(("", _values(groups, numbers, "head", None, where)))
    others = None
    if layers.stop is None:
        others = _others(groups, numbers, len(listed))
    return _write(cells, others)


def _listed_layers(groups: Sequence[Group], layers: Layers, where: str) -> range:
    """The layers that need filters of their own: all, or those that some group counts up to."""
    stop = layers.stop
    if stop is None:
        stop = max((group.stop for group in groups if group.stop is not None), default=0)
    if stop - layers.start > MAX_LISTED_LAYERS:
        raise ManifestError(
            f"{stop - layers.start} layers are too many to list one by one, the limit is "
            f"{MAX_LISTED_LAYERS}; write the last group as 'layers'",
            where=where,
        )
    return range(layers.start, stop)


def _values(
    groups: Sequence[Group], numbers: Sequence[float], part: str, layer: int | None, where: str
) -> _Values:
    names = {"embed": EMBED_TENSORS, "head": HEAD_TENSORS}.get(part, LAYER_TENSORS)
    found = {}
    for name in names:
        full = name if layer is None else full_name(layer, name)
        index = find_group(groups, part, layer, full)
        if index is None:
            raise ManifestError(f"no group holds tensor {full}", where=where)
        found[name] = numbers[index]
    return found


def _others(groups: Sequence[Group], numbers: Sequence[float], layer: int) -> _Values | None:
    """The values of layers beyond those listed; None if no group reaches them."""
    found = {}
    for name in LAYER_TENSORS:
        index = find_group(groups, "layers", layer, full_name(layer, name))
        if index is None:
            return None
        found[name] = numbers[index]
    return found


def _write(cells: Sequence[tuple[str, _Values]], others: _Values | None) -> Setting:
    """Filters in order of precedence: the cells', those of other layers, then the rest."""
    everywhere = [value for _, values in cells for value in values.values()]
    rest = _most_common(list(others.values()) if others else everywhere)
    is_closed = others is not None and len(set(others.values())) > 1
    entries: list[tuple[str, float]] = []
    for prefix, values in cells:
        entries += _entries(prefix, values, rest, is_closed=is_closed)
    if others is not None:
        entries += _entries("", others, rest, is_closed=False)
    if not entries:
        return rest
    return [{"filter": word, "value": value} for word, value in entries] + [{"value": rest}]


def _entries(
    prefix: str, values: _Values, rest: float, *, is_closed: bool
) -> Iterator[tuple[str, float]]:
    """Filters for one layer (or embedding or head); closed: no later filter may be reached."""
    own = _most_common(list(values.values())) if prefix else rest
    left = dict(values)
    for word in _words(values):
        hit = [name for name in left if name.startswith(word)]
        found = {left[name] for name in hit}
        if len(found) == 1 and (own not in found or (is_closed and not prefix)):
            yield prefix + word, found.pop()
            for name in hit:
                del left[name]
    if prefix and left and (is_closed or own != rest):
        yield prefix, own


def _words(values: _Values) -> list[str]:
    """Beginnings of the names, from wide to narrow."""
    blocks = [name.partition(".")[0] + "." for name in values if not name.startswith("model.")]
    modules = [name.rpartition(".")[0] + "." for name in values]
    return list(dict.fromkeys([*blocks, *modules, *values]))


def _most_common(values: Sequence[float]) -> float:
    return Counter(values).most_common(1)[0][0]
