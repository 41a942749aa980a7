"""Recipes drawn in the terminal: the path as lanes, merge coefficients as a table."""

from collections.abc import Sequence

from rich.table import Table

from evoserve.manifest.parts import MergeSpec, PerGroup
from evoserve.manifest.refs import LayerRef, format_path

_COEFFICIENTS = ("weights", "densities", "gammas", "epsilons")
_LANE_WIDTH = 64


def draw_path(steps: Sequence[LayerRef]) -> list[str]:
    """One lane per model, one column per hop; a digit is the layer's number modulo 10.

    Long paths go on below, `_LANE_WIDTH` hops at a time.
    """
    models = list(dict.fromkeys(step.model for step in steps))
    label = max(len(name) for name in (*models, "hop"))
    lines: list[str] = []
    for start in range(0, len(steps), _LANE_WIDTH):
        chunk = steps[start : start + _LANE_WIDTH]
        lines.append(f"{'hop':<{label}}  {_ruler(start, len(chunk))}")
        for model in models:
            cells = (str(step.layer % 10) if step.model == model else "·" for step in chunk)
            lines.append(f"{model:<{label}}  {''.join(cells)}")
    return lines


def describe_scales(steps: Sequence[LayerRef], scales: Sequence[float]) -> str:
    """The path as text, with every scale that is not 1 before the step whose input it scales."""
    parts: list[str] = []
    run: list[LayerRef] = []
    for step, scale in zip(steps, scales, strict=True):
        if scale != 1.0:
            parts += format_path(run)
            parts.append(f"x{scale:.4g}")
            run = []
        run.append(step)
    return " ".join([*parts, *format_path(run)])


def coefficient_table(name: str, merge: MergeSpec) -> Table:
    """Groups down, one column per coefficient and model."""
    base = f" on {merge.base}" if merge.base else ""
    table = Table(title=f"{name}: {merge.method}{base}", title_justify="left")
    table.add_column("group")
    columns: list[PerGroup] = []
    for field in _COEFFICIENTS:
        values: dict[str, PerGroup] = getattr(merge, field)
        for model in sorted(values):
            table.add_column(f"{field}\n{model}", justify="right")
            columns.append(values[model])
    for field in ("t", "split"):
        value: PerGroup | None = getattr(merge, field)
        if value is not None:
            table.add_column(field, justify="right")
            columns.append(value)
    for index, group in enumerate(merge.groups):
        table.add_row(group, *(f"{_at(column, index):.4g}" for column in columns))
    return table


def _at(value: PerGroup, index: int) -> float:
    return value[index] if isinstance(value, tuple) else value


def _ruler(start: int, count: int) -> str:
    marks = [" "] * count
    for hop in range(start, start + count):
        if hop % 10 == 0:
            for offset, digit in enumerate(str(hop)):
                if hop - start + offset < count:
                    marks[hop - start + offset] = digit
    return "".join(marks).rstrip()
