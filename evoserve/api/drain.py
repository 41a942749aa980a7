"""Stopping without breaking what runs: how many requests are open, may new ones come?"""

import asyncio
from collections.abc import Callable

POLL_S = 0.1
STOPPING = "the server is stopping; send the request elsewhere"


class Drain:
    """Counts open requests; once begun, it waits for them to end. Used in one event loop only."""

    def __init__(self) -> None:
        """Not begun, nothing open."""
        self._has_begun = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._num_open = 0
        self._cuts: set[Callable[[], None]] = set()

    @property
    def num_open(self) -> int:
        """Requests being served."""
        return self._num_open

    def has_begun(self) -> bool:
        """Is the server on its way out?"""
        return self._has_begun

    def begin(self) -> None:
        """Take no new work from now on; signal handlers may call it."""
        self._has_begun = True

    def enter(self) -> None:
        """A request has come."""
        self._num_open += 1
        self._idle.clear()

    def leave(self) -> None:
        """It has been answered, or given up."""
        self._num_open -= 1
        if self._num_open == 0:
            self._idle.set()

    async def wait_begun(self) -> None:
        """Until `begin` is called. (A signal handler cannot wake the event loop: it is polled.)"""
        while not self._has_begun:
            await asyncio.sleep(POLL_S)

    async def wait_idle(self, timeout_s: float) -> bool:
        """Until no request is open; False if that takes longer than `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def add_cut(self, cut: Callable[[], None]) -> None:
        """Have `cut` called when the time is up."""
        self._cuts.add(cut)

    def remove_cut(self, cut: Callable[[], None]) -> None:
        """Work that `cut` was to end has ended."""
        self._cuts.discard(cut)

    def cut(self) -> None:
        """The time is up: end what still runs, so that its clients are told."""
        for cut in list(self._cuts):
            cut()
