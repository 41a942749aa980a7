"""Digests are coreutils' own, and the cache of hashes never makes them wrong."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from evoserve.errors import DigestMismatch, SourceError
from evoserve.sources.checkpoint import INDEX_FILE
from evoserve.sources.digest import (
    CACHE_FILE,
    adapter_digest,
    cache_folder,
    source_digest,
    verify_digest,
)


@pytest.fixture
def folder(
    tmp_path: Path, save_model: Callable[..., Path], save_tokenizer: Callable[..., None]
) -> Path:
    saved = save_model(tmp_path / "model")
    save_tokenizer(saved)
    (saved / "chat_template.jinja").write_text("{{ messages }}")
    settle(saved)
    return saved


def settle(folder: Path) -> None:
    """Make the files look an hour old, so that their hashes may be remembered."""
    hour_ago = time.time() - 3600
    for file in folder.iterdir():
        os.utime(file, (hour_ago, hour_ago))


def coreutils(folder: Path, names: list[str]) -> str:
    run = ["sha256sum", *sorted(names)]
    listing = subprocess.run(run, cwd=folder, check=True, capture_output=True).stdout
    digest = subprocess.run(["sha256sum"], input=listing, check=True, capture_output=True).stdout
    return "sha256:" + digest.decode().split()[0]


def test_it_is_what_sha256sum_prints(folder: Path) -> None:
    names = [file.name for file in folder.iterdir()]
    assert source_digest(folder) == coreutils(folder, names)
    (folder / "README.md").write_text("not part of the model")
    (folder / "pytorch_model.bin").write_text("nor this")
    (folder / "extra.safetensors").write_text("nor this, no checkpoint uses it")
    assert source_digest(folder) == coreutils(folder, names)


def test_sharded(tmp_path: Path, tiny_model: Callable[..., Any]) -> None:
    tiny_model().save_pretrained(tmp_path, max_shard_size="4KB")
    names = [file.name for file in tmp_path.iterdir()]
    assert INDEX_FILE in names
    assert source_digest(tmp_path) == coreutils(tmp_path, names)


def test_adapter(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(SourceError, match=r"adapter_model.safetensors"):
        adapter_digest(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_text("x")
    (tmp_path / "README.md").write_text("x")
    names = ["adapter_config.json", "adapter_model.safetensors"]
    assert adapter_digest(tmp_path) == coreutils(tmp_path, names)


def test_it_does_not_depend_on_the_place(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(folder, moved)
    assert source_digest(moved) == source_digest(folder)


def test_a_changed_file_changes_it_although_the_old_hash_is_remembered(folder: Path) -> None:
    before = source_digest(folder)
    assert (cache_folder() / CACHE_FILE).exists()
    file = folder / "config.json"
    file.write_text(file.read_text().replace("16", "61"))
    changed = source_digest(folder)
    assert changed != before
    file.write_text(file.read_text().replace("61", "16"))
    assert source_digest(folder) == before


def test_hashes_are_remembered(folder: Path) -> None:
    before = source_digest(folder)
    file = cache_folder() / CACHE_FILE
    cached = json.loads(file.read_text())
    assert len(cached) == len(list(folder.iterdir()))
    key = str((folder / "config.json").resolve())
    (state,) = cached[key]
    cached[key] = {state: "0" * 64}
    file.write_text(json.dumps(cached))
    assert source_digest(folder) != before, "the hash was not taken from the cache"


def test_a_file_that_just_changed_is_not_remembered(folder: Path) -> None:
    os.utime(folder / "config.json")
    source_digest(folder)
    cached = json.loads((cache_folder() / CACHE_FILE).read_text())
    assert str((folder / "config.json").resolve()) not in cached
    assert str((folder / "model.safetensors").resolve()) in cached


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a": 1}', '{"a": {"b": 3}}', "\x00", "null"])
def test_a_broken_cache_is_no_cache(folder: Path, content: str) -> None:
    expected = coreutils(folder, [file.name for file in folder.iterdir()])
    cache_folder().mkdir(exist_ok=True)
    (cache_folder() / CACHE_FILE).write_text(content)
    assert source_digest(folder) == expected


def test_a_cache_that_cannot_be_written_does_no_harm(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    monkeypatch.setenv("EVOSERVE_CACHE_DIR", str(blocked))
    expected = coreutils(folder, [file.name for file in folder.iterdir()])
    assert source_digest(folder) == expected
    monkeypatch.setenv("EVOSERVE_CACHE_DIR", "/proc/nowhere")
    assert source_digest(folder) == expected


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == Path(os.environ["EVOSERVE_CACHE_DIR"])
    monkeypatch.delenv("EVOSERVE_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "evoserve"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "evoserve"


def test_a_mismatch_names_all_three() -> None:
    mine, theirs = "sha256:" + "a" * 64, "sha256:" + "b" * 64
    verify_digest("ja", mine, mine)
    with pytest.raises(DigestMismatch, match=r"'ja'.*aaaaaaaaaaaa,.*bbbbbbbbbbbb;"):
        verify_digest("ja", theirs, mine)
