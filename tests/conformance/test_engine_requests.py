"""How requests and recipes begin and end in every implementation of the engine's protocol."""

import asyncio
import random
from typing import Any

import pytest
from engine_lab import (
    EOS,
    SMALLEST_POOL,
    Client,
    Draw,
    MakeEngine,
    assert_all_free,
    client_of,
)

from evoserve.engine.protocol import (
    FinishReason,
)
from evoserve.errors import ContextLengthError, RequestError, UnknownModel


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
