"""The state file: what was written is there after a restart or kill -9; one process at a time."""

import signal
import sqlite3
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evoserve.errors import ConfigError
from evoserve.lifecycle.split import Target
from evoserve.lifecycle.store import StateStore, StoredRecipe

IDS = [f"r@{number}" for number in range(4)]
CHANGE = st.one_of(
    st.tuples(st.just("save"), st.sampled_from(IDS), st.text(max_size=5), st.booleans()),
    st.tuples(st.just("delete"), st.sampled_from(IDS)),
    st.tuples(st.just("name"), st.sampled_from("xy"), st.sampled_from(IDS)),
    st.tuples(st.just("alias"), st.sampled_from("pq"), st.lists(st.sampled_from(IDS), max_size=2)),
)


def recipe(model_id: str, text: str = "{}", is_pinned: bool = False) -> StoredRecipe:
    return StoredRecipe(model_id, text, "/base", "api", 7, is_pinned, not is_pinned)


class Model:
    """What the store should hold, as plain dictionaries."""

    def __init__(self) -> None:
        self.recipes: dict[str, StoredRecipe] = {}
        self.names: dict[str, str] = {}
        self.history: dict[str, list[tuple[str, tuple[Target, ...]]]] = {}

    def apply(self, store: StateStore, change: tuple) -> None:
        kind, subject, *rest = change
        if kind == "save":
            self.recipes[subject] = recipe(subject, *rest)
            store.save_recipe(self.recipes[subject])
        elif kind == "delete":
            self.recipes.pop(subject, None)
            self.names = {name: id_ for name, id_ in self.names.items() if id_ != subject}
            store.delete_recipe(subject)
        elif kind == "name":
            self.names[subject] = rest[0]
            store.save_name(subject, rest[0])
        else:
            targets = tuple(Target(id_, 0.5) for id_ in rest[0])
            action = "set" if targets else "delete"
            self.history.setdefault(subject, []).append((action, targets))
            store.change_alias(subject, action, targets)

    def check(self, store: StateStore) -> None:
        assert {each.model_id: each for each in store.recipes()} == self.recipes
        assert store.names() == self.names
        for alias, changes in self.history.items():
            found = store.history(alias)
            assert [(each.action, each.targets) for each in found] == changes
            assert [each.version for each in found] == list(range(1, len(changes) + 1))
        newest = {alias: changes[-1] for alias, changes in self.history.items()}
        present = {each.alias: each.targets for each in store.aliases()}
        assert present == {alias: targets for alias, (_, targets) in newest.items() if targets}


@settings(max_examples=40, deadline=None)
@given(st.lists(CHANGE, max_size=12), st.lists(CHANGE, max_size=6))
def test_a_store_is_what_was_written_also_when_opened_again(first: list, second: list) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model = Model()
        for changes in (first, second):
            store = StateStore(Path(folder) / "state.db")
            model.check(store)
            for change in changes:
                model.apply(store, change)
            model.check(store)
            store.close()


def test_order_of_registration_is_kept_and_created_never_changes() -> None:
    store = StateStore()
    for model_id in IDS:
        store.save_recipe(recipe(model_id))
    store.save_recipe(replace(recipe(IDS[0], "new"), created=99))
    assert [each.model_id for each in store.recipes()] == IDS
    assert store.recipes()[0].manifest == "new"
    assert store.recipes()[0].created == 7


CHILD = """
import sys
from pathlib import Path
from evoserve.lifecycle.split import Target
from evoserve.lifecycle.store import StateStore, StoredRecipe

store = StateStore(Path(sys.argv[1]))
for number in range(10**6):
    store.save_recipe(StoredRecipe(f"r@{number}", "{}", None, "api", number))
    store.change_alias("prod", "set", [Target(f"r@{number}")])
    print(number, flush=True)
"""


def test_nothing_that_was_answered_is_lost_by_kill_9(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    process = subprocess.Popen([sys.executable, "-c", CHILD, file], stdout=subprocess.PIPE)
    assert process.stdout is not None
    for _ in range(50):
        process.stdout.readline()
    with pytest.raises(ConfigError, match=f"in use by process {process.pid}"):
        StateStore(file)
    process.send_signal(signal.SIGKILL)
    answered = 49 + len(process.stdout.read().splitlines())
    process.wait()
    store = StateStore(file)
    assert len(store.recipes()) >= answered + 1
    history = store.history("prod")
    assert [change.version for change in history] == list(range(1, len(history) + 1))
    assert len(history) >= answered + 1
    assert store.aliases()[0].targets == (Target(f"r@{len(history) - 1}"),)


def test_a_second_owner_waits_for_the_first_to_close(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "state.db"
    first = StateStore(file)
    with pytest.raises(ConfigError, match="in use"):
        StateStore(file)
    first.close()
    StateStore(file).close()


def test_foreign_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as other:
        other.execute("CREATE TABLE theirs (x)")
    content = file.read_bytes()
    with pytest.raises(ConfigError, match="not EvoServe's"):
        StateStore(file)
    assert file.read_bytes() == content
    file.write_bytes(b"no database at all, but longer than a header" * 10)
    with pytest.raises(ConfigError, match=r"other\.db"):
        StateStore(file)
    newer = tmp_path / "newer.db"
    StateStore(newer).close()
    with sqlite3.connect(newer) as later:
        later.execute("PRAGMA user_version = 99")
    with pytest.raises(ConfigError, match="format 99"):
        StateStore(newer)
