"""Room in memory: whoever fits goes ahead, nobody is unloaded in vain."""

import asyncio

import pytest

from evoserve.errors import CapacityError
from evoserve.lifecycle.footprint import union_bytes

PADDED = 1.03  # what kernels may add to the bytes that headers tell


async def footprints(lab, *names: str):
    async with lab() as free:
        ids = await free.register(*names)
        return [free.lifecycle.recipes.get(model_id).footprint for model_id in ids]


async def until(condition) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0)


def held_bytes(parts) -> int:
    cache = sum(info.kv_cache_bytes for info in parts.engine.models())
    return parts.engine.stats().weight_bytes + cache


async def test_a_load_that_waits_for_room_does_not_hold_up_one_that_fits(lab) -> None:
    names = ["ties", "passthrough", "slerp"]
    busy, _, small = await footprints(lab, *names)
    budget = int(PADDED * union_bytes([busy, small]))
    async with lab(memory_bytes=budget, load_timeout_s=600) as parts:
        old, big, fits = await parts.register(*names)
        await parts.lifecycle.load(old)
        async with parts.lifecycle.hold(old):
            waiting = asyncio.create_task(parts.lifecycle.load(big))
            entry = parts.lifecycle.recipes.get(big)
            await until(lambda: entry.state == "queued" and entry.footprint is not None)
            async with asyncio.timeout(60):
                await parts.lifecycle.load(fits)
            assert (entry.state, waiting.done()) == ("queued", False)
        async with asyncio.timeout(60):
            await waiting
        assert parts.ready() == ["mini-passthrough"]


async def test_loads_that_pass_the_check_together_stay_within_the_budget(lab) -> None:
    names = ["ties", "slerp", "linear", "karcher"]
    found = await footprints(lab, *names)
    budget = int(PADDED * union_bytes(found[:2]))
    async with lab(memory_bytes=budget) as parts:
        ids = await parts.register(*names)
        seen: list[int] = []
        parts.lifecycle.events.listen(lambda _: seen.append(held_bytes(parts)))
        await asyncio.gather(*(parts.lifecycle.load(model_id) for model_id in ids))
        assert max(seen) <= budget
        assert len(parts.ready()) == 2


async def test_nobody_is_unloaded_for_one_that_would_not_fit_all_the_same(lab) -> None:
    names = ["ties", "slerp", "dfs"]
    found = await footprints(lab, *names)
    budget = int(PADDED * union_bytes(found[:2]))
    assert union_bytes([found[0], found[2]]) > budget
    async with lab(memory_bytes=budget, load_timeout_s=0) as parts:
        busy, idle, big = await parts.register(*names)
        for model_id in (busy, idle):
            await parts.lifecycle.load(model_id)
        async with parts.lifecycle.hold(busy):
            with pytest.raises(CapacityError, match="memory_bytes"):
                await parts.lifecycle.load(big)
        assert parts.ready() == ["mini-ties", "mini-slerp"]


async def test_what_a_second_caller_keeps_is_not_unloaded_for_the_first(lab) -> None:
    names = ["ties", "slerp", "linear"]
    found = await footprints(lab, *names)
    budget = int(PADDED * union_bytes(found[:2]))
    async with lab(memory_bytes=budget) as parts:
        kept, other, new = await parts.register(*names)
        for model_id in (kept, other):
            await parts.lifecycle.load(model_id)
        entry = parts.lifecycle.recipes.get(new)
        first = asyncio.create_task(parts.lifecycle._loader.load(entry))
        await asyncio.sleep(0)
        await parts.lifecycle._loader.load(entry, [kept])
        await first
        assert parts.ready() == ["mini-ties", "mini-linear"]
