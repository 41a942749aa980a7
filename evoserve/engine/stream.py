"""The reader's end of one sequence."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from evoserve.engine.request import TokenEvent


class TokenStream(AsyncIterator[TokenEvent]):
    """Events of one sequence; leaving before the last one (by any way) calls `on_leave` once.

    The queue is unbounded: max_tokens bounds what it can hold.
    """

    def __init__(self, on_leave: Callable[[], None]) -> None:
        """`on_leave` is called in the running event loop and does nothing after the last event."""
        self.events: asyncio.Queue[TokenEvent] = asyncio.Queue()
        self._on_leave = on_leave
        self._loop = asyncio.get_running_loop()
        self._is_over = False

    async def __anext__(self) -> TokenEvent:
        """The next event. Cancelling the wait leaves the stream."""
        if self._is_over:
            raise StopAsyncIteration
        try:
            event = await self.events.get()
        except BaseException:
            await self.aclose()
            raise
        self._is_over = event.finish_reason is not None
        return event

    async def aclose(self) -> None:
        """Leave: the sequence is aborted unless it has ended."""
        if not self._is_over:
            self._is_over = True
            self._on_leave()

    def __del__(self) -> None:
        """A reader that forgot to close leaves, too; the collector may run in any thread."""
        if not self._is_over:
            with contextlib.suppress(RuntimeError):  # the loop is closed, the engine gone
                self._loop.call_soon_threadsafe(self._on_leave)
