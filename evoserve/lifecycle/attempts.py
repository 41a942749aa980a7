"""When a watched file is due: at once if it is new, later and later if it keeps failing."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LONGEST_WAIT_S = 60.0

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Attempt:
    """How it went with a file as it was at `stamp`; reasons: those of its failures."""

    stamp: Stamp
    is_done: bool
    due: float = 0.0
    wait_s: float = 0.0
    reasons: frozenset[str] = frozenset()


class Attempts:
    """The last attempt at each file; the wait doubles with each failure, up to a minute."""

    def __init__(self, first_wait_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._first_wait_s = first_wait_s
        self._clock = clock
        self._last: dict[Path, Attempt] = {}

    def is_due(self, file: Path, stamp: Stamp) -> bool:
        """Is there something to do for a file as it is now?"""
        last = self._last.get(file)
        if last is None or last.stamp != stamp:
            return True
        return not last.is_done and self._clock() >= last.due

    def succeed(self, file: Path, stamp: Stamp) -> None:
        """Let a file be until it changes."""
        self._last[file] = Attempt(stamp, is_done=True)

    def fail(self, file: Path, stamp: Stamp, reason: str) -> bool:
        """Try again later; is the reason one that the file as it is did not have before?"""
        last = self._last.get(file)
        if last is None or last.stamp != stamp or last.is_done:
            last = Attempt(stamp, is_done=False)
        wait_s = min(2 * last.wait_s or self._first_wait_s, LONGEST_WAIT_S)
        due = self._clock() + wait_s
        self._last[file] = Attempt(stamp, False, due, wait_s, last.reasons | {reason})
        return reason not in last.reasons

    def forget(self, file: Path) -> None:
        """Have a file be due at once."""
        self._last.pop(file, None)

    def keep(self, files: set[Path]) -> None:
        """Forget all other files."""
        self._last = {file: last for file, last in self._last.items() if file in files}
