"""A watched folder: files that come, change and go, and those that are wrong."""

import os
import shutil
from pathlib import Path

from evoserve.lifecycle.split import Target
from evoserve.lifecycle.store import StateStore
from evoserve.lifecycle.watch import FolderWatch
from evoserve.manifest.load import save_manifest

RECIPES = Path(__file__).parents[3] / "models" / "recipes"


def put(folder: Path, name: str, file: str | None = None) -> Path:
    """A shipped recipe as an old file of the folder."""
    target = folder / (file or f"{name}.json")
    shutil.copy(RECIPES / f"mini-{name}.json", target)
    return age(target)


def age(file: Path) -> Path:
    """Make a file look as if it had been written an hour ago."""
    then = file.stat().st_mtime - 3600
    os.utime(file, (then, then))
    return file


async def test_files_that_come_and_go_are_recipes_that_come_and_go(lab, folder: Path) -> None:
    put(folder, "ties")
    put(folder, "slerp")
    (folder / "notes.txt").write_text("no recipe")
    (folder / ".hidden.json").write_text("{")
    async with lab() as parts:
        await parts.register("linear")
        watch = FolderWatch(parts.lifecycle, folder)
        await watch.poll()
        assert sorted(parts.ready()) == ["mini-slerp", "mini-ties"]
        (folder / "ties.json").unlink()
        put(folder, "dfs")
        await watch.poll()
        assert sorted(parts.ready()) == ["mini-dfs", "mini-slerp", "mini-ties"]  # gone but once
        await watch.poll()
        assert sorted(parts.ready()) == ["mini-dfs", "mini-slerp"]
        names = [each.manifest.name for each in parts.lifecycle.recipes]
        assert names == ["mini-linear", "mini-slerp", "mini-dfs"]  # linear is not the folder's


async def test_a_changed_file_is_a_swap_under_the_same_name(lab, manifest, folder: Path) -> None:
    file = put(folder, "ties")
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        await watch.poll()
        old = await parts.ask("mini-ties")
        merges = manifest("ties").model_dump(mode="json", by_alias=True, exclude_none=True)[
            "merges"
        ]
        next(iter(merges.values()))["weights"]["ja"] = 0.25
        save_manifest(manifest("ties", merges=merges), file)
        age(file)
        await watch.poll()
        new = await parts.ask("mini-ties")
        assert new != old
        assert [each.model_id for each in parts.lifecycle.recipes] == [new]
        assert [info.model_id for info in parts.engine.models()] == [new]


async def test_a_bad_file_is_reported_once_and_changes_nothing(lab, follow, folder: Path) -> None:
    file = put(folder, "ties")
    put(folder, "slerp")
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        await watch.poll()
        file.write_text('{"format": "evoserve/1", "colour": 1}')
        age(file)
        async with follow(parts.lifecycle) as events:
            await watch.poll()
            await watch.poll()
        errors = [each.data["error"] for each in events if "error" in each.data]
        assert len(errors) == 1
        assert "colour" in str(errors[0])
        assert sorted(parts.ready()) == ["mini-slerp", "mini-ties"]
        put(folder, "dfs", "ties.json")
        await watch.poll()
        assert sorted(parts.ready()) == ["mini-dfs", "mini-slerp"]


async def test_a_file_that_is_still_written_is_left_alone(lab, folder: Path) -> None:
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        await watch.poll()
        file = folder / "ties.json"
        whole = (RECIPES / "mini-ties.json").read_text()
        file.write_text(whole[:100])
        await watch.poll()
        file.write_text(whole)
        await watch.poll()
        assert parts.ready() == []
        await watch.poll()
        assert parts.ready() == ["mini-ties"]


async def test_an_aliased_recipe_outlives_its_file(lab, follow, folder: Path) -> None:
    file = put(folder, "ties")
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        await watch.poll()
        await parts.lifecycle.set_alias("prod", [Target("mini-ties")])
        file.unlink()
        async with follow(parts.lifecycle) as events:
            await watch.poll()
            await watch.poll()
        assert len([each for each in events if "alias 'prod'" in str(each.data)]) == 1
        assert parts.ready() == ["mini-ties"]
        parts.lifecycle.delete_alias("prod")
        await watch.poll()
        assert list(parts.lifecycle.recipes) == []


async def test_a_folder_that_is_away_changes_nothing(lab, follow, folder: Path) -> None:
    put(folder, "ties")
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        await watch.poll()
        folder.rename(folder.with_name("away"))
        async with follow(parts.lifecycle) as events:
            await watch.poll()
            await watch.poll()
        assert len([each for each in events if each.kind == "watch"]) == 1
        assert parts.ready() == ["mini-ties"]
        folder.with_name("away").rename(folder)
        await watch.poll()
        assert parts.ready() == ["mini-ties"]


async def test_files_that_went_while_the_server_was_down_are_noticed(
    lab, folder: Path, tmp_path: Path
) -> None:
    store = tmp_path / "state.db"
    gone = put(folder, "ties")
    put(folder, "slerp")
    async with lab(StateStore(store)) as parts:
        await FolderWatch(parts.lifecycle, folder).poll()
    gone.unlink()
    async with lab(StateStore(store)) as parts:
        await parts.lifecycle.restore()
        await FolderWatch(parts.lifecycle, folder).poll()
        assert [each.manifest.name for each in parts.lifecycle.recipes] == ["mini-slerp"]
        assert parts.ready() == ["mini-slerp"]
