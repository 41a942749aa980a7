"""A state file that cannot be written: requests are served, changes are refused and undone."""

import asyncio
import os
import sqlite3
from pathlib import Path

import pytest

from evoserve.errors import ConfigError, StateError
from evoserve.lifecycle.split import Target
from evoserve.lifecycle.store import StateStore


def break_(store: StateStore) -> None:
    """From now on it can be read, not written."""
    store._db.execute("PRAGMA query_only = 1")


async def test_requests_and_unloading_go_on(lab, tmp_path: Path) -> None:
    store = StateStore(tmp_path / "state.db")
    async with lab(store) as parts:
        (model_id,) = await parts.register("ties")
        break_(store)
        assert await parts.ask("mini-ties") == model_id
        await parts.lifecycle.unload(model_id)
        assert parts.engine.models() == []


async def test_changes_are_refused_and_memory_stays_as_the_file_is(
    lab, manifest, tmp_path: Path
) -> None:
    store = StateStore(tmp_path / "state.db")
    async with lab(store) as parts:
        one, two = await parts.register("ties", "slerp")
        await parts.lifecycle.set_alias("prod", [Target(one)])
        break_(store)
        for change in (
            parts.lifecycle.set_alias("prod", [Target(two)]),
            parts.lifecycle.register(manifest("linear")),
            parts.lifecycle.delete(two),
        ):
            with pytest.raises(StateError, match="could not be written") as caught:
                await change
            assert str(tmp_path) not in str(caught.value)
        with pytest.raises(StateError):
            parts.lifecycle.pin(one)
        stored = {each.model_id: each for each in store.recipes()}
        assert {e.model_id: e.stored for e in parts.lifecycle.recipes} == stored
        assert set(stored) == {one, two}
        assert parts.lifecycle.recipes.names() == store.names()
        assert parts.lifecycle.aliases.all() == store.aliases()
        store._db.execute("PRAGMA query_only = 0")
        await parts.lifecycle.set_alias("prod", [Target(two)])
        assert await parts.ask("prod") == two


async def test_whatever_fails_in_the_background_is_an_event(lab) -> None:
    async def break_down() -> None:
        raise sqlite3.OperationalError("secret")

    async with lab() as parts:
        with parts.lifecycle.events.follow() as queue:
            parts.lifecycle.start("alias", "prod", break_down())
            async with asyncio.timeout(60):
                event = await queue.get()
        assert event.data == {"error": "OperationalError; the log says more"}


def test_a_link_to_the_state_file_is_the_same_file(tmp_path: Path) -> None:
    file, link, hard = (tmp_path / name for name in ("state.db", "link.db", "hard.db"))
    link.symlink_to(file)
    first = StateStore(file)
    with pytest.raises(ConfigError, match=f"in use by process {os.getpid()}"):
        StateStore(link)
    hard.hardlink_to(file)
    with pytest.raises(ConfigError, match="hard links"):
        StateStore(hard)
    hard.unlink()
    first.close()
    StateStore(link).close()
