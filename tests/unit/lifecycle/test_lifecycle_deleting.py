"""A deleted recipe stays deleted, whoever was about to use it."""

import asyncio
import json
from pathlib import Path

import pytest

from evoserve.errors import UnknownModel, UnknownRecipe
from evoserve.lifecycle.split import Target
from evoserve.lifecycle.store import StateStore
from evoserve.manifest.load import build_manifest


def nothing_is_left(parts) -> bool:
    stats = parts.engine.stats()
    is_known = list(parts.lifecycle.recipes) or parts.registry.names()
    return not is_known and parts.engine.models() == [] and stats.weight_bytes == 0


async def test_a_request_that_comes_while_it_is_deleted_is_told_so(lab, tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    async with lab(StateStore(file)) as parts:
        (model_id,) = await parts.register("ties")
        await parts.lifecycle.load(model_id)
        async with parts.lifecycle.hold(model_id):
            deleting = asyncio.create_task(parts.lifecycle.delete(model_id))
            await asyncio.sleep(0)
            asking = [asyncio.create_task(parts.ask(name)) for name in (model_id, "mini-ties")]
            await asyncio.sleep(0)
        await deleting
        for each in asking:
            with pytest.raises(UnknownModel):
                await each
        assert nothing_is_left(parts)
    async with lab(StateStore(file)) as parts:
        assert list(parts.lifecycle.recipes) == []


async def test_a_change_that_waits_for_a_deleted_recipe_is_refused(lab) -> None:
    async with lab() as parts:
        (model_id,) = await parts.register("ties")
        await parts.lifecycle.load(model_id)
        async with parts.lifecycle.hold(model_id):
            deleting = asyncio.create_task(parts.lifecycle.delete(model_id))
            await asyncio.sleep(0)
            changes = [
                asyncio.create_task(parts.lifecycle.load(model_id)),
                asyncio.create_task(parts.lifecycle.set_alias("prod", [Target(model_id)])),
            ]
            await asyncio.sleep(0)
        await deleting
        for change in changes:
            with pytest.raises(UnknownRecipe):
                await change
        assert parts.lifecycle.aliases.find("prod") is None
        assert nothing_is_left(parts)


async def test_a_plain_name_goes_on_to_another_version(lab, manifest) -> None:
    """The request came for the version that is being deleted; it gets the one that is left."""
    document = json.loads(manifest("slerp").model_dump_json(by_alias=True, exclude_none=True))
    renamed = build_manifest({**document, "name": "mini-ties"})
    async with lab() as parts:
        (old,) = await parts.register("ties")
        await parts.lifecycle.load(old)
        entry, _ = await parts.lifecycle.register(renamed)
        async with parts.lifecycle.hold(old):
            deleting = asyncio.create_task(parts.lifecycle.delete(old))
            await asyncio.sleep(0)
            asking = asyncio.create_task(parts.ask("mini-ties"))
            await asyncio.sleep(0)
        await deleting
        assert await asking == entry.model_id
