"""A recipe that failed is served again once its cause is gone; nobody has to tell the server."""

import asyncio
import shutil
from pathlib import Path

import pytest

from evoserve.errors import CapacityError, ConflictError, UnknownRecipe
from evoserve.lifecycle.book import RecipeState
from evoserve.lifecycle.split import Target
from evoserve.lifecycle.store import StateStore
from evoserve.manifest.load import build_manifest

MINI = Path(__file__).parents[3] / "models" / "mini"


@pytest.fixture
def copied(tmp_path: Path):
    """A recipe over files of its own, and their folder."""
    folder = tmp_path / "math"
    shutil.copytree(MINI / "math", folder)
    sources = {"math": {"model": str(folder)}}
    return build_manifest({"format": "evoserve/1", "name": "copied", "sources": sources}), folder


async def test_requests_try_a_failed_recipe_again_after_a_pause(lab, copied) -> None:
    manifest, folder = copied
    async with lab() as parts:
        entry, _ = await parts.lifecycle.register(manifest)
        away = folder.rename(folder.with_name("away"))
        with pytest.raises(CapacityError):
            await parts.ask("copied")
        assert (entry.state, entry.num_failures) == ("failed", 1)
        entry.failed_at += 1000  # a long pause
        with pytest.raises(CapacityError) as caught:
            await parts.ask("copied")
        assert entry.num_failures == 1  # left alone
        assert caught.value.retry_after_s > 900
        assert parts.lifecycle.names() == {}
        away.rename(folder)
        entry.failed_at -= 2000
        assert "copied" in parts.lifecycle.names()
        assert await parts.ask("copied") == entry.model_id
        assert entry.num_failures == 0


async def test_pauses_double_up_to_a_minute(lab) -> None:
    async with lab() as parts:
        (model_id,) = await parts.register("ties")
        entry = parts.lifecycle.recipes.get(model_id)
        pauses = []
        for _ in range(8):
            parts.lifecycle.recipes.set_state(entry, RecipeState.FAILED, "broken")
            pauses.append(entry.retry_in_s)
        assert pauses == pytest.approx([1, 2, 4, 8, 16, 32, 60, 60], abs=0.9)
        await parts.lifecycle.load(model_id)  # whoever asks for it expressly need not wait
        assert (entry.state, entry.retry_in_s) == ("ready", 0)


async def test_what_could_not_be_restored_heals_by_itself(
    lab, copied, tmp_path: Path, monkeypatch
) -> None:
    manifest, folder = copied
    monkeypatch.setattr("evoserve.lifecycle.book.FIRST_RETRY_S", 0.01)
    async with lab(StateStore(tmp_path / "state.db")) as parts:
        entry, _ = await parts.lifecycle.register(manifest)
        await parts.lifecycle.load(entry.model_id)
    away = folder.rename(folder.with_name("away"))
    async with lab(StateStore(tmp_path / "state.db")) as parts:
        await parts.lifecycle.restore()
        assert parts.lifecycle.recipes.get("copied").state == "failed"
        async with asyncio.timeout(60):
            with parts.lifecycle.events.follow() as queue:
                away.rename(folder)
                while (await queue.get()).data.get("state") != "ready":
                    pass
        assert parts.ready() == ["copied"]


async def test_a_source_that_changed_since_it_was_registered_is_told_about(lab, copied) -> None:
    manifest, folder = copied
    async with lab() as parts:
        entry, _ = await parts.lifecycle.register(manifest)
        await parts.lifecycle.load("copied")
        assert entry.warnings == ()
        await parts.lifecycle.unload("copied")
        shutil.copy(MINI / "ja" / "model.safetensors", folder / "new")
        (folder / "new").rename(folder / "model.safetensors")
        await parts.lifecycle.load("copied")
        assert [each for each in entry.warnings if "'math' has changed" in each]
        await parts.lifecycle.unload("copied")
        await parts.lifecycle.register(manifest)
        await parts.lifecycle.load("copied")
        assert entry.warnings == ()


async def test_of_many_deletions_one_succeeds_and_the_others_find_nothing(lab) -> None:
    async with lab() as parts:
        (model_id,) = await parts.register("ties")
        await parts.lifecycle.load(model_id)
        found = await asyncio.gather(
            *(parts.lifecycle.delete(model_id) for _ in range(4)), return_exceptions=True
        )
        assert found.count(None) == 1
        assert sum(isinstance(each, UnknownRecipe) for each in found) == 3


async def test_registering_during_a_deletion_keeps_the_recipe(lab, manifest) -> None:
    async with lab() as parts:
        (model_id,) = await parts.register("ties")
        await parts.lifecycle.load(model_id)
        async with parts.lifecycle.hold(model_id):
            deleting = asyncio.create_task(parts.lifecycle.delete(model_id))
            await asyncio.sleep(0)
            _, is_new = await parts.lifecycle.register(manifest("ties"))
            assert not is_new
        with pytest.raises(ConflictError, match="registered again"):
            await deleting
        assert await parts.ask("mini-ties") == model_id


async def test_targets_are_checked_before_an_alias_is_changed_in_the_background(lab) -> None:
    async with lab() as parts:
        (model_id,) = await parts.register("ties")
        assert parts.lifecycle.resolve_targets("prod", [Target("mini-ties")])[0].model_id == (
            model_id
        )
        with pytest.raises(UnknownRecipe):
            parts.lifecycle.resolve_targets("prod", [Target("nothing")])
