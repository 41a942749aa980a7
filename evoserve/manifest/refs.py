"""The little languages inside a manifest: layer references, path steps and tensor groups."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby

MAX_PATH_STEPS = 4096
MAX_LAYER = 65536

_NAME = r"[A-Za-z_][A-Za-z0-9_\-]*"
_NUMBER = r"0|[1-9][0-9]*"
_SPAN = rf"\[({_NUMBER})(?::({_NUMBER}))?\]"
_STEP = re.compile(rf"({_NAME}){_SPAN}")
_GROUP = re.compile(rf"(all|embed|head|layers)(?:{_SPAN})?(?:\.([A-Za-z0-9_.]+))?")
NAME_PATTERN = rf"^{_NAME}$"


@dataclass(frozen=True, order=True)
class LayerRef:
    """Layer `layer` (from 0) of the source or merge called `model`."""

    model: str
    layer: int

    def __str__(self) -> str:
        return f"{self.model}[{self.layer}]"


@dataclass(frozen=True)
class Group:
    """A set of tensors that share merge coefficients: a `part` of the model, maybe filtered.

    part: all, embed (input embedding), head (final norm and LM head) or layers;
    start, stop: half-open range of layers, or None for every layer;
    filter: a substring that the tensor's name must hold, as in mergekit; None matches all.
    """

    part: str
    start: int | None = None
    stop: int | None = None
    filter: str | None = None

    def matches(self, part: str, layer: int | None, tensor_name: str) -> bool:
        """Is the tensor, which lies in `part` (embed, head or layers) at `layer`, in the group?"""
        if self.filter is not None and self.filter not in tensor_name:
            return False
        if self.part == "all":
            return True
        if self.part != part:
            return False
        if self.start is None or self.stop is None or layer is None:
            return True
        return self.start <= layer < self.stop


def find_group(
    groups: Sequence[Group], part: str, layer: int | None, tensor_name: str
) -> int | None:
    """Number of the first group that holds the tensor (see `Group.matches`), None if none does."""
    for index, group in enumerate(groups):
        if group.matches(part, layer, tensor_name):
            return index
    return None


def parse_step(text: str) -> list[LayerRef]:
    """The layers of one path step: `ps[3]` is one, `ps[0:4]` is the half-open range 0..3.

    Raises ValueError that says what is wrong with `text`.
    """
    match = _STEP.fullmatch(text)
    if match is None:
        raise ValueError(f"{_quote(text)} is not a path step such as 'ps[3]' or 'ps[0:4]'")
    start, stop = _span(text, match.group(2), match.group(3))
    return [LayerRef(match.group(1), layer) for layer in range(start, stop)]


def parse_layer(text: str) -> LayerRef:
    """One layer, such as `ps[3]`. Raises ValueError."""
    layers = parse_step(text)
    if len(layers) != 1 or ":" in text:
        raise ValueError(f"{_quote(text)} must name one layer, such as 'ps[3]'")
    return layers[0]


def parse_group(text: str) -> Group:
    """A group such as `all`, `embed`, `head`, `layers`, `layers[0:3]` or `layers[0:3].self_attn`.

    Raises ValueError that says what is wrong with `text`.
    """
    match = _GROUP.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{_quote(text)} is not a group: use all, embed, head, layers, layers[3], layers[0:3], "
            "each with an optional filter such as .self_attn or .mlp"
        )
    part, first, last, filter_ = match.groups()
    if first is None:
        return Group(part, filter=filter_)
    if part != "layers":
        raise ValueError(f"{_quote(text)}: only layers take a range")
    start, stop = _span(text, first, last)
    return Group(part, start, stop, filter_)


def format_path(steps: Sequence[LayerRef]) -> list[str]:
    """The shortest list of steps that `parse_step` expands to `steps` again."""
    keyed = enumerate(steps)
    runs = groupby(keyed, key=lambda item: (item[1].model, item[1].layer - item[0]))
    return [_format_run([ref for _, ref in run]) for _, run in runs]


def expand_path(steps: Iterable[str]) -> list[LayerRef]:
    """All layers that the path visits, in order. Raises ValueError for a malformed or huge path."""
    layers: list[LayerRef] = []
    for text in steps:
        layers.extend(parse_step(text))
        if len(layers) > MAX_PATH_STEPS:
            raise ValueError(f"the path has more than {MAX_PATH_STEPS} steps")
    return layers


def _span(text: str, first: str, last: str | None) -> tuple[int, int]:
    if len(first) > 6 or len(last or "") > 6:
        raise ValueError(f"{_quote(text)}: layer numbers must be below {MAX_LAYER}")
    start = int(first)
    stop = start + 1 if last is None else int(last)
    if stop <= start:
        raise ValueError(f"{_quote(text)} is empty: the range is half open, stop must exceed start")
    if stop > MAX_LAYER:
        raise ValueError(f"{_quote(text)}: layer numbers must be below {MAX_LAYER}")
    return start, stop


def _format_run(run: Sequence[LayerRef]) -> str:
    first = run[0]
    if len(run) == 1:
        return str(first)
    return f"{first.model}[{first.layer}:{first.layer + len(run)}]"


def _quote(text: str) -> str:
    """`text` for a message: in quotes, on one line, not too long."""
    return repr(text) if len(text) <= 60 else repr(text[:57] + "...")
