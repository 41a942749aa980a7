"""What a running search says: a live bar on a terminal, one line per generation elsewhere."""

import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn


@dataclass
class Tally:
    """Counts of this process (a resumed run's earlier part is not in its rate).

    best: by objective, of the whole run; target: individuals the run will have, if it is known.
    """

    target: int | None = None
    num_done: int = 0
    num_here: int = 0
    generation: int = 0
    best: list[float] = field(default_factory=list)
    current: list[list[float]] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)

    def add(self, objectives: Sequence[float]) -> None:
        """One more individual of the current generation."""
        self.num_done += 1
        self.num_here += 1
        self.current.append(list(objectives))
        self.raise_best(objectives)

    def raise_best(self, objectives: Sequence[float]) -> None:
        """The best so far, in each objective by itself."""
        known = self.best or [-math.inf] * len(objectives)
        self.best = [max(a, b) for a, b in zip(known, objectives, strict=True)]

    def next_generation(self, generation: int) -> None:
        """Begin a generation."""
        self.generation = generation
        self.current = []

    @property
    def per_minute(self) -> float:
        """Individuals per minute."""
        return 60 * self.num_here / max(time.monotonic() - self.start, 1e-9)

    @property
    def eta_s(self) -> float | None:
        """Seconds to go at this rate, None while nobody knows."""
        if self.target is None or not self.num_here:
            return None
        return max(0, self.target - self.num_done) * 60 / self.per_minute

    def describe(self) -> str:
        """Such as `best 0.417 mean 0.250 | 52/min | ETA 1:05`."""
        columns = zip(*self.current, strict=True)
        mean = " ".join(f"{math.fsum(column) / len(column):.3f}" for column in columns)
        best = " ".join(f"{value:.3f}" for value in self.best)
        return (
            f"best {best or '-'} mean {mean or '-'} | {self.per_minute:.0f}/min | "
            f"ETA {_clock(self.eta_s)}"
        )


class Reporter(Protocol):
    """Who is told how a search goes."""

    def individual(self, tally: Tally) -> None:
        """An individual was scored."""
        ...

    def generation(self, tally: Tally) -> None:
        """A generation was saved."""
        ...

    def note(self, text: str) -> None:
        """Something worth a line."""
        ...


class Lines:
    """One line per generation on stderr."""

    def individual(self, tally: Tally) -> None:
        """Nothing: lines are per generation."""

    def generation(self, tally: Tally) -> None:
        """Its line."""
        self.note(f"generation {tally.generation}: {tally.describe()}")

    def note(self, text: str) -> None:
        """The line, at once."""
        print(text, file=sys.stderr, flush=True)


class Live:
    """A bar that stays in place."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task = progress.add_task("starting", total=None)

    def individual(self, tally: Tally) -> None:
        """Move the bar."""
        self._progress.update(
            self._task,
            total=tally.target,
            completed=tally.num_done,
            description=f"generation {tally.generation} {tally.describe()}",
        )

    def generation(self, tally: Tally) -> None:
        """The bar shows it already."""
        self.individual(tally)

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._progress.console.print(text, markup=False, highlight=False)


@contextmanager
def open_reporter() -> Iterator[Reporter]:
    """A live bar if stderr is a terminal, else lines."""
    if not sys.stderr.isatty():
        yield Lines()
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(20), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        yield Live(progress)


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
