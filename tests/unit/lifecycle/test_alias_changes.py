"""Aliases over real recipes: staged swaps, versions, the way back, restarts."""

import asyncio
from pathlib import Path

import pytest

from evoserve.errors import ConflictError, RequestError, UnknownModel, UnknownRecipe
from evoserve.lifecycle.split import Target, choose
from evoserve.lifecycle.store import StateStore


def one(model_id: str) -> list[Target]:
    return [Target(model_id)]


async def test_an_alias_moves_only_once_its_target_is_ready(lab, follow) -> None:
    async with lab() as parts:
        old, new = await parts.register("ties", "dfs")
        await parts.lifecycle.set_alias("prod", one(old))
        async with follow(parts.lifecycle) as events:
            moving = asyncio.create_task(parts.lifecycle.set_alias("prod", one("mini-dfs")))
            while not moving.done():
                assert await parts.ask("prod") in (old, new)
                entry = parts.lifecycle.recipes.get(new)
                assert entry.state == "ready" or await parts.ask("prod") == old
        assert await parts.ask("prod") == new
        kinds = [(each.kind, each.subject) for each in events]
        ready = [each.data.get("state") == "ready" for each in events].index(True)
        assert kinds.index(("alias", "prod")) > ready
        assert (await moving).targets == tuple(one(new))


async def test_an_alias_comes_before_a_plain_name_and_gives_it_back(lab) -> None:
    async with lab() as parts:
        ties, dfs = await parts.register("ties", "dfs")
        await parts.lifecycle.set_alias("mini-ties", one(dfs))
        assert await parts.ask("mini-ties") == dfs
        assert parts.lifecycle.names()["mini-ties"].model_id == dfs
        parts.lifecycle.delete_alias("mini-ties")
        assert await parts.ask("mini-ties") == ties
        with pytest.raises(UnknownRecipe, match="alias"):
            parts.lifecycle.delete_alias("mini-ties")
        assert len(parts.lifecycle.aliases.history("mini-ties")) == 2


async def test_rolling_back_twice_goes_forth_again(lab) -> None:
    async with lab() as parts:
        ids = await parts.register("ties", "slerp", "dfs")
        with pytest.raises(UnknownRecipe):
            await parts.lifecycle.rollback("prod")
        await parts.lifecycle.set_alias("prod", one(ids[0]))
        with pytest.raises(ConflictError, match="no version 0"):
            await parts.lifecycle.rollback("prod")
        await parts.lifecycle.set_alias("prod", one(ids[1]))
        await parts.lifecycle.set_alias("prod", one(ids[2]), retire=True)
        await parts.lifecycle.unload(ids[1])
        assert (await parts.lifecycle.rollback("prod")).targets == tuple(one(ids[1]))
        assert await parts.ask("prod") == ids[1]
        await parts.lifecycle.rollback("prod")
        assert await parts.ask("prod") == ids[2]
        change = await parts.lifecycle.rollback("prod", 1)
        assert (change.version, change.action, change.targets) == (
            6,
            "rollback",
            tuple(one(ids[0])),
        )
        with pytest.raises(ConflictError, match="no version 77"):
            await parts.lifecycle.rollback("prod", 77)


async def test_retiring_unloads_what_nothing_leads_to(lab) -> None:
    async with lab() as parts:
        ids = await parts.register("ties", "slerp", "dfs", "linear")
        parts.lifecycle.pin(ids[2])
        await parts.lifecycle.set_alias("other", one(ids[1]))
        await parts.lifecycle.set_alias("prod", [Target(each) for each in ids[:3]])
        await parts.lifecycle.set_alias("prod", one(ids[3]), retire=True)
        while parts.lifecycle.recipes.get(ids[0]).state != "registered":
            await asyncio.sleep(0)
        assert parts.ready() == ["mini-slerp", "mini-dfs", "mini-linear"]


async def test_a_key_stays_and_requests_without_one_are_spread(lab) -> None:
    async with lab() as parts:
        ids = await parts.register("ties", "slerp")
        targets = [Target(ids[0], 3), Target(ids[1], 1)]
        await parts.lifecycle.set_alias("prod", targets)
        for number in range(20):
            expected = choose("prod", targets, f"key {number}")
            assert await parts.ask("prod", str(number)) == expected
            assert await parts.ask("prod", str(number)) == expected
        assert {await parts.ask("prod") for _ in range(60)} == set(ids)


async def test_targets_and_names_are_checked_before_anything_is_loaded(lab) -> None:
    async with lab() as parts:
        (model_id,) = await parts.register("ties")
        for name in ("", "a b", "x@y", "-a", "a" * 129):
            with pytest.raises(RequestError, match="alias"):
                await parts.lifecycle.set_alias(name, one(model_id))
        with pytest.raises(UnknownRecipe, match="nobody"):
            await parts.lifecycle.set_alias("prod", [Target(model_id), Target("nobody")])
        with pytest.raises(RequestError, match="twice"):
            await parts.lifecycle.set_alias("prod", [Target(model_id), Target("mini-ties")])
        assert parts.ready() == []
        with pytest.raises(UnknownModel):
            await parts.ask("prod")


async def test_changes_of_one_alias_come_one_after_the_other(lab) -> None:
    async with lab() as parts:
        ids = await parts.register("ties", "slerp", "dfs", "linear")
        changes = await asyncio.gather(
            *(parts.lifecycle.set_alias("prod", one(model_id)) for model_id in ids)
        )
        assert sorted(change.version for change in changes) == [1, 2, 3, 4]
        last = max(changes, key=lambda change: change.version)
        assert await parts.ask("prod") == last.targets[0].model_id


async def test_a_restart_brings_back_what_was_there(lab, tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    async with lab(StateStore(file)) as parts:
        ids = await parts.register("ties", "slerp", "dfs")
        await parts.lifecycle.set_alias("prod", [Target(ids[0], 1), Target(ids[1], 2)])
        parts.lifecycle.pin(ids[1])
        await parts.lifecycle.load("mini-dfs")
        await parts.lifecycle.unload("mini-dfs")
    async with lab(StateStore(file)) as parts:
        await parts.lifecycle.restore()
        assert [each.model_id for each in parts.lifecycle.recipes] == ids
        assert parts.ready() == ["mini-ties", "mini-slerp"]
        assert parts.lifecycle.recipes.get(ids[1]).stored.is_pinned
        assert [each.weight for each in parts.lifecycle.aliases.get("prod").targets] == [1, 2]
        assert set(parts.lifecycle.names()) == {
            *ids, "mini-ties", "mini-slerp", "mini-dfs", "prod"
        }  # fmt: skip
        assert await parts.ask("mini-dfs") == ids[2]


async def test_a_recipe_that_is_broken_at_restart_stops_nobody(lab, tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    async with lab(StateStore(file)) as parts:
        ids = await parts.register("ties", "dfs")
        for model_id in ids:
            await parts.lifecycle.load(model_id)
    async with lab(StateStore(file), source_roots=(tmp_path,)) as parts:
        await parts.lifecycle.restore()
        assert [each.state for each in parts.lifecycle.recipes] == ["failed", "failed"]
        assert "source_roots" in parts.lifecycle.recipes.get(ids[0]).reason
    async with lab(StateStore(file)) as parts:
        await parts.lifecycle.restore()
        assert parts.ready() == ["mini-ties", "mini-dfs"]


async def test_the_way_back_does_not_wait_for_requests_of_the_retired(lab) -> None:
    async with lab() as parts:
        old, new = await parts.register("ties", "dfs")
        await parts.lifecycle.set_alias("prod", one(old))
        async with parts.lifecycle.hold("prod") as served:
            await parts.lifecycle.set_alias("prod", one(new), retire=True)
            await parts.lifecycle.rollback("prod", retire=True)  # would hang if `old` drained
            assert await parts.ask("prod") == served.model_id == old
        while parts.ready() != ["mini-ties"]:
            await asyncio.sleep(0)


async def test_a_changed_file_takes_the_place_of_what_it_held(lab, manifest) -> None:
    file = Path("/recipes/one.json")
    async with lab() as parts:
        first = await parts.lifecycle.follow(manifest("ties"), file, "file")
        second = await parts.lifecycle.follow(manifest("slerp"), file, "file")
        assert list(parts.lifecycle.recipes) == [second]
        await parts.lifecycle.set_alias("prod", one(second.model_id))
        third = await parts.lifecycle.follow(manifest("dfs"), file, "file")
        assert list(parts.lifecycle.recipes) == [second, third]
        assert first.model_id not in parts.lifecycle.names()
