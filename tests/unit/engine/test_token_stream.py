"""The reader's end: order, waking, and leaving by every way."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoserve.engine.request import FinishReason, TokenEvent
from evoserve.engine.stream import Inbox, TokenStream


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 3), max_size=12))
def test_items_come_in_order_however_they_are_batched(sizes: list[int]) -> None:
    async def scenario() -> None:
        inbox: Inbox[int] = Inbox()
        total, got = sum(sizes), []

        async def read() -> None:
            while len(got) < total:
                await inbox.wait()
                got.extend(inbox.take())

        reader = asyncio.create_task(read())
        number = 0
        for size in sizes:
            for _ in range(size):
                inbox.put(number)
                number += 1
            await asyncio.sleep(0)
        await reader
        assert got == list(range(total))

    asyncio.run(scenario())


async def test_a_reader_can_be_woken_without_an_item() -> None:
    inbox: Inbox[int] = Inbox()
    inbox.wake()
    reader = asyncio.create_task(inbox.wait())
    await asyncio.sleep(0)
    inbox.wake()
    inbox.wake()
    await reader
    assert inbox.take() == []


async def test_an_item_outlives_a_cancelled_wait() -> None:
    inbox: Inbox[int] = Inbox()
    reader = asyncio.create_task(inbox.wait())
    await asyncio.sleep(0)
    reader.cancel()
    inbox.put(1)
    await asyncio.gather(reader, return_exceptions=True)
    await inbox.wait()
    assert inbox.take() == [1]


async def test_leaving_is_told_once_and_never_after_the_end() -> None:
    left: list[int] = []
    stream = TokenStream(lambda: left.append(1))
    stream.inbox.put(TokenEvent(5))
    stream.inbox.put(TokenEvent(6, FinishReason.LENGTH))
    assert [event.token_id async for event in stream] == [5, 6]
    await stream.aclose()
    assert left == []
    early = TokenStream(lambda: left.append(2))
    early.inbox.put(TokenEvent(5))
    await early.aclose()
    await early.aclose()
    with pytest.raises(StopAsyncIteration):
        await anext(early)
    assert left == [2]
