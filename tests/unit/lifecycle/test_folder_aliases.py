"""Aliases and pins of a watched folder."""

import os
from pathlib import Path

from evoserve.lifecycle.split import Target
from evoserve.lifecycle.watch import FolderWatch
from tests.folder_lab import OLD, put

ROOT = Path(__file__).parents[3]


def write(folder: Path, text: str) -> Path:
    file = folder / "aliases.yaml"
    file.write_text(text)
    os.utime(file, OLD)
    return file


def leads(parts, alias: str) -> dict[str, float]:
    change = parts.lifecycle.aliases.get(alias)
    return {each.model_id.partition("@")[0]: each.weight for each in change.targets}


async def test_the_documented_file_sets_aliases_and_pins_once(lab, folder: Path) -> None:
    guide = (ROOT / "docs" / "operations.md").read_text()
    example = "format: evoserve-aliases/1" + guide.split("format: evoserve-aliases/1")[1]
    write(folder, example.partition("```")[0])
    put(folder / "dfs.json", "dfs")
    put(folder / "ties.json", "ties")
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        await watch.poll()
        await watch.poll()
        assert leads(parts, "prod") == {"mini-dfs": 1}
        assert leads(parts, "canary") == {"mini-dfs": 9, "mini-ties": 1}
        assert [each.version for each in parts.lifecycle.aliases.all()] == [1, 1]
        pinned = [e.manifest.name for e in parts.lifecycle.recipes if e.stored.is_pinned]
        assert pinned == ["mini-dfs"]


async def test_only_what_the_file_has_set_is_taken_back(lab, folder: Path) -> None:
    file = write(
        folder, "format: evoserve-aliases/1\naliases: {prod: mini-ties}\npinned: [mini-ties]"
    )
    put(folder / "ties.json", "ties")
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        await watch.poll()
        await parts.lifecycle.set_alias("mine", [Target("mini-ties")])
        file.unlink()
        await watch.poll()
        assert leads(parts, "prod") == {"mini-ties": 1}  # gone but once
        await watch.poll()
        assert [each.alias for each in parts.lifecycle.aliases.all()] == ["mine"]
        assert not parts.lifecycle.recipes.get("mini-ties").stored.is_pinned


async def test_a_recipe_that_is_not_there_yet_is_waited_for(lab, follow, folder: Path) -> None:
    write(folder, "format: evoserve-aliases/1\naliases: {prod: mini-ties}")
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        async with follow(parts.lifecycle) as events:
            await watch.poll()
            await watch.poll()
        assert len([each for each in events if "error" in each.data]) == 1
        put(folder / "ties.json", "ties")
        await watch.poll()
        assert leads(parts, "prod") == {"mini-ties": 1}


async def test_a_wrong_alias_file_is_reported_and_changes_nothing(
    lab, follow, folder: Path
) -> None:
    write(folder, "format: evoserve-aliases/1\naliases: {prod: mini-ties}")
    put(folder / "ties.json", "ties")
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        await watch.poll()
        write(folder, "format: evoserve-aliases/1\ncolour: 1")
        async with follow(parts.lifecycle) as events:
            await watch.poll()
            await watch.poll()
        (error,) = [str(each.data["error"]) for each in events if "error" in each.data]
        assert "colour" in error
        assert leads(parts, "prod") == {"mini-ties": 1}
