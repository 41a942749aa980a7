"""What happens to recipes and aliases, told to whoever listens."""

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["recipe", "alias", "watch"]

KEPT = 256
MAX_BEHIND = 1024


@dataclass(frozen=True)
class Event:
    """number counts from 1; at: seconds since 1970; subject: a recipe, alias or file."""

    number: int
    at: float
    kind: Kind
    subject: str
    data: dict[str, object] = field(default_factory=dict)


class EventLog:
    """The last events, and queues of those who follow; used in the event loop only.

    boot: tells the numbers of this log from those of one before a restart.
    """

    def __init__(self) -> None:
        self._last: deque[Event] = deque(maxlen=KEPT)
        self._followers: list[asyncio.Queue[Event | None]] = []
        self._listeners: list[Callable[[Event], None]] = []
        self._count = 0
        self.boot = secrets.token_hex(4)

    def publish(self, kind: Kind, subject: str, **data: object) -> None:
        """Tell all followers; one that is too far behind gets None, the end, instead."""
        self._count += 1
        event = Event(self._count, time.time(), kind, subject, data)
        self._last.append(event)
        for listener in self._listeners:
            listener(event)
        for queue in list(self._followers):
            is_behind = queue.qsize() >= MAX_BEHIND
            queue.put_nowait(None if is_behind else event)
            if is_behind:
                self._followers.remove(queue)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Call `listener` at once with each event from now on; it must not raise."""
        self._listeners.append(listener)

    def id_of(self, event: Event) -> str:
        """What a follower gives back to go on after an event."""
        return f"{self.boot}-{event.number}"

    def place(self, event_id: str) -> int | None:
        """The number to go on after: 0 if the id is from before a restart, None if it is none."""
        boot, dash, digits = event_id.rpartition("-")
        if not (digits.isascii() and digits.isdecimal() and len(digits) < 19):
            return None
        return int(digits) if boot == self.boot or not dash else 0

    @property
    def start(self) -> str:
        """The id before the oldest event that is kept."""
        return f"{self.boot}-{self._last[0].number - 1 if self._last else 0}"

    def is_gap(self, event_id: str) -> bool:
        """Is something lost between an id and the oldest event that is kept?

        What followed an id from before a restart cannot be known, so it counts as lost.
        """
        after = self.place(event_id)
        if after is None:
            return False
        boot, dash, _ = event_id.rpartition("-")
        is_old = after > self._count or (bool(dash) and boot != self.boot)
        return is_old or (bool(self._last) and after + 1 < self._last[0].number)

    @contextmanager
    def follow(self, after: int | None = None) -> Iterator[asyncio.Queue[Event | None]]:
        """A queue of events from now on, preceded by the kept ones numbered above `after`.

        A number that was not given yet is from before a restart: all that are kept come after it.
        """
        queue: asyncio.Queue[Event | None] = asyncio.Queue()
        if after is not None:
            known = after if after <= self._count else 0
            for event in self._last:
                if event.number > known:
                    queue.put_nowait(event)
        self._followers.append(queue)
        try:
            yield queue
        finally:
            if queue in self._followers:
                self._followers.remove(queue)
