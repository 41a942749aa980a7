"""Which tokens every implementation of `evoserve.engine.protocol.Engine` gives."""

import asyncio
from typing import Any

import pytest
import torch
from engine_lab import (
    SMALLEST_POOL,
    Draw,
    MakeEngine,
    assert_all_free,
    client_of,
)

from evoserve.engine.protocol import (
    FinishReason,
)


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
