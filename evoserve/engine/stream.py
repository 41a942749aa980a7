"""The reader's end of one sequence."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Generic, TypeVar

from evoserve.engine.request import TokenEvent

_Item = TypeVar("_Item")


class Inbox(Generic[_Item]):
    """What waits for one reader, all in one event loop; half the cost of an `asyncio.Queue`."""

    def __init__(self) -> None:
        """Empty."""
        self._items: list[_Item] = []
        self._waiter: asyncio.Future[None] | None = None

    def put(self, item: _Item) -> None:
        """Add an item and wake the reader."""
        self._items.append(item)
        self.wake()

    def wake(self) -> None:
        """Wake the reader for another reason than an item."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def take(self) -> list[_Item]:
        """All that waits, in order of coming; often nothing."""
        taken, self._items = self._items, []
        return taken

    async def wait(self) -> None:
        """Until there is an item, or somebody wakes the reader."""
        if not self._items:
            self._waiter = asyncio.get_running_loop().create_future()
            await self._waiter


class TokenStream(AsyncIterator[TokenEvent]):
    """Events of one sequence, for one reader; leaving early (by any way) calls `on_leave` once.

    What comes is put into `inbox`, which is unbounded: max_tokens bounds what it can hold.
    """

    def __init__(self, on_leave: Callable[[], None]) -> None:
        """`on_leave` is called in the running event loop and does nothing after the last event."""
        self.inbox: Inbox[TokenEvent] = Inbox()
        self._taken: Iterator[TokenEvent] = iter(())
        self._on_leave = on_leave
        self._loop = asyncio.get_running_loop()
        self._is_over = False

    async def __anext__(self) -> TokenEvent:
        """The next event. Cancelling the wait leaves the stream."""
        if self._is_over:
            raise StopAsyncIteration
        try:
            while (event := next(self._taken, None)) is None:
                await self.inbox.wait()
                self._taken = iter(self.inbox.take())
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
