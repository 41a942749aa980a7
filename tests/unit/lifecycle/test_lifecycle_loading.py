"""Loading and unloading: one build for many, one budget, nothing lost by what fails."""

import asyncio
import json
import shutil
import threading
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from evoserve.errors import (
    CapacityError,
    ConflictError,
    DigestMismatch,
    SourceError,
    UnknownModel,
    UnknownRecipe,
)
from evoserve.lifecycle.footprint import predict, union_bytes
from evoserve.lifecycle.loader import Loader
from evoserve.lifecycle.progress import ReadCounter
from evoserve.lifecycle.split import Target
from evoserve.manifest.load import build_manifest
from evoserve.sources.locate import build_locator
from evoserve.sources.resolve import resolve_recipe

PADDED = 1.03  # what kernels may add to the bytes that headers tell
MINI = Path(__file__).parents[3] / "models" / "mini"


def states(events, model_id: str) -> list[str]:
    """The states a recipe went through, progress reports left out."""
    own = [each for each in events if each.subject == model_id and "read_bytes" not in each.data]
    return [str(each.data["state"]) for each in own if "name" not in each.data]


async def test_registering_checks_everything_and_builds_nothing(lab, manifest, follow) -> None:
    async with lab() as parts:
        entry, is_new = await parts.lifecycle.register(manifest("ties"))
        assert (is_new, entry.state, parts.engine.models()) == (True, "registered", [])
        assert parts.engine.stats().weight_bytes == 0
        again, is_new = await parts.lifecycle.register(manifest("ties"))
        assert (again, is_new) == (entry, False)
        wrong = {"base": {"model": "mini/base", "digest": "sha256:" + "0" * 64}}
        broken = build_manifest({"format": "evoserve/1", "name": "broken", "sources": wrong})
        with pytest.raises(DigestMismatch):
            await parts.lifecycle.register(broken)
        assert [each.manifest.name for each in parts.lifecycle.recipes] == ["mini-ties"]


async def test_what_the_digest_does_not_cover_is_replaced_while_served(lab, manifest) -> None:
    async with lab() as parts:
        (model_id,) = await parts.register("ties")
        await parts.lifecycle.load(model_id)
        changed = manifest("ties", generation={"max_tokens": 3}, chat_template="{{ 1 }}")
        entry, is_new = await parts.lifecycle.register(changed)
        assert (is_new, entry.model_id, entry.state) == (False, model_id, "ready")
        async with parts.lifecycle.hold("mini-ties") as served:
            assert served.generation.max_tokens == 3
            assert served.chat_template == "{{ 1 }}"


async def test_a_recipe_goes_through_its_states(lab, follow) -> None:
    async with lab() as parts:
        async with follow(parts.lifecycle) as events:
            (model_id,) = await parts.register("dare-ties")
            entry = await parts.lifecycle.load(model_id)
            assert entry.info is not None
            await parts.lifecycle.unload(model_id)
        expected = ["registered", "queued", "building", "ready", "draining", "registered"]
        assert states(events, model_id) == expected
        assert parts.engine.stats().weight_bytes == 0
        assert entry.info is None


async def test_many_first_requests_share_one_build(lab, follow) -> None:
    async with lab() as parts:
        (model_id,) = await parts.register("dfs")
        async with follow(parts.lifecycle) as events:
            found = await asyncio.gather(*(parts.ask("mini-dfs") for _ in range(12)))
        assert found == [model_id] * 12
        assert states(events, model_id) == ["queued", "building", "ready"]


async def test_a_request_waits_no_longer_than_it_should(lab) -> None:
    async with lab(load_timeout_s=0) as parts:
        (model_id,) = await parts.register("ties")
        with pytest.raises(CapacityError, match="within 0 s"):
            await parts.ask(model_id)
        await parts.lifecycle.load(model_id)  # the build went on: this only joins it
        assert await parts.ask(model_id) == model_id


async def test_too_many_waiting_requests_are_turned_away(lab) -> None:
    async with lab(max_queue=1) as parts:
        (model_id,) = await parts.register("ties")
        found = await asyncio.gather(
            *(parts.ask(model_id) for _ in range(3)), return_exceptions=True
        )
        assert [model_id in (each,) for each in found] == [True, False, False]
        assert all(isinstance(each, CapacityError) for each in found[1:])


async def test_the_least_recently_used_goes_first_and_pinned_ones_stay(lab) -> None:
    names = ["ties", "slerp", "linear"]
    async with lab() as free:
        ids = await free.register(*names)
        for model_id in ids:
            await free.lifecycle.load(model_id)
        entries = [free.lifecycle.recipes.get(model_id) for model_id in ids]
        budget = PADDED * union_bytes([entry.footprint for entry in entries])
    async with lab(memory_bytes=int(budget)) as parts:
        await parts.register(*names, "karcher", "task-arithmetic", "breadcrumbs")
        for name in names:
            await parts.lifecycle.load(f"mini-{name}")
        parts.lifecycle.pin("mini-ties")
        await parts.ask("mini-slerp")
        await parts.lifecycle.load("mini-karcher")
        assert parts.ready() == ["mini-ties", "mini-slerp", "mini-karcher"]
        await parts.lifecycle.load("mini-task-arithmetic")
        assert parts.ready() == ["mini-ties", "mini-karcher", "mini-task-arithmetic"]
        parts.lifecycle.pin("mini-ties", is_pinned=False)
        await parts.ask("mini-breadcrumbs")
        assert parts.ready() == ["mini-karcher", "mini-task-arithmetic", "mini-breadcrumbs"]
        assert await parts.ask("mini-ties") == parts.lifecycle.recipes.get("mini-ties").model_id


async def test_recipes_in_use_are_not_unloaded_to_make_room(lab) -> None:
    async with lab() as free:
        (model_id,) = await free.register("ties")
        budget = union_bytes([free.lifecycle.recipes.get(model_id).footprint])
    async with lab(memory_bytes=budget + budget // 2, load_timeout_s=0.2) as parts:
        old, new = await parts.register("ties", "slerp")
        await parts.lifecycle.load(old)
        async with parts.lifecycle.hold(old):
            with pytest.raises(CapacityError, match="memory_bytes"):
                await parts.lifecycle.load(new)
            assert parts.ready() == ["mini-ties"]
        await parts.lifecycle.load(new)
        assert parts.ready() == ["mini-slerp"]


async def test_what_can_never_fit_is_refused_with_the_numbers(lab) -> None:
    async with lab(memory_bytes=3 * 2**20) as parts:
        (model_id,) = await parts.register("ties")
        needs = parts.lifecycle.recipes.get(model_id).footprint
        with pytest.raises(ConflictError) as caught:
            await parts.lifecycle.load(model_id)
        for number in (needs.weight_bytes, needs.kv_cache_bytes, 3 * 2**20):
            assert str(number) in str(caught.value)
        with pytest.raises(CapacityError):
            await parts.ask(model_id)
        entry = parts.lifecycle.recipes.get(model_id)
        assert (entry.state, entry.reason) == ("registered", str(caught.value))


@pytest.mark.parametrize("form", [{}, {"quantization": "int8"}, {"dtype": "bfloat16"}])
async def test_predictions_are_what_is_held(lab, manifest, form: dict[str, str]) -> None:
    names = ["ties", "dfs", "ps-dfs", "lora", "dare-ties"]
    async with lab(**form) as parts:
        locator = build_locator(parts.settings)
        recipes = [resolve_recipe(manifest(name), locator) for name in names]
        predicted = [predict(recipe, parts.settings) for recipe in recipes]
        await parts.register(*names)
        for count, name in enumerate(names, start=1):
            entry = await parts.lifecycle.load(f"mini-{name}")
            own = predicted[count - 1].weight_bytes
            assert own <= entry.info.weight_bytes <= PADDED * own
            assert entry.info.kv_cache_bytes <= predicted[count - 1].kv_cache_bytes
            bound = sum(each.kv_cache_bytes for each in predicted[:count])
            held = union_bytes(predicted[:count]) - bound
            assert held <= parts.engine.stats().weight_bytes <= PADDED * held


def copied_recipe(folder: Path) -> dict[str, object]:
    shutil.copytree(MINI / "math", folder / "math")
    sources = {"math": {"model": str(folder / "math")}}
    return {"format": "evoserve/1", "name": "copied", "sources": sources}


async def test_a_build_that_fails_leaves_what_is_served(lab, tmp_path: Path) -> None:
    document = copied_recipe(tmp_path)
    async with lab() as parts:
        (old,) = await parts.register("ties")
        await parts.lifecycle.set_alias("prod", [Target(old)])
        entry, _ = await parts.lifecycle.register(build_manifest(document))
        file = tmp_path / "math" / "model.safetensors"
        tensors = {name: tensor.clone() for name, tensor in load_file(file).items()}
        tensors["model.norm.weight"][0] = float("nan")
        save_file(tensors, file, metadata={"format": "pt"})
        held = parts.engine.stats().weight_bytes
        with pytest.raises(SourceError, match=r"model\.norm\.weight"):
            await parts.lifecycle.set_alias("prod", [Target(entry.model_id)])
        assert entry.state == "failed"
        assert "model.norm.weight" in entry.reason
        assert parts.engine.stats().weight_bytes == held
        assert await parts.ask("prod") == old
        with pytest.raises(CapacityError, match="operator") as caught:
            await parts.ask("copied")
        assert str(tmp_path) not in str(caught.value)
        shutil.copy(MINI / "math" / "model.safetensors", file)
        await parts.lifecycle.set_alias("prod", [Target("copied")])
        assert await parts.ask("prod") != old


async def test_unloading_waits_for_requests_that_are_about_to_be_sent(lab) -> None:
    async with lab() as parts:
        (model_id,) = await parts.register("ties")
        await parts.lifecycle.load(model_id)
        async with parts.lifecycle.hold("mini-ties") as served:
            unloading = asyncio.create_task(parts.lifecycle.unload(model_id))
            await asyncio.sleep(0)
            assert parts.lifecycle.recipes.get(model_id).state == "draining"
            assert len(await parts.generate(served.model_id)) == 4
            assert not unloading.done()
        await unloading
        assert parts.engine.models() == []
        assert await parts.ask("mini-ties") == model_id  # and is loaded again when asked for


async def test_a_request_that_comes_while_it_drains_is_answered(lab) -> None:
    async with lab() as parts:
        (model_id,) = await parts.register("ties")
        await parts.lifecycle.load(model_id)
        async with parts.lifecycle.hold(model_id):
            unloading = asyncio.create_task(parts.lifecycle.unload(model_id))
            await asyncio.sleep(0)
            asking = asyncio.create_task(parts.ask(model_id))
            await asyncio.sleep(0)
        await unloading
        assert await asking == model_id


async def test_deleting_is_refused_while_aliased_or_building(lab) -> None:
    async with lab() as parts:
        one, two = await parts.register("ties", "slerp")
        await parts.lifecycle.set_alias("prod", [Target(one)])
        with pytest.raises(ConflictError, match="alias 'prod'"):
            await parts.lifecycle.delete(one)
        loading = asyncio.create_task(parts.lifecycle.load(two))
        await asyncio.sleep(0)
        with pytest.raises(ConflictError, match=r"queued|building"):
            await parts.lifecycle.delete(two)
        await loading
        await parts.lifecycle.delete(two)
        assert [each.model_id for each in parts.lifecycle.recipes] == [one]
        with pytest.raises(UnknownModel):
            await parts.ask(two)
        with pytest.raises(UnknownRecipe):
            await parts.lifecycle.load(two)


async def test_plain_names_follow_the_version_that_was_loaded_last(lab, manifest) -> None:
    document = json.loads(manifest("ties").model_dump_json(by_alias=True, exclude_none=True))
    document["name"] = "mini-slerp"
    async with lab() as parts:
        (old,) = await parts.register("slerp")
        await parts.lifecycle.load(old)
        entry, _ = await parts.lifecycle.register(build_manifest(document))
        assert await parts.ask("mini-slerp") == old
        assert await parts.ask(entry.model_id) == entry.model_id
        assert await parts.ask("mini-slerp") == old  # a client cannot move a name
        await parts.lifecycle.load(entry.model_id)
        assert await parts.ask("mini-slerp") == entry.model_id
        await parts.lifecycle.delete(entry.model_id)
        assert await parts.ask("mini-slerp") == old


async def test_a_build_under_way_ends_before_its_next_tensor_when_all_is_closed(
    lab, monkeypatch
) -> None:
    counted: list[int] = []
    has_begun, may_go_on = threading.Event(), threading.Event()

    def wait(counter: ReadCounter, num_bytes: int) -> None:
        counted.append(num_bytes)
        has_begun.set()
        assert may_go_on.wait(60)

    monkeypatch.setattr(ReadCounter, "add", wait)
    async with lab() as parts:
        (model_id,) = await parts.register("dfs")
        loading = asyncio.ensure_future(parts.lifecycle.load(model_id))
        await asyncio.to_thread(has_begun.wait, 60)
        closing = asyncio.ensure_future(parts.lifecycle.close())
        await asyncio.sleep(0)
        may_go_on.set()
        await closing
    assert len(counted) == 1
    with pytest.raises(asyncio.CancelledError):
        await loading


async def test_progress_ends_at_what_was_predicted(lab, monkeypatch) -> None:
    seen = []
    build = Loader._build

    async def spy(self, entry, recipe, footprint):
        served = build(self, entry, recipe, footprint)
        task = asyncio.ensure_future(served)
        await asyncio.sleep(0)
        progress = entry.progress
        result = await task
        seen.append((progress.read_bytes, progress.counter.num_bytes, progress.total_bytes))
        return result

    monkeypatch.setattr(Loader, "_build", spy)
    async with lab() as parts:
        await parts.register("linear", "dfs")
        for name in ("mini-linear", "mini-dfs"):
            await parts.lifecycle.load(name)
    for read, counted, total in seen:
        assert read == total
        assert counted >= total > 0


async def test_recipes_over_the_same_files_share_a_tokenizer(lab) -> None:
    async with lab() as parts:
        await parts.register("ties", "slerp")
        for name in ("mini-ties", "mini-slerp"):
            await parts.lifecycle.load(name)
        one, other = (parts.registry.resolve(name) for name in ("mini-ties", "mini-slerp"))
        assert one.tokenizer is other.tokenizer
        assert one.model_id != other.model_id
