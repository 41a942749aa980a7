"""What a page shows, as plain data; drawing needs nothing else."""

from dataclasses import dataclass

Values = tuple[float, ...]


@dataclass(frozen=True)
class Series:
    """One objective over generations, higher is better; every tuple is (num_generations,)."""

    name: str
    best_so_far: Values
    best: Values
    mean: Values
    worst: Values


@dataclass(frozen=True)
class HeatMap:
    """values: one row per group of tensors, one column per source; NaN where there is none."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    values: tuple[Values, ...]


@dataclass(frozen=True)
class PathPicture:
    """steps: (model, layer, scale) in the order a token passes them."""

    title: str
    steps: tuple[tuple[str, int, float], ...]


@dataclass(frozen=True)
class ScoreMap:
    """scores: one row per recipe, one column per item; NaN marks an item that was left out."""

    title: str
    rows: tuple[str, ...]
    scores: tuple[Values, ...]


@dataclass(frozen=True)
class FrontPicture:
    """points: (num_individuals, num_objectives); on_front: indices of points; hypervolumes: by
    generation, above the nadir of the run."""

    objectives: tuple[str, ...]
    points: tuple[Values, ...]
    on_front: tuple[int, ...]
    hypervolumes: Values


@dataclass(frozen=True)
class Table:
    """Cells as text; the first column names the row."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


Part = Series | HeatMap | PathPicture | ScoreMap | FrontPicture | Table


@dataclass(frozen=True)
class Report:
    """One run (or any chapter) of a page."""

    title: str
    note: str
    parts: tuple[Part, ...]
