"""The async front over toy models: life cycle, leaving, limits, and a thread that may die."""

import asyncio
import gc
import math
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Any

import pytest

from evoserve.engine.request import FinishReason, GenerationRequest, SamplingParams, TokenEvent
from evoserve.engine.torch_engine import TorchEngine
from evoserve.errors import (
    CapacityError,
    EngineError,
    RequestError,
    SourceError,
    UnknownModel,
)


def request(
    model_id: str, request_id: str = "r", max_tokens: int = 5, **params: object
) -> GenerationRequest:
    values = {"temperature": 0.0, "ignore_eos": True, **params}
    return GenerationRequest(
        request_id,
        model_id,
        [1, 2, 3],
        SamplingParams(max_tokens=max_tokens, **values),  # type: ignore[arg-type]
    )


async def read(stream: AsyncIterator[TokenEvent]) -> list[TokenEvent]:
    return [event async for event in stream]


@pytest.fixture
async def engine(toys: Any) -> AsyncIterator[TorchEngine]:
    made = TorchEngine(toys.settings(max_num_seqs=2, max_queue=2), toys.factory)
    yield made
    await made.close()


class Gate:
    """Holds the engine's thread in a forward pass until it is opened."""

    def __init__(self) -> None:
        self.entered, self.opened = threading.Event(), threading.Event()

    def __call__(self, _: object) -> None:
        self.entered.set()
        assert self.opened.wait(10)


async def until(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 10)


async def test_load_submit_unload_and_what_remains(engine: TorchEngine, toys: Any) -> None:
    assert engine.models() == []
    info = await engine.load(toys.recipe())
    assert list(engine.models()) == [info]
    assert info.kv_cache_bytes == 2 * 64 * 8, "no more than two longest sequences fill"
    assert engine.stats().weight_bytes == 4
    events = await read(engine.submit(request(info.model_id)))
    assert [one.token_id for one in events] == toys.continue_greedily("toy", [1, 2, 3], 5)
    assert events[-1].finish_reason is FinishReason.LENGTH
    model = weakref.ref(toys.factory.built.pop())
    await engine.unload(info.model_id)
    assert engine.models() == []
    assert engine.stats().weight_bytes == 0
    gc.collect()
    assert model() is None, "an unloaded model must not be kept alive"
    with pytest.raises(UnknownModel):
        engine.submit(request(info.model_id))
    with pytest.raises(UnknownModel):
        await engine.unload(info.model_id)
    assert engine.stats().num_generated_tokens == 5, "counters outlive recipes"


async def test_a_recipe_is_built_once_however_many_ask(engine: TorchEngine, toys: Any) -> None:
    gate = Gate()
    toys.factory.on_build = gate
    loads = [asyncio.create_task(engine.load(toys.recipe())) for _ in range(3)]
    await until(gate.entered)
    loads[0].cancel()
    gate.opened.set()
    results = await asyncio.gather(*loads, return_exceptions=True)
    assert isinstance(results[0], asyncio.CancelledError)
    assert results[1] == results[2] == await engine.load(toys.recipe())
    assert len(toys.factory.built) == 1


async def test_a_failed_build_leaves_nothing_and_may_be_repeated(
    engine: TorchEngine, toys: Any
) -> None:
    def fail(_: object) -> None:
        raise SourceError("no such folder")

    toys.factory.on_build = fail
    results = await asyncio.gather(
        *(engine.load(toys.recipe()) for _ in range(2)), return_exceptions=True
    )
    assert [str(one) for one in results] == ["no such folder"] * 2
    assert engine.models() == []
    toys.factory.on_build = lambda _: None
    await engine.load(toys.recipe())
    assert len(engine.models()) == 1


async def test_streams_go_on_while_another_recipe_is_built(engine: TorchEngine, toys: Any) -> None:
    info = await engine.load(toys.recipe("a"))
    gate = Gate()
    toys.factory.on_build = gate
    building = asyncio.create_task(engine.load(toys.recipe("b")))
    await until(gate.entered)
    assert len(await read(engine.submit(request(info.model_id)))) == 5
    assert [one.model_id for one in engine.models()] == [info.model_id]
    gate.opened.set()
    other = await building
    assert [one.model_id for one in engine.models()] == [info.model_id, other.model_id]


async def test_draining_lets_streams_end_and_refuses_new_ones(
    engine: TorchEngine, toys: Any
) -> None:
    info = await engine.load(toys.recipe())
    gate = Gate()
    toys.factory.built[0].before_forward = gate
    stream = engine.submit(request(info.model_id, max_tokens=9))
    await until(gate.entered)
    unloading = asyncio.create_task(engine.unload(info.model_id))
    await asyncio.sleep(0)
    with pytest.raises(UnknownModel):
        engine.submit(request(info.model_id, "late"))
    assert engine.models() == []
    assert engine.stats().models[0].num_running == 1
    reloading = asyncio.create_task(engine.load(toys.recipe()))
    gate.opened.set()
    events = await read(stream)
    assert [one.token_id for one in events] == toys.continue_greedily("toy", [1, 2, 3], 9)
    await unloading
    assert (await reloading).model_id == info.model_id
    assert len(toys.factory.built) == 2, "loading during a drain builds anew"


async def test_a_drain_can_be_cut_short(engine: TorchEngine, toys: Any) -> None:
    info = await engine.load(toys.recipe())
    gate = Gate()
    toys.factory.built[0].before_forward = gate
    stream = engine.submit(request(info.model_id, max_tokens=40))
    await until(gate.entered)
    draining = asyncio.create_task(engine.unload(info.model_id))
    await asyncio.sleep(0)
    cutting = asyncio.create_task(engine.unload(info.model_id, drain=False))
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.gather(draining, cutting)
    events = await read(stream)
    assert events[-1].finish_reason is FinishReason.ABORT
    assert len(events) < 40


async def test_abort_ends_the_stream_with_abort(engine: TorchEngine, toys: Any) -> None:
    info = await engine.load(toys.recipe())
    gate = Gate()
    toys.factory.built[0].before_forward = gate
    stream = engine.submit(request(info.model_id, max_tokens=40))
    await until(gate.entered)
    engine.abort("r")
    engine.abort("nobody")
    gate.opened.set()
    events = await read(stream)
    assert (events[-1].token_id, events[-1].finish_reason) == (None, FinishReason.ABORT)
    await assert_all_free(engine)


async def assert_all_free(engine: TorchEngine) -> None:
    """A request submitted now is a barrier: what was aborted before it is over when it ends."""
    for info in engine.models():
        await read(engine.submit(request(info.model_id, "barrier", 1)))
    for one in engine.stats().models:
        assert one.num_free_blocks == one.num_blocks
        assert one.num_running == one.num_waiting == 0


@pytest.mark.parametrize("how", ["aclose", "cancel", "forget"])
async def test_leaving_a_stream_frees_its_blocks(engine: TorchEngine, toys: Any, how: str) -> None:
    info = await engine.load(toys.recipe())
    gate = Gate()
    toys.factory.built[0].before_forward = gate
    stream = engine.submit(request(info.model_id, max_tokens=40))
    await until(gate.entered)
    if how == "aclose":
        await stream.aclose()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)
    elif how == "cancel":
        reader = asyncio.create_task(read(stream))
        await asyncio.sleep(0)
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)
    del stream
    gc.collect()
    await asyncio.sleep(0)
    again = engine.submit(request(info.model_id, max_tokens=2))
    gate.opened.set()
    assert [one.token_id for one in await read(again)] == toys.continue_greedily(
        "toy", [1, 2, 3], 2
    )
    await assert_all_free(engine)


async def test_a_full_queue_is_refused_with_its_numbers(engine: TorchEngine, toys: Any) -> None:
    info = await engine.load(toys.recipe())
    streams = [engine.submit(request(info.model_id, str(number))) for number in range(4)]
    with pytest.raises(CapacityError, match=r"4 requests .* max_queue 2"):
        engine.submit(request(info.model_id, "late"))
    await streams.pop().aclose()
    streams.append(engine.submit(request(info.model_id, "late")))
    results = await asyncio.gather(*map(read, streams))
    assert [len(events) for events in results] == [5] * 4


async def test_a_request_id_in_flight_is_refused_and_free_again_afterwards(
    engine: TorchEngine, toys: Any
) -> None:
    info = await engine.load(toys.recipe())
    stream = engine.submit(request(info.model_id))
    with pytest.raises(RequestError, match="'r' is in flight"):
        engine.submit(request(info.model_id))
    await read(stream)
    await read(engine.submit(request(info.model_id)))


async def test_requests_without_a_seed_draw_from_the_engines_stream(toys: Any) -> None:
    async def draw(seed: int) -> list[list[int | None]]:
        engine = TorchEngine(toys.settings(seed=seed), toys.factory)
        info = await engine.load(toys.recipe())
        wanted = [request(info.model_id, str(n), 12, temperature=2.0) for n in range(3)]
        results = [await read(engine.submit(one)) for one in wanted]
        await engine.close()
        return [[event.token_id for event in events] for events in results]

    first, again, other = await draw(1), await draw(1), await draw(2)
    assert first == again != other
    assert first[0] != first[1]


async def test_close_aborts_frees_and_refuses(toys: Any) -> None:
    engine = TorchEngine(toys.settings(), toys.factory)
    info = await engine.load(toys.recipe())
    gate = Gate()
    toys.factory.built[0].before_forward = gate
    stream = engine.submit(request(info.model_id, max_tokens=40))
    await until(gate.entered)
    draining = asyncio.create_task(engine.unload(info.model_id))
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    gate.opened.set()
    await asyncio.gather(closing, draining)
    assert (await read(stream))[-1].finish_reason is FinishReason.ABORT
    assert toys.factory.num_bytes == 0
    assert engine.models() == []
    with pytest.raises(EngineError):
        engine.submit(request(info.model_id))
    with pytest.raises(EngineError):
        await engine.load(toys.recipe())
    with pytest.raises(EngineError):
        await engine.unload(info.model_id)
    await engine.close()
    await TorchEngine(toys.settings(), toys.factory).close()


async def test_closing_during_a_build_fails_the_build(toys: Any) -> None:
    engine = TorchEngine(toys.settings(), toys.factory)
    gate = Gate()
    toys.factory.on_build = gate
    loading = asyncio.create_task(engine.load(toys.recipe()))
    await until(gate.entered)
    closing = asyncio.create_task(engine.close())
    await asyncio.sleep(0)
    gate.opened.set()
    await closing
    with pytest.raises(EngineError, match="closed"):
        await loading
    assert toys.factory.num_bytes == 0


async def test_readers_are_told_when_the_thread_dies(toys: Any, caplog: Any) -> None:
    engine = TorchEngine(toys.settings(), toys.factory)
    info = await engine.load(toys.recipe())
    assert engine.stats().stalled_s == 0.0

    def die(_: object) -> list[object]:
        raise MemoryError("no more")

    gate = Gate()
    toys.factory.built[0].before_forward = gate
    streams = [engine.submit(request(info.model_id, name, max_tokens=40)) for name in "ab"]
    await until(gate.entered)
    assert engine._worker is not None
    engine._worker.post(die)  # type: ignore[arg-type]
    late = engine.submit(request(info.model_id, "late"))
    gate.opened.set()
    for stream in (*streams, late):
        last = (await read(stream))[-1]
        assert (last.finish_reason, last.error) == (FinishReason.ERROR, "the engine's thread died")
    await asyncio.to_thread(engine._worker.join)
    stats = engine.stats()
    assert stats.stalled_s == math.inf
    assert [(one.num_running, one.num_waiting) for one in stats.models] == [(0, 0)]
    assert stats.models[0].num_free_blocks == stats.models[0].num_blocks
    with pytest.raises(CapacityError, match="thread died"):
        engine.submit(request(info.model_id))
    with pytest.raises(EngineError):
        await engine.load(toys.recipe("other"))
    await engine.close()


async def test_stalled_grows_while_a_step_hangs(engine: TorchEngine, toys: Any) -> None:
    info = await engine.load(toys.recipe())
    gate = Gate()
    toys.factory.built[0].before_forward = gate
    stream = engine.submit(request(info.model_id))
    await until(gate.entered)
    first = engine.stats().stalled_s
    assert engine.stats().stalled_s > first > 0
    gate.opened.set()
    await read(stream)


async def test_one_call_into_the_loop_per_step(engine: TorchEngine, toys: Any) -> None:
    info = await engine.load(toys.recipe())
    gate = Gate()
    toys.factory.built[0].before_forward = gate
    streams = [engine.submit(request(info.model_id, str(n), 6)) for n in range(2)]
    await until(gate.entered)
    batches: list[int] = []
    deliver = engine._deliver

    def count(events: list[Any]) -> None:
        batches.append(len(events))
        deliver(events)

    assert engine._worker is not None
    engine._worker._deliver = count
    gate.opened.set()
    await asyncio.gather(*map(read, streams))
    assert sum(batches) == 12
    assert len(batches) <= 7
