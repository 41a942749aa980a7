"""What every implementation of `evoserve.engine.protocol.Engine` passes."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import pytest
import torch

from evoserve.config import Settings
from evoserve.engine.protocol import (
    Engine,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
)
from evoserve.engine.torch_engine import TorchEngine
from evoserve.errors import ContextLengthError, RequestError, UnknownModel

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


@pytest.fixture(params=sorted(ENGINES))
def running(request: pytest.FixtureRequest) -> MakeEngine:
    """An async context manager: an engine with the given settings, closed at the end."""
    return runner_of(ENGINES[request.param])


@pytest.fixture(params=sorted(ENGINES | QUANTIZED))
def running_any(request: pytest.FixtureRequest) -> MakeEngine:
    """`running`, with engines too whose tokens are not those of transformers."""
    return runner_of((ENGINES | QUANTIZED)[request.param])


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


class TestGreedy:
    """The same tokens as transformers, however the engine gets there."""

    async def test_greedy_tokens_are_those_of_transformers(
        self, running: MakeEngine, zoo: Any, draw_prompt: Draw
    ) -> None:
        prompt = draw_prompt(1, 13)
        async with running() as engine:
            client = await client_of(engine, zoo)
            first = await client.tokens(prompt, 24)
            assert first == zoo.continue_greedily("a", prompt, 24)
            assert await client.tokens(prompt, 24) == first

    @pytest.mark.parametrize(
        "changes",
        [
            {},
            {"max_num_batched_tokens": 3, "max_num_seqs": 3},
            {"max_num_batched_tokens": 7},
            {"kv_cache_bytes": SMALLEST_POOL, "enable_prefix_caching": False},
            {"kv_cache_bytes": SMALLEST_POOL},
            {"block_size": 1},
            {"block_size": 256},
        ],
        ids=lambda changes: ",".join(f"{k}={v}" for k, v in changes.items()) or "default",
    )
    @pytest.mark.parametrize("name", ["a", "path"])
    async def test_batches_chunks_preemption_and_cache_change_no_token(
        self,
        running_any: MakeEngine,
        zoo: Any,
        draw_prompt: Draw,
        changes: dict[str, object],
        name: str,
    ) -> None:
        common = draw_prompt(0, 16)
        prompts = [draw_prompt(1, 3), common, [*common, 5], draw_prompt(2, 27), [*common, 6, 7]]
        async with running_any(enable_prefix_caching=False) as engine:
            client = await client_of(engine, zoo, name)
            alone = [await client.tokens(prompt, 20) for prompt in prompts]
        async with running_any(**changes) as engine:
            client = await client_of(engine, zoo, name)
            assert await client.many(prompts, 20) == alone
            assert await client.many(prompts[::-1], 20) == alone[::-1]
            await assert_all_free(engine)
            stats = engine.stats()
            if changes.get("kv_cache_bytes") == SMALLEST_POOL:
                assert stats.num_preemptions > 0
            if changes.get("enable_prefix_caching", True) and changes.get("block_size") != 256:
                assert stats.num_cached_prompt_tokens > 0

    async def test_cached_tokens_are_reported(
        self, running: MakeEngine, zoo: Any, draw_prompt: Draw
    ) -> None:
        prompt = draw_prompt(3, 40)
        async with running() as engine:
            client = await client_of(engine, zoo)
            first = await client.events(prompt, 2)
            second = await client.events(prompt, 2)
            assert first[0].num_cached_tokens == 0
            assert 0 < second[0].num_cached_tokens < 40
            stats = engine.stats()
            assert stats.num_prompt_tokens == 80
            assert stats.num_cached_prompt_tokens == second[0].num_cached_tokens
            assert stats.num_generated_tokens == 4

    async def test_two_recipes_interleaved_give_what_each_gives_alone(
        self, running: MakeEngine, zoo: Any, draw_prompt: Draw
    ) -> None:
        prompts = [draw_prompt(seed, 9) for seed in range(3)]
        async with running() as engine:
            one, two = await client_of(engine, zoo, "a"), await client_of(engine, zoo, "b")
            from_a, from_b = await asyncio.gather(one.many(prompts, 12), two.many(prompts, 12))
        assert from_a == [zoo.continue_greedily("a", prompt, 12) for prompt in prompts]
        assert from_b == [zoo.continue_greedily("b", prompt, 12) for prompt in prompts]
        assert from_a != from_b


class TestSampling:
    """Seeds and log-probabilities."""

    async def test_a_seed_gives_the_same_alone_and_in_a_batch(
        self, running: MakeEngine, zoo: Any, draw_prompt: Draw
    ) -> None:
        prompt = draw_prompt(4, 10)
        hot = {"temperature": 1.5, "top_p": 0.95, "top_k": 60}
        async with running(max_num_batched_tokens=9) as engine:
            client = await client_of(engine, zoo)
            alone = await client.tokens(prompt, 16, seed=7, **hot)
            others = [client.tokens(draw_prompt(n, 5 + n), 20, temperature=1.0) for n in range(5)]
            together, *_ = await asyncio.gather(client.tokens(prompt, 16, seed=7, **hot), *others)
            other_seed = await client.tokens(prompt, 16, seed=8, **hot)
        assert alone == together != other_seed

    async def test_logprobs_are_the_log_softmax_of_the_model(
        self, running: MakeEngine, zoo: Any, draw_prompt: Draw
    ) -> None:
        prompt = draw_prompt(5, 12)
        async with running() as engine:
            client = await client_of(engine, zoo)
            events = await client.events(prompt, 10, logprobs=5, logit_bias={3: 0.5})
        tokens = [one.token_id for one in events]
        reference = zoo.logits("a", [*prompt, *tokens]).log_softmax(dim=1)[len(prompt) - 1 :]
        for place, event in enumerate(events):
            assert event.logprobs is not None
            assert event.logprobs.token_id == event.token_id
            expected = float(reference[place, event.token_id])
            assert event.logprobs.logprob == pytest.approx(expected, abs=1e-4)
            top = reference[place].topk(5)
            assert [value for _, value in event.logprobs.top] == pytest.approx(
                top.values.tolist(), abs=1e-4
            )
            assert torch.tensor([value for _, value in event.logprobs.top]).exp().sum() <= 1 + 1e-5

    @pytest.mark.parametrize("budget", [5, 64])
    async def test_prompt_logprobs_with_and_without_chunks(
        self, running: MakeEngine, zoo: Any, draw_prompt: Draw, budget: int
    ) -> None:
        prompt = draw_prompt(6, 23)
        async with running(max_num_batched_tokens=budget) as engine:
            client = await client_of(engine, zoo)
            await client.tokens(prompt)
            events = await client.events(prompt, 3, prompt_logprobs=1)
            (scored,) = await client.events(prompt, 0, prompt_logprobs=0)
        assert events[0].num_cached_tokens == 0, "cached tokens have no logits"
        assert events[1].prompt_logprobs is None
        reference = zoo.logits("a", prompt).log_softmax(dim=1)
        for reported in (events[0].prompt_logprobs, scored.prompt_logprobs):
            assert reported is not None
            assert reported[0] is None
            assert [one.token_id for one in reported[1:]] == prompt[1:]
            expected = [float(reference[at - 1, prompt[at]]) for at in range(1, len(prompt))]
            assert [one.logprob for one in reported[1:]] == pytest.approx(expected, abs=1e-4)
        assert (scored.token_id, scored.finish_reason) == (None, FinishReason.LENGTH)


class TestEnds:
    """When a stream ends and what it says."""

    async def test_max_tokens_ends_with_length(
        self, running: MakeEngine, zoo: Any, draw_prompt: Draw
    ) -> None:
        async with running() as engine:
            client = await client_of(engine, zoo)
            for number in (1, 5):
                events = await client.events(draw_prompt(7, 6), number)
                reasons = [one.finish_reason for one in events]
                assert reasons == [None] * (number - 1) + [FinishReason.LENGTH]

    async def test_a_stop_token_ends_with_stop_and_is_reported(
        self, running: MakeEngine, zoo: Any, draw_prompt: Draw
    ) -> None:
        prompt = draw_prompt(8, 6)
        free = zoo.continue_greedily("a", prompt, 12)
        stop = free[4]
        first = free.index(stop)
        async with running() as engine:
            client = await client_of(engine, zoo)
            events = await client.events(prompt, 12, stop_token_ids=frozenset({stop}))
            later = await client.tokens(
                prompt, 12, stop_token_ids=frozenset({stop}), min_tokens=first + 2
            )
        assert [one.token_id for one in events] == free[: first + 1]
        assert events[-1].finish_reason is FinishReason.STOP
        assert len(later) >= first + 2
        assert later[:first] == free[:first]
        assert stop not in later[: first + 1], "min_tokens keeps stop tokens out"

    async def test_the_models_own_end_token_stops_unless_ignored(
        self, running: MakeEngine, zoo: Any, draw_prompt: Draw
    ) -> None:
        forced = {"logit_bias": {EOS: 1000.0}}
        async with running() as engine:
            client = await client_of(engine, zoo)
            (event,) = await client.events(draw_prompt(9, 5), 4, ignore_eos=False, **forced)
            ignoring = await client.tokens(draw_prompt(9, 5), 4, ignore_eos=True, **forced)
            delayed = await client.tokens(
                draw_prompt(9, 5), 4, ignore_eos=False, min_tokens=2, **forced
            )
        assert (event.token_id, event.finish_reason) == (EOS, FinishReason.STOP)
        assert ignoring == [EOS] * 4
        assert delayed[2:] == [EOS]
        assert EOS not in delayed[:2]

    async def test_abort_ends_with_abort_and_frees_the_blocks(
        self, running: MakeEngine, zoo: Any, draw_prompt: Draw
    ) -> None:
        async with running() as engine:
            client = await client_of(engine, zoo)
            stream = client.submit(draw_prompt(10, 6), 200)
            await anext(stream)
            engine.abort(f"{client.name}-{client.number}")
            events = [event async for event in stream]
            assert (events[-1].token_id, events[-1].finish_reason) == (None, FinishReason.ABORT)
            assert len(events) < 199
            engine.abort("never seen")
            await assert_all_free(engine)

    async def test_closing_the_iterator_early_frees_the_blocks(
        self, running: MakeEngine, zoo: Any, draw_prompt: Draw
    ) -> None:
        async with running() as engine:
            client = await client_of(engine, zoo)
            for read in (0, 1):
                stream = client.submit(draw_prompt(11, 6), 200)
                for _ in range(read):
                    await anext(stream)
                await stream.aclose()
            await assert_all_free(engine)
            assert engine.stats().num_generated_tokens < 390
            assert len(await client.tokens(draw_prompt(11, 6))) == 8

    async def test_cancelling_the_reader_frees_the_blocks(
        self, running: MakeEngine, zoo: Any, draw_prompt: Draw
    ) -> None:
        async with running() as engine:
            client = await client_of(engine, zoo)
            reader = asyncio.create_task(client.tokens(draw_prompt(12, 6), 200))
            while engine.stats().num_generated_tokens == 0:
                await asyncio.sleep(0)
            reader.cancel()
            await asyncio.gather(reader, return_exceptions=True)
            await assert_all_free(engine)
            assert engine.stats().num_generated_tokens < 200


class TestRefusals:
    """Refused at once, by name, and the engine goes on."""

    async def test_unknown_models(self, running: MakeEngine, zoo: Any) -> None:
        async with running() as engine:
            with pytest.raises(UnknownModel, match="'nobody'"):
                Client(engine, "nobody").submit([1])
            client = await client_of(engine, zoo)
            with pytest.raises(UnknownModel):
                Client(engine, "nobody").submit([1])
            with pytest.raises(UnknownModel):
                await engine.unload("nobody")
            assert len(await client.tokens([1])) == 8

    async def test_what_does_not_fit(self, running: MakeEngine, zoo: Any) -> None:
        async with running() as engine:
            client = await client_of(engine, zoo)
            (info,) = engine.models()
            assert info.max_model_len == 256
            for length, number in ((257, 0), (250, 7), (1, 256), (10_000, 1)):
                with pytest.raises(ContextLengthError, match="256"):
                    client.submit([1] * length, number)
            assert len(await client.tokens([1] * 250, 6)) == 6

    async def test_the_pool_bounds_the_length_that_is_told(
        self, running: MakeEngine, zoo: Any
    ) -> None:
        async with running(kv_cache_bytes=SMALLEST_POOL) as engine:
            client = await client_of(engine, zoo)
            (info,) = engine.models()
            longest = info.max_model_len
            assert longest < 256
            assert len(await client.tokens([1] * (longest - 5), 5)) == 5
            with pytest.raises(ContextLengthError, match=str(longest)):
                client.submit([1] * (longest - 5), 6)

    @pytest.mark.parametrize("token_id", [-1, 97, 10**9])
    async def test_token_ids_outside_the_vocabulary(
        self, running: MakeEngine, zoo: Any, token_id: int
    ) -> None:
        async with running() as engine:
            client = await client_of(engine, zoo)
            with pytest.raises(RequestError, match=f"{token_id}"):
                client.submit([1, token_id, 2])
            with pytest.raises(RequestError, match="logit_bias"):
                client.submit([1], logit_bias={token_id: 1.0})

    async def test_empty_prompts_and_wrong_parameters(self, running: MakeEngine, zoo: Any) -> None:
        async with running(max_logprobs=3) as engine:
            client = await client_of(engine, zoo)
            with pytest.raises(RequestError, match="prompt"):
                client.submit([])
            for name, value in (("temperature", -1.0), ("top_p", 0.0), ("logprobs", 4)):
                with pytest.raises(RequestError) as caught:
                    client.submit([1], **{name: value})
                assert caught.value.param == name


class TestLifeCycle:
    """Loading and unloading under load."""

    async def test_load_is_idempotent_and_models_are_listed_in_order(
        self, running: MakeEngine, zoo: Any
    ) -> None:
        async with running() as engine:
            infos = await asyncio.gather(*(engine.load(zoo.recipe("a")) for _ in range(3)))
            assert infos[0] == infos[1] == infos[2]
            other = await engine.load(zoo.recipe("path"))
            assert list(engine.models()) == [infos[0], other]
            assert (other.num_steps, other.num_layers) == (5, 4)

    async def test_load_and_unload_under_load_fail_no_request(
        self, running: MakeEngine, zoo: Any, draw_prompt: Draw
    ) -> None:
        prompts = [draw_prompt(seed, 7) for seed in range(4)]
        expected = [zoo.continue_greedily("a", prompt, 30) for prompt in prompts]
        async with running() as engine:
            client = await client_of(engine, zoo)
            load = asyncio.create_task(client.many(prompts, 30))
            for _ in range(3):
                other = await client_of(engine, zoo, "b")
                stream = asyncio.create_task(other.tokens(prompts[0], 30))
                await asyncio.sleep(0)
                await engine.unload(other.model_id)
                assert await stream == zoo.continue_greedily("b", prompts[0], 30)
                with pytest.raises(UnknownModel):
                    other.submit([1])
            assert await load == expected

    async def test_unloading_without_drain_aborts(
        self, running: MakeEngine, zoo: Any, draw_prompt: Draw
    ) -> None:
        async with running() as engine:
            client = await client_of(engine, zoo)
            stream = client.submit(draw_prompt(13, 7), 200)
            await anext(stream)
            await engine.unload(client.model_id, drain=False)
            events = [event async for event in stream]
            assert events[-1].finish_reason is FinishReason.ABORT
            assert engine.models() == []
            assert engine.stats().models == ()

    async def test_shared_weights_are_held_once_and_freed_last(
        self, running: MakeEngine, zoo: Any
    ) -> None:
        async with running() as engine:
            one = await engine.load(zoo.recipe("a"))
            alone = engine.stats().weight_bytes
            two = await engine.load(zoo.recipe("path"))
            both = engine.stats().weight_bytes
            assert alone < both < one.weight_bytes + two.weight_bytes
            await engine.unload(one.model_id)
            await engine.unload(two.model_id)
            assert engine.stats().weight_bytes == 0

    async def test_close_aborts_what_runs(
        self, running: MakeEngine, zoo: Any, draw_prompt: Draw
    ) -> None:
        async with running() as engine:
            client = await client_of(engine, zoo)
            stream = client.submit(draw_prompt(14, 7), 200)
            await anext(stream)
            await engine.close()
            events = [event async for event in stream]
            assert events[-1].finish_reason is FinishReason.ABORT

    async def test_two_hundred_random_operations_end_with_all_blocks_free(
        self, running: MakeEngine, zoo: Any, draw_prompt: Draw
    ) -> None:
        dice = random.Random(0)
        finished = 0
        async with running(kv_cache_bytes=SMALLEST_POOL, max_num_batched_tokens=11) as engine:
            clients = [await client_of(engine, zoo, name) for name in ("a", "b")]
            live: list[tuple[str, asyncio.Task[list[int | None]]]] = []
            for seed in range(200):
                roll = dice.random()
                if roll < 0.55 or not live:
                    client = dice.choice(clients)
                    prompt = draw_prompt(seed % 9, dice.randint(1, 40))
                    task = asyncio.create_task(
                        client.tokens(prompt, dice.randint(0, 30), seed=seed, temperature=1.0)
                    )
                    live.append((f"{client.name}-{client.number + 1}", task))
                    await asyncio.sleep(0)
                else:
                    request_id, task = live.pop(dice.randrange(len(live)))
                    if roll < 0.75:
                        engine.abort(request_id)
                        finished += task in (await asyncio.wait([task]))[0]
                    elif roll < 0.9:
                        task.cancel()
                    else:
                        live.append((request_id, task))
                        await asyncio.sleep(0)
            results = await asyncio.gather(*(task for _, task in live), return_exceptions=True)
            assert not [one for one in results if isinstance(one, Exception)]
            assert finished > 10
            await assert_all_free(engine)
