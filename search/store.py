"""Runs, generations, individuals and per-item results in one SQLite file (WAL).

A generation is written in one transaction, optimizer state included: a killed run loses at most
the generation it was in, and evaluations that were finished inside that generation are kept in
`evaluation`, keyed by what was evaluated, so they are not done again.
"""

import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from evoserve.database import transaction
from evoserve.errors import InputError

SCHEMA_VERSION = 2

_SCHEMA = """
CREATE TABLE run (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL UNIQUE,
    config TEXT NOT NULL,
    created TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);
CREATE TABLE generation (
    run INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE,
    number INTEGER NOT NULL,
    state BLOB NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (run, number)
);
CREATE TABLE individual (
    run INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    position INTEGER NOT NULL,
    genotype BLOB NOT NULL,
    digest TEXT NOT NULL,
    manifest TEXT NOT NULL,
    objectives BLOB NOT NULL,
    items BLOB NOT NULL,
    PRIMARY KEY (run, generation, position),
    FOREIGN KEY (run, generation) REFERENCES generation(run, number) ON DELETE CASCADE
);
CREATE TABLE evaluation (
    digest TEXT NOT NULL,
    task TEXT NOT NULL,
    scores BLOB NOT NULL,
    outputs TEXT NOT NULL,
    seconds REAL NOT NULL,
    PRIMARY KEY (digest, task)
) WITHOUT ROWID;
"""


class StoreError(InputError):
    """The store file is not one, is of another version, or is in use."""


@dataclass(frozen=True)
class Individual:
    """One member of a generation.

    objectives: float64 (num_objectives,), higher is better; items: float64 (num_items,), scores
    of all counted tasks in a row, NaN where the candidate was not asked.
    """

    generation: int
    position: int
    genotype: NDArray[np.float64]
    digest: str
    manifest: str
    objectives: NDArray[np.float64]
    items: NDArray[np.float64]


@dataclass(frozen=True)
class Evaluation:
    """Per-item scores of one recipe on one task, by their digests.

    scores: float64 (num_items,); outputs: SHA-256 over the replies, to tell whether a re-run gave
    the same text; is_lasting: False if it failed by chance and another try may do better.
    """

    digest: str
    task: str
    scores: NDArray[np.float64]
    outputs: str
    seconds: float
    is_lasting: bool = True


class Store:
    """One open store file. Not shared between threads; other processes may read at any time."""

    def __init__(self, file: Path) -> None:
        """Open or create `file`. Raises StoreError for another version or a foreign file."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self.file = file
        try:
            self._db = sqlite3.connect(file, isolation_level=None, timeout=30)
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.execute("PRAGMA foreign_keys = ON")
            self._create()
        except sqlite3.DatabaseError as error:
            raise StoreError(f"{file}: not a store of evosearch: {error}") from None

    def close(self) -> None:
        """Close the file; the store cannot be used afterwards."""
        self._db.close()

    def open_run(self, name: str, config: str) -> int:
        """The run's id, made if new. Raises StoreError if it was begun with another config."""
        self._db.execute("INSERT OR IGNORE INTO run (name, config) VALUES (?, ?)", (name, config))
        run, stored = self._db.execute(
            "SELECT id, config FROM run WHERE name = ?", (name,)
        ).fetchone()
        if stored != config:
            raise StoreError(
                f"{self.file}: run '{name}' was begun with another config; choose another name"
            )
        return int(run)

    def runs(self) -> list[tuple[int, str, str]]:
        """(id, name, config) of every run, oldest first."""
        return list(self._db.execute("SELECT id, name, config FROM run ORDER BY id"))

    def save_generation(
        self, run: int, state: bytes, individuals: Sequence[Individual], seconds: float
    ) -> None:
        """Append a whole generation and the optimizer's state after it, or nothing at all."""
        number = individuals[0].generation
        rows = [_row(run, individual) for individual in individuals]
        with transaction(self._db):
            self._db.execute(
                "INSERT INTO generation (run, number, state, seconds) VALUES (?, ?, ?, ?)",
                (run, number, state, seconds),
            )
            self._db.executemany("INSERT INTO individual VALUES (?, ?, ?, ?, ?, ?, ?, ?)", rows)

    def last_generation(self, run: int) -> tuple[int, bytes] | None:
        """Number and optimizer state of the newest whole generation."""
        row = self._db.execute(
            "SELECT number, state FROM generation WHERE run = ? ORDER BY number DESC LIMIT 1",
            (run,),
        ).fetchone()
        return (int(row[0]), bytes(row[1])) if row else None

    def individuals(self, run: int) -> list[Individual]:
        """Every individual of the run, by generation and position."""
        rows = self._db.execute(
            "SELECT generation, position, genotype, digest, manifest, objectives, items "
            "FROM individual WHERE run = ? ORDER BY generation, position",
            (run,),
        )
        return [
            Individual(g, p, _numbers(x), digest, manifest, _numbers(objectives), _numbers(items))
            for g, p, x, digest, manifest, objectives, items in rows
        ]

    def save_evaluation(self, evaluation: Evaluation) -> None:
        """Keep a finished evaluation; the first one of a recipe on a task stays."""
        self._db.execute(
            "INSERT OR IGNORE INTO evaluation VALUES (?, ?, ?, ?, ?)",
            (
                evaluation.digest,
                evaluation.task,
                evaluation.scores.astype("<f8").tobytes(),
                evaluation.outputs,
                evaluation.seconds,
            ),
        )

    def evaluation(self, digest: str, task: str) -> Evaluation | None:
        """What is known of a recipe (manifest digest) on a task (task digest)."""
        row = self._db.execute(
            "SELECT scores, outputs, seconds FROM evaluation WHERE digest = ? AND task = ?",
            (digest, task),
        ).fetchone()
        return Evaluation(digest, task, _numbers(row[0]), row[1], row[2]) if row else None

    @contextmanager
    def lock_run(self, name: str) -> Iterator[None]:
        """Hold the run for this process. Raises StoreError if another process has it."""
        key = hashlib.sha256(name.encode()).hexdigest()[:16]
        lock = self.file.with_name(f"{self.file.name}-{key}.lock")
        handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield
        except BlockingIOError:
            raise StoreError(f"run '{name}' of {self.file} is in use by another process") from None
        finally:
            os.close(handle)

    def _create(self) -> None:
        with transaction(self._db):
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                for statement in _SCHEMA.split(";\n"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif version != SCHEMA_VERSION:
                raise StoreError(
                    f"{self.file}: store version {version}, this program reads {SCHEMA_VERSION}"
                )


def by_generation(individuals: Sequence[Individual]) -> list[list[Individual]]:
    """Each generation of a run's individuals, in order."""
    return [list(found) for _, found in groupby(individuals, key=lambda one: one.generation)]


def _row(run: int, individual: Individual) -> tuple[object, ...]:
    return (
        run,
        individual.generation,
        individual.position,
        individual.genotype.astype("<f8").tobytes(),
        individual.digest,
        individual.manifest,
        individual.objectives.astype("<f8").tobytes(),
        individual.items.astype("<f8").tobytes(),
    )


def _numbers(blob: bytes) -> NDArray[np.float64]:
    return np.frombuffer(blob, dtype="<f8").astype(np.float64)
