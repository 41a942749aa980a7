"""Steps over several recipes: turns, failures that stay where they happen, draining."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from evoserve.engine.core import EngineCore
from evoserve.engine.request import FinishReason, TokenEvent
from evoserve.engine.runtime import end_token_ids, plan_capacity
from evoserve.engine.sequence import Sequence as Generation
from evoserve.errors import CapacityError

Make = Callable[..., Generation]


def run(core: EngineCore, max_steps: int = 1000) -> dict[int, list[TokenEvent]]:
    seen: dict[int, list[TokenEvent]] = {}
    for _ in range(max_steps):
        if not core.has_work:
            return seen
        for ticket, event in core.step():
            seen.setdefault(ticket, []).append(event)
    raise AssertionError("the core never gets idle")


def tokens(events: list[TokenEvent]) -> list[int | None]:
    return [event.token_id for event in events]


def core_with(toys: Any, *names: str, **settings: object) -> EngineCore:
    core = EngineCore(toys.counters)
    for name in names:
        core.attach(toys.runtime(name, **settings))
    return core


def test_recipes_take_turns_and_give_what_each_gives_alone(toys: Any, new_sequence: Make) -> None:
    core = core_with(toys, "a", "b", "c")
    owners = {}
    for name in ("a", "a", "b"):
        sequence = new_sequence([5, 6, 7], max_tokens=6)
        owners[sequence.ticket] = name
        core.submit(toys.model_id(name), sequence)
    order = []
    seen: dict[int, list[TokenEvent]] = {}
    while core.has_work:
        events = core.step()
        order.append({owners[ticket] for ticket, _ in events})
        for ticket, event in events:
            seen.setdefault(ticket, []).append(event)
    assert order == [{"a"}, {"b"}] * 6
    for ticket, name in owners.items():
        assert tokens(seen[ticket]) == toys.continue_greedily(name, [5, 6, 7], 6)


@pytest.mark.parametrize("caching", [True, False])
def test_tiny_budget_pool_and_cache_change_nothing(
    toys: Any, new_sequence: Make, caching: bool
) -> None:
    shared = {"max_num_batched_tokens": 5, "enable_prefix_caching": caching}
    core = core_with(toys, "a", max_num_seqs=4, **shared)
    runtime = toys.runtime("b", kv_cache_bytes=18 * 32, **shared)
    core.attach(runtime)
    assert runtime.scheduler.blocks.num_blocks == 18
    expected = {}
    for number in range(12):
        prompt = [1, 2, 3, 4, 5, 6, 7, number][: 1 + number % 8] * 2
        for name in ("a", "b"):
            sequence = new_sequence(prompt, max_tokens=40)
            expected[sequence.ticket] = toys.continue_greedily(name, prompt, 40)
            core.submit(toys.model_id(name), sequence)
    assert {ticket: tokens(events) for ticket, events in run(core).items()} == expected
    assert runtime.stats.num_preemptions == toys.counters.num_preemptions > 0  # `a` has room
    assert (toys.counters.num_cached_prompt_tokens > 0) == caching
    assert runtime.stats.num_free_blocks == 18


def test_an_exception_ends_its_batch_and_nothing_else(toys: Any, new_sequence: Make) -> None:
    core = core_with(toys, "a", "b")
    broken, _ = toys.factory.built

    def fail(batch: object) -> None:
        broken.before_forward = lambda batch: None
        raise RuntimeError("boom")

    broken.before_forward = fail
    first = [new_sequence([4] * 8, max_tokens=3) for _ in range(2)]
    waiting = new_sequence([5], max_tokens=3)
    other = new_sequence([6], max_tokens=3)
    for sequence in (*first, waiting):
        core.submit(toys.model_id("a"), sequence)
    core.submit(toys.model_id("b"), other)
    seen = run(core)
    for sequence in first:
        (event,) = seen[sequence.ticket]
        assert event.finish_reason is FinishReason.ERROR
        assert event.error == "the engine failed in this step: RuntimeError: boom"
    assert tokens(seen[waiting.ticket]) == toys.continue_greedily("a", [5], 3)
    assert tokens(seen[other.ticket]) == toys.continue_greedily("b", [6], 3)
    again = new_sequence([4] * 8, max_tokens=3)
    core.submit(toys.model_id("a"), again)
    assert tokens(run(core)[again.ticket]) == toys.continue_greedily("a", [4] * 8, 3)


def test_a_step_that_cannot_schedule_ends_all_instead_of_spinning(
    toys: Any, new_sequence: Make
) -> None:
    core = core_with(toys, "a", kv_cache_bytes=2 * 32)
    too_long = new_sequence([1] * 20, max_tokens=3)
    core.submit(toys.model_id("a"), too_long)
    (event,) = run(core)[too_long.ticket]
    assert event.finish_reason is FinishReason.ERROR


def test_nan_logits_end_one_sequence_with_a_message(toys: Any, new_sequence: Make) -> None:
    core = core_with(toys, "a")
    (model,) = toys.factory.built

    def spoil(logits: torch.Tensor, batch: Any) -> torch.Tensor:
        last = batch.token_ids[batch.logit_rows]
        return torch.where((last == 13)[:, None], math.nan, logits)

    model.spoil = spoil
    bad, good = new_sequence([1, 13], max_tokens=5), new_sequence([1, 12], max_tokens=1)
    core.submit(toys.model_id("a"), bad)
    core.submit(toys.model_id("a"), good)
    seen = run(core)
    (event,) = seen[bad.ticket]
    assert event.finish_reason is FinishReason.ERROR
    assert "not finite" in (event.error or "")
    assert tokens(seen[good.ticket]) == toys.continue_greedily("a", [1, 12], 1)


def test_a_recipe_leaves_when_its_last_sequence_has_ended(toys: Any, new_sequence: Make) -> None:
    core = core_with(toys, "a", "b")
    core.submit(toys.model_id("a"), new_sequence([1], max_tokens=3))
    gone: list[str] = []
    core.detach(toys.model_id("a"), lambda: gone.append("a"))
    core.detach(toys.model_id("b"), lambda: gone.append("b"))
    assert gone == ["b"], "an idle recipe leaves at once"
    core.step()
    assert gone == ["b"]
    run(core)
    assert gone == ["b", "a"]
    assert core.abort(toys.model_id("a"), 1) == core.abort_model(toys.model_id("a")) == []


def test_aborting_lets_a_leaving_recipe_go(toys: Any, new_sequence: Make) -> None:
    core = core_with(toys, "a")
    sequences = [new_sequence([1], max_tokens=9) for _ in range(3)]
    for sequence in sequences:
        core.submit(toys.model_id("a"), sequence)
    gone: list[str] = []
    core.detach(toys.model_id("a"), lambda: gone.append("a"))
    core.step()
    core.abort(toys.model_id("a"), sequences[0].ticket)
    assert gone == []
    events = core.abort_all()
    assert [ticket for ticket, _ in events] == [one.ticket for one in sequences[1:]]
    assert gone == ["a"]


@pytest.mark.parametrize("eos", [None, 3, [3, 4]])
def test_end_tokens_come_from_both_config_files(toys: Any, eos: object) -> None:
    known = {None: set(), 3: {3}}.get(eos if not isinstance(eos, list) else 0, {3, 4})
    assert end_token_ids(toys.recipe(eos=eos)) == known
    (toys.folder / "generation_config.json").write_text('{"eos_token_id": [7, 3]}')
    assert end_token_ids(toys.recipe(eos=eos)) == known | {7, 3}


def test_capacity_follows_the_settings(toys: Any) -> None:
    model = toys.factory.build(toys.recipe())
    assert plan_capacity(model, toys.settings(kv_cache_bytes=10 * 32)) == (10, 40)
    assert plan_capacity(model, toys.settings(kv_cache_bytes=100 * 32)) == (100, 64)
    assert plan_capacity(model, toys.settings(max_model_len=30)) == (8 * 8, 30)
    assert plan_capacity(model, toys.settings(max_model_len=300)) == (8 * 16, 64)
    with pytest.raises(CapacityError, match="kv_cache_bytes 31 hold 0 tokens"):
        plan_capacity(model, toys.settings(kv_cache_bytes=31))
    with pytest.raises(CapacityError, match=r"40 tokens .* 64 are needed: set .* to 512 or more"):
        plan_capacity(model, toys.settings(kv_cache_bytes=10 * 32, max_model_len=100))


def test_a_recipe_that_does_not_fit_holds_no_weights(toys: Any) -> None:
    with pytest.raises(CapacityError):
        toys.runtime(kv_cache_bytes=16)
    assert toys.factory.num_bytes == 0
