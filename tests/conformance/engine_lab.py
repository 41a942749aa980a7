"""Engines under test, and a client that asks them as the API does."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from evoserve.config import Settings
from evoserve.engine.protocol import (
    Engine,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
)
from evoserve.engine.torch_engine import TorchEngine

ENGINES: dict[str, Callable[[Settings], Engine]] = {
    "torch": TorchEngine,
    "torch-eager": lambda settings: TorchEngine(
        settings.model_copy(update={"enforce_eager": True})
    ),
}
QUANTIZED: dict[str, Callable[[Settings], Engine]] = {
    "torch-int8": lambda settings: TorchEngine(
        settings.model_copy(update={"quantization": "int8"})
    ),
}
EOS = 96
SMALLEST_POOL = 2**17

_CLIENTS = count()

MakeEngine = Callable[..., Any]
Draw = Callable[[int, int], list[int]]


def settings_of(**changes: object) -> Settings:
    """A small engine in float32 on the CPU, unless changed."""
    given: dict[str, object] = {
        "device": "cpu",
        "dtype": "float32",
        "threads": 1,
        "block_size": 8,
        "kv_cache_bytes": 2**20,
        "max_num_seqs": 16,
        "max_num_batched_tokens": 64,
        **changes,
    }
    return Settings(**given)  # type: ignore[arg-type]


def runner_of(make: Callable[[Settings], Engine]) -> MakeEngine:
    @asynccontextmanager
    async def run(**changes: object) -> AsyncIterator[Engine]:
        engine = make(settings_of(**changes))
        try:
            yield engine
        finally:
            await engine.close()

    return run


class Client:
    """Submits with fresh request ids and reads streams to their end."""

    def __init__(self, engine: Engine, model_id: str) -> None:
        self.engine = engine
        self.model_id = model_id
        self.name = f"{model_id}-{next(_CLIENTS)}"
        self.number = 0

    def submit(self, prompt: Sequence[int], max_tokens: int = 8, **params: object) -> Any:
        values = {"temperature": 0.0, "ignore_eos": True, **params}
        self.number += 1
        return self.engine.submit(
            GenerationRequest(
                f"{self.name}-{self.number}",
                self.model_id,
                prompt,
                SamplingParams(max_tokens=max_tokens, **values),  # type: ignore[arg-type]
            )
        )

    async def events(
        self, prompt: Sequence[int], max_tokens: int = 8, **params: object
    ) -> list[TokenEvent]:
        return [event async for event in self.submit(prompt, max_tokens, **params)]

    async def tokens(
        self, prompt: Sequence[int], max_tokens: int = 8, **params: object
    ) -> list[int | None]:
        return [one.token_id for one in await self.events(prompt, max_tokens, **params)]

    async def many(
        self, prompts: Sequence[Sequence[int]], max_tokens: int = 8, **params: object
    ) -> list[list[int | None]]:
        return await asyncio.gather(
            *(self.tokens(prompt, max_tokens, **params) for prompt in prompts)
        )


async def client_of(engine: Engine, zoo: Any, name: str = "a") -> Client:
    info = await engine.load(zoo.recipe(name))
    return Client(engine, info.model_id)


async def assert_all_free(engine: Engine) -> None:
    """Every block of every recipe is free once a request submitted now has ended.

    That request is a barrier: what was aborted before it must be over by then.
    """
    for info in engine.models():
        await Client(engine, info.model_id).tokens([1], 1)
    for one in engine.stats().models:
        assert one.num_free_blocks == one.num_blocks
        assert one.num_running == one.num_waiting == 0
