"""SQLite as our stores use it: connections in autocommit mode, transactions by name."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All that is written meanwhile, or nothing; others that want to write wait from the start."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite itself may have rolled back, for one on a full disk
            db.execute("ROLLBACK")
        raise
