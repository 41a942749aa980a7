"""A watched folder with files that are in the way: none of them stops the others."""

import asyncio
import os
import shutil
from pathlib import Path

from evoserve.lifecycle.attempts import Attempts
from evoserve.lifecycle.watch import FolderWatch
from tests.folder_lab import OLD, RECIPES, put


async def test_a_link_to_itself_is_reported_once(lab, follow, folder: Path) -> None:
    (folder / "loop.json").symlink_to("loop.json")
    put(folder / "ties.json", "ties")
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        async with follow(parts.lifecycle) as events:
            await watch.poll()
            await watch.poll()
        assert [each.subject for each in events if "error" in each.data] == ["loop.json"]
        assert parts.ready() == ["mini-ties"]


async def test_a_name_that_is_not_utf_8_is_reported(lab, follow, folder: Path) -> None:
    put(folder / os.fsdecode(b"a\xff.json"), "slerp")
    put(folder / "ties.json", "ties")
    async with lab() as parts:
        async with follow(parts.lifecycle) as events:
            await FolderWatch(parts.lifecycle, folder).poll()
        assert [each.subject for each in events if "error" in each.data] == ["a\ufffd.json"]
        assert parts.ready() == ["mini-ties"]


async def test_other_files_are_followed_during_a_drain(lab, folder: Path) -> None:
    file = put(folder / "a.json", "ties")
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        await watch.poll()
        async with parts.lifecycle.hold("mini-ties"), asyncio.timeout(60):
            put(file, "slerp")
            await watch.look()
            while "mini-slerp" not in parts.ready():
                await asyncio.sleep(0.01)
            put(folder / "b.json", "dfs")
            await watch.look()
            while "mini-dfs" not in parts.ready():
                await asyncio.sleep(0.01)


async def test_a_source_that_arrives_later_is_found(lab, follow, folder: Path) -> None:
    now = 0.0
    text = (RECIPES / "mini-ties.json").read_text().replace('"mini/ja"', '"./later"')
    file = folder / "ties.json"
    file.write_text(text)
    os.utime(file, OLD)
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder, 2.0, lambda: now)
        async with follow(parts.lifecycle) as events:
            await watch.poll()
            now = 2.0
            await watch.poll()
        assert len([each for each in events if "error" in each.data]) == 1
        shutil.copytree(RECIPES.parent / "mini" / "ja", folder / "later")
        await watch.poll()
        assert parts.ready() == []  # it is let be for 4 s
        now = 6.0
        await watch.poll()
        assert parts.ready() == ["mini-ties"]


async def test_a_recipe_deleted_by_hand_stays_away_until_its_file_changes(
    lab, folder: Path
) -> None:
    file = put(folder / "ties.json", "ties")
    async with lab() as parts:
        watch = FolderWatch(parts.lifecycle, folder)
        await watch.poll()
        await parts.lifecycle.delete("mini-ties")
        await watch.poll()
        assert parts.ready() == []
        os.utime(file, (OLD[0] + 1, OLD[1] + 1))
        await watch.poll()
        assert parts.ready() == ["mini-ties"]


def test_the_wait_doubles_up_to_a_minute_and_a_change_ends_it() -> None:
    now = 0.0
    attempts, file, stamp = Attempts(2.0, lambda: now), Path("a.json"), (1, 1, 1)
    waits = []
    for _ in range(7):
        attempts.fail(file, stamp, "no source")
        start = now
        while not attempts.is_due(file, stamp):
            now += 1
        waits.append(now - start)
    assert waits == [2, 4, 8, 16, 32, 60, 60]
    attempts.fail(file, stamp, "no source")
    assert attempts.is_due(file, (2, 2, 2))
    assert not attempts.fail(file, stamp, "no source")
    assert attempts.fail(file, stamp, "no room")
