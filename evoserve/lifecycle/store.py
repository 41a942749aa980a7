"""Recipes, plain names, aliases with their history, and pins in one SQLite file (WAL).

Every change is one transaction, so a process that is killed loses none that it has answered. One
process has the file at a time: a lock file beside it, which the system frees when the process ends.
"""

import fcntl
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from evoserve.database import transaction
from evoserve.errors import ConfigError, StateError
from evoserve.lifecycle.split import Target

SCHEMA_VERSION = 1
APPLICATION_ID = 0x45566F53  # "EVoS": tells our file from anybody else's

_SCHEMA = """
CREATE TABLE recipe (
    number INTEGER PRIMARY KEY,
    model_id TEXT NOT NULL UNIQUE,
    manifest TEXT NOT NULL,
    base TEXT,
    origin TEXT NOT NULL,
    created INTEGER NOT NULL,
    is_pinned INTEGER NOT NULL DEFAULT 0,
    is_wanted INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE name (
    name TEXT PRIMARY KEY,
    model_id TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE alias_change (
    alias TEXT NOT NULL,
    version INTEGER NOT NULL,
    at REAL NOT NULL,
    action TEXT NOT NULL,
    targets TEXT NOT NULL,
    PRIMARY KEY (alias, version)
) WITHOUT ROWID;
"""

_LOG = logging.getLogger(__name__)

Action = Literal["set", "rollback", "delete"]


@dataclass(frozen=True)
class StoredRecipe:
    """A registered recipe.

    manifest: its text; base: the folder that relative sources count from, None for the server's
    own; origin: who registered it; is_wanted: loaded when it was last seen.
    """

    model_id: str
    manifest: str
    base: str | None
    origin: str
    created: int
    is_pinned: bool = False
    is_wanted: bool = False


@dataclass(frozen=True)
class AliasChange:
    """One state of an alias: the targets from `at` (seconds since 1970) on; none once deleted."""

    alias: str
    version: int
    at: float
    action: Action
    targets: tuple[Target, ...]


class StateStore:
    """One open state file, or none on disk; used by one thread at a time."""

    def __init__(self, file: Path | None = None) -> None:
        """Open or create `file`; None keeps everything in memory.

        Raises ConfigError if another process has it, or if it is not one of ours. Writing raises
        StateError, and then nothing was written.
        """
        path = None if file is None else file.resolve()  # one lock, whatever link leads to it
        self._lock = None if path is None else _lock(path)
        try:
            # Not bound to the thread that opens it: a server may be made before its loop's thread.
            self._db = sqlite3.connect(
                path or ":memory:", isolation_level=None, check_same_thread=False
            )
            self._prepare()
        except sqlite3.Error as error:
            self.close()
            raise ConfigError(f"state file {file}: {error}") from None
        except ConfigError as error:
            self.close()
            raise ConfigError(f"state file {file}: {error}") from None

    def recipes(self) -> list[StoredRecipe]:
        """All recipes in order of registration."""
        rows = self._db.execute(
            "SELECT model_id, manifest, base, origin, created, is_pinned, is_wanted"
            " FROM recipe ORDER BY number"
        )
        return [
            StoredRecipe(model_id, manifest, base, origin, created, bool(pinned), bool(wanted))
            for model_id, manifest, base, origin, created, pinned, wanted in rows
        ]

    def save_recipe(self, recipe: StoredRecipe) -> None:
        """Add a recipe, or change what is stored of it."""
        fields = (recipe.manifest, recipe.base, recipe.origin, recipe.created)
        flags = (recipe.is_pinned, recipe.is_wanted)
        with _writing():
            self._db.execute(
                "INSERT INTO recipe (model_id, manifest, base, origin, created, is_pinned,"
                " is_wanted) VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (model_id) DO UPDATE SET"
                " manifest = excluded.manifest, base = excluded.base, origin = excluded.origin,"
                " is_pinned = excluded.is_pinned, is_wanted = excluded.is_wanted",
                (recipe.model_id, *fields, *flags),
            )

    def delete_recipe(self, model_id: str, heir: str | None = None) -> None:
        """Forget a recipe; the plain name that leads to it goes to `heir`, or with it."""
        with _writing(), transaction(self._db):
            self._db.execute("DELETE FROM recipe WHERE model_id = ?", (model_id,))
            if heir is None:
                self._db.execute("DELETE FROM name WHERE model_id = ?", (model_id,))
            else:
                self._db.execute(
                    "UPDATE name SET model_id = ? WHERE model_id = ?", (heir, model_id)
                )

    def names(self) -> dict[str, str]:
        """The recipe that each plain name means."""
        return dict(self._db.execute("SELECT name, model_id FROM name ORDER BY name"))

    def save_name(self, name: str, model_id: str) -> None:
        """Let a plain name mean a recipe."""
        with _writing():
            self._db.execute(
                "INSERT INTO name VALUES (?, ?) ON CONFLICT (name) DO UPDATE"
                " SET model_id = excluded.model_id",
                (name, model_id),
            )

    def aliases(self) -> list[AliasChange]:
        """The newest state of every alias that is not deleted, by name."""
        newest = (change for group in self._by_alias() for change in group[-1:])
        return [change for change in newest if change.action != "delete"]

    def history(self, alias: str) -> list[AliasChange]:
        """All states of an alias, the oldest first."""
        return self._changes("WHERE alias = ? ORDER BY version", (alias,))

    def change_alias(self, alias: str, action: Action, targets: Sequence[Target]) -> AliasChange:
        """Append a state to an alias's history; it is the present one from now on."""
        written = json.dumps([[target.model_id, target.weight] for target in targets])
        with _writing(), transaction(self._db):
            (version,) = self._db.execute(
                "SELECT coalesce(max(version), 0) + 1 FROM alias_change WHERE alias = ?", (alias,)
            ).fetchone()
            change = AliasChange(alias, version, time.time(), action, tuple(targets))
            row = (alias, version, change.at, action, written)
            self._db.execute("INSERT INTO alias_change VALUES (?, ?, ?, ?, ?)", row)
        return change

    def close(self) -> None:
        """Close the file and let others have it; twice is harmless."""
        if hasattr(self, "_db"):
            self._db.close()
        if self._lock is not None:
            self._lock.close()

    def _prepare(self) -> None:
        self._db.execute("PRAGMA busy_timeout = 2000")
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        (application,) = self._db.execute("PRAGMA application_id").fetchone()
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if tables and application != APPLICATION_ID:
            raise ConfigError("holds a database that is not EvoServe's state; name another file")
        if tables and version != SCHEMA_VERSION:
            raise ConfigError(f"has format {version}, this version reads {SCHEMA_VERSION}")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        if not tables:
            with transaction(self._db):
                for statement in _SCHEMA.split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                self._db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")

    def _by_alias(self) -> list[list[AliasChange]]:
        groups: dict[str, list[AliasChange]] = {}
        for change in self._changes("ORDER BY alias, version", ()):
            groups.setdefault(change.alias, []).append(change)
        return list(groups.values())

    def _changes(self, where: str, values: Sequence[object]) -> list[AliasChange]:
        rows = self._db.execute(
            f"SELECT alias, version, at, action, targets FROM alias_change {where}", tuple(values)
        )
        return [
            AliasChange(
                alias, version, at, action, tuple(Target(*pair) for pair in json.loads(targets))
            )
            for alias, version, at, action, targets in rows
        ]


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        _LOG.error("the state file cannot be written: %s", error)
        raise StateError(
            f"The server's state could not be written ({error}); nothing was changed. Make room "
            "for its state file, then try again."
        ) from None


def _lock(file: Path) -> IO[str]:
    """The lock beside `file`, held until it is closed. Raises ConfigError."""
    path = file.with_name(file.name + ".lock")
    try:
        if file.is_file() and file.stat().st_nlink > 1:  # under another name it has another lock
            raise ConfigError(f"state file {file} has hard links; remove the others")
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"state file {file}: {error.strerror or error}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        lock.seek(0)
        owner = lock.read().strip() or "unknown"
        lock.close()
        raise ConfigError(
            f"state file {file} is in use by process {owner}; stop it or name another file"
        ) from None
    lock.truncate(0)
    lock.write(str(os.getpid()))
    lock.flush()
    return lock
