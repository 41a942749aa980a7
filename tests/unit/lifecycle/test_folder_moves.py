"""A watched folder whose files move: renamed, replaced, swapped behind links, held twice."""

import shutil
from pathlib import Path

from evoserve.lifecycle.footprint import union_bytes
from evoserve.lifecycle.split import Target
from evoserve.lifecycle.watch import FolderWatch
from tests.folder_lab import put


def swap_config_map(folder: Path, version: str, name: str) -> None:
    """As Kubernetes' kubelet does: `a.json` links to `..data/a.json`, `..data` to a new folder."""
    inside = folder / f"..{version}"
    inside.mkdir()
    put(inside / "a.json", name)
    (folder / "..data_tmp").symlink_to(inside.name)
    (folder / "..data_tmp").rename(folder / "..data")
    if not (folder / "a.json").is_symlink():
        (folder / "a.json").symlink_to("..data/a.json")


async def test_a_config_map_s_swap_of_links_is_a_swap_of_recipes(lab, folder: Path) -> None:
    swap_config_map(folder, "2026_01", "ties")
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        await watch.poll()
        assert parts.ready() == ["mini-ties"]
        swap_config_map(folder, "2026_02", "slerp")
        shutil.rmtree(folder / "..2026_01")
        await watch.poll()
        assert [each.manifest.name for each in parts.lifecycle.recipes] == ["mini-slerp"]
        assert parts.ready() == ["mini-slerp"]


async def test_a_file_that_is_away_for_a_moment_stops_nothing(lab, follow, folder: Path) -> None:
    file = put(folder / "ties.json", "ties")
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        await watch.poll()
        async with follow(parts.lifecycle) as events:
            file.unlink()
            await watch.poll()
            put(file, "ties")
            await watch.poll()
        assert not [each for each in events if each.kind == "recipe"]
        assert parts.ready() == ["mini-ties"]


async def test_a_renamed_file_is_the_same_recipe(lab, follow, folder: Path) -> None:
    file = put(folder / "ties.json", "ties")
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        await watch.poll()
        async with follow(parts.lifecycle) as events:
            file.rename(folder / "best.json")
            for _ in range(3):
                await watch.poll()
        assert not [each for each in events if each.data.get("state") in ("draining", "deleted")]
        assert parts.ready() == ["mini-ties"]
        (folder / "best.json").unlink()
        for _ in range(2):
            await watch.poll()
        assert list(parts.lifecycle.recipes) == []


async def test_a_recipe_of_two_files_goes_with_the_second(lab, follow, folder: Path) -> None:
    """Whichever of them is changed or removed first."""
    one, two = (put(folder / f"{number}.json", "ties") for number in (1, 2))
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        await watch.poll()
        async with follow(parts.lifecycle) as events:
            put(two, "slerp")
            await watch.poll()
            assert sorted(parts.ready()) == ["mini-slerp", "mini-ties"]
            put(two, "ties")
            await watch.poll()
            assert parts.ready() == ["mini-ties"]
            one.unlink()
            for _ in range(3):
                await watch.poll()
        moved = [each.subject for each in events if each.data.get("state") == "draining"]
        assert {each.partition("@")[0] for each in moved} == {"mini-slerp"}
        assert parts.ready() == ["mini-ties"]
        two.unlink()
        for _ in range(2):
            await watch.poll()
        assert list(parts.lifecycle.recipes) == []


async def test_what_a_changed_file_held_goes_once_no_alias_leads_to_it(lab, folder: Path) -> None:
    file = put(folder / "a.json", "ties")
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        await watch.poll()
        await parts.lifecycle.set_alias("prod", [Target("mini-ties")])
        put(file, "slerp")
        await watch.poll()
        assert sorted(parts.ready()) == ["mini-slerp", "mini-ties"]
        await parts.lifecycle.set_alias("prod", [Target("mini-slerp")])
        await watch.poll()
        assert [each.manifest.name for each in parts.lifecycle.recipes] == ["mini-slerp"]


async def test_a_file_whose_recipe_found_no_room_is_tried_again(lab, follow, folder: Path) -> None:
    async with lab() as free:
        (model_id,) = await free.register("ties")
        budget = union_bytes([free.lifecycle.recipes.get(model_id).footprint])
    async with lab(memory_bytes=budget + budget // 2, load_timeout_s=0) as parts:
        (held,) = await parts.register("slerp")
        await parts.lifecycle.load(held)
        put(folder / "ties.json", "ties")
        watch = FolderWatch(parts.lifecycle, folder)
        async with parts.lifecycle.hold(held), follow(parts.lifecycle) as events:
            await watch.poll()
        assert "memory_bytes" in str([each.data.get("error") for each in events])
        assert parts.ready() == ["mini-slerp"]
        await watch.poll()
        assert parts.ready() == ["mini-ties"]


async def test_loose_links_and_folders_are_passed_over(lab, follow, folder: Path) -> None:
    (folder / "loose.json").symlink_to("nowhere.json")
    (folder / "folder.json").mkdir()
    put(folder / "ties.json", "ties")
    async with lab() as parts:
        async with follow(parts.lifecycle) as events:
            await FolderWatch(parts.lifecycle, folder).poll()
        assert not [each for each in events if "error" in each.data]
        assert parts.ready() == ["mini-ties"]
