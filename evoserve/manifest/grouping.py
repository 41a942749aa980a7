"""From coefficients per tensor to the few groups of a manifest that say the same."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

Row = tuple[float, ...]
Rows = Mapping[str, Row]
Choices = tuple[tuple[str | None, Row], ...]

_FILTERS = ("self_attn", "mlp", "layernorm")


@dataclass(frozen=True)
class Table:
    """The coefficients of every tensor of a model, by name within its part.

    embed, head: by full name; layers: by layer, then by short name. None where nothing is asked,
    so that anything may stand there; one layer at least is given.
    """

    embed: Rows | None
    layers: Sequence[Rows | None]
    head: Rows | None


def build_groups(table: Table, words: Sequence[str]) -> tuple[tuple[str, ...], list[Row]]:
    """Groups, and the row of each; the first group that holds a tensor is the one that counts.

    `words` are the filters to prefer, such as those of the file that is imported.
    """
    embed, layers, head = _filled(table)
    choices = [_choices(rows, words) for rows in (embed, *layers, head)]
    if len(set(choices)) == 1 and len(choices[0]) == 1:
        return ("all",), [choices[0][0][1]]
    named = [("embed", choices[0]), *_layer_runs(choices[1:-1]), ("head", choices[-1])]
    pairs = [
        (part if word is None else f"{part}.{word}", row)
        for part, found in named
        for word, row in found
    ]
    return tuple(name for name, _ in pairs), [row for _, row in pairs]


def _filled(table: Table) -> tuple[Rows, list[Rows], Rows]:
    """What does not matter becomes like its neighbour, which makes fewer groups."""
    last = next(rows for rows in table.layers if rows is not None)
    layers: list[Rows] = []
    for rows in table.layers:
        last = last if rows is None else rows
        layers.append(last)
    embed = table.embed or {"": _common(layers[0])}
    return embed, layers, table.head or {"": _common(layers[-1])}


def _common(rows: Rows) -> Row:
    return Counter(rows.values()).most_common(1)[0][0]


def _layer_runs(choices: Sequence[Choices]) -> Iterator[tuple[str, Choices]]:
    start = 0
    for found, run in groupby(choices):
        stop = start + len(list(run))
        if stop - start == len(choices):
            yield "layers", found
        elif stop - start == 1:
            yield f"layers[{start}]", found
        else:
            yield f"layers[{start}:{stop}]", found
        start = stop


def _choices(rows: Rows, words: Sequence[str]) -> Choices:
    """Filters with their rows in order of precedence, the last one without a filter."""
    free = [row for name, row in rows.items() if not any(word in name for word in words)]
    rest = Counter(free or rows.values()).most_common(1)[0][0]
    left = dict(rows)
    found: list[tuple[str | None, Row]] = []
    for word in (*words, *_FILTERS, *_own_words(rows)):
        hit = [name for name in left if word in name]
        values = {left[name] for name in hit}
        if len(values) == 1 and rest not in values:
            found.append((word, left[hit[0]]))
            for name in hit:
                del left[name]
    return (*found, (None, rest))


def _own_words(rows: Rows) -> list[str]:
    """Each tensor's module, then each tensor's whole name, so that any rows can be told apart."""
    modules = [name.rpartition(".")[0] for name in rows]
    return [word for word in dict.fromkeys([*modules, *rows]) if word]
