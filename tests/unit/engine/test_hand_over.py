"""What the engine's thread hands over: once per step, for all streams, however many they are."""

import asyncio
import threading
from typing import Any

import pytest

from evoserve.engine.request import GenerationRequest, SamplingParams
from evoserve.engine.torch_engine import TorchEngine

NUM_TOKENS = 6


@pytest.mark.parametrize("num_streams", [1, 8])
async def test_the_event_loop_is_woken_once_per_step(
    toys: Any, monkeypatch: pytest.MonkeyPatch, num_streams: int
) -> None:
    engine = TorchEngine(toys.settings(max_num_seqs=num_streams, max_queue=1), toys.factory)
    info = await engine.load(toys.recipe())
    opened, calls = threading.Event(), []
    toys.factory.built[0].before_forward = lambda _: opened.wait(10)
    loop = asyncio.get_running_loop()
    wake = loop.call_soon_threadsafe

    def count(*args: Any, **kwargs: Any) -> asyncio.Handle:
        if threading.current_thread().name == "evoserve-engine":
            calls.append(args[0])
        return wake(*args, **kwargs)

    monkeypatch.setattr(loop, "call_soon_threadsafe", count)
    params = SamplingParams(max_tokens=NUM_TOKENS, temperature=0.0, ignore_eos=True)
    streams = [
        engine.submit(GenerationRequest(f"r{number}", info.model_id, [1, 2, 3], params))
        for number in range(num_streams)
    ]
    opened.set()

    async def read(stream: Any) -> int:
        return len([event async for event in stream])

    assert await asyncio.gather(*map(read, streams)) == [NUM_TOKENS] * num_streams
    num_steps = engine.stats().num_steps
    assert NUM_TOKENS <= num_steps <= NUM_TOKENS + 2  # the first may begin before all have come
    assert len(calls) <= num_steps
    await engine.close()
