"""Lazily read checkpoints: what is whole is read bit for bit, what is broken is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from evoserve.errors import SourceError, UnsupportedModel
from evoserve.sources.architecture import tensor_shapes
from evoserve.sources.checkpoint import INDEX_FILE, SINGLE_FILE, open_checkpoint, weight_files

NORM = "model.norm.weight"


@pytest.fixture
def folder(tmp_path: Path, save_model: Callable[..., Path]) -> Path:
    return save_model(tmp_path / "model")


def change(folder: Path, **tensors: torch.Tensor | None) -> None:
    """Replace tensors of the single file (dots written as __), or take them out with None."""
    file = folder / SINGLE_FILE
    named = {name.replace("__", "."): value for name, value in tensors.items()}
    whole = {**load_file(file), **named}
    save_file({name: value for name, value in whole.items() if value is not None}, file)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_tensor_is_read_bit_for_bit(
    tmp_path: Path, tiny_model: Callable[..., Any], dtype: torch.dtype
) -> None:
    model = tiny_model().to(dtype)
    model.save_pretrained(tmp_path)
    opened = open_checkpoint(tmp_path)
    expected = model.state_dict()
    assert list(opened.tensors.names()) == sorted(expected)
    for name, tensor in expected.items():
        info = opened.tensors.info(name)
        assert (info.shape, info.dtype) == (tuple(tensor.shape), dtype)
        assert info.num_bytes == tensor.numel() * dtype.itemsize
        assert torch.equal(opened.tensors.read(name), tensor)


def test_shards_are_one_checkpoint(tmp_path: Path, tiny_model: Callable[..., Any]) -> None:
    model = tiny_model()
    model.save_pretrained(tmp_path, max_shard_size="4KB")
    assert (tmp_path / INDEX_FILE).exists()
    assert len(set(weight_files(tmp_path).values())) > 1
    opened = open_checkpoint(tmp_path)
    for name, tensor in model.state_dict().items():
        assert torch.equal(opened.tensors.read(name), tensor)


@pytest.mark.parametrize("keep", [0, 4, 8, 100, -1])
def test_a_truncated_file_is_refused(folder: Path, keep: int) -> None:
    file = folder / SINGLE_FILE
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(SourceError, match=r"model.safetensors"):
        open_checkpoint(folder)


@pytest.mark.parametrize("position", [0, 3, 7, 8, 9])
def test_a_flipped_header_byte_is_refused(folder: Path, position: int) -> None:
    file = folder / SINGLE_FILE
    content = bytearray(file.read_bytes())
    content[position] ^= 0x80
    file.write_bytes(content)
    with pytest.raises(SourceError, match="not a whole safetensors file"):
        open_checkpoint(folder)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(where=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_header_bit_is_refused_or_harmless(
    whole: tuple[Path, bytes], where: float, bit: int
) -> None:
    folder, content = whole
    header = 8 + int.from_bytes(content[:8], "little")
    broken = bytearray(content)
    broken[int(where * header)] ^= 1 << bit
    (folder / SINGLE_FILE).write_bytes(broken)
    try:
        opened = open_checkpoint(folder)
    except SourceError:
        return
    for name, shape in tensor_shapes(opened.architecture).items():
        assert opened.tensors.read(name).shape == shape


@pytest.fixture
def whole(folder: Path) -> tuple[Path, bytes]:
    return folder, (folder / SINGLE_FILE).read_bytes()


def test_a_pickle_by_another_name_is_refused(folder: Path) -> None:
    torch.save({"weight": torch.zeros(3)}, folder / SINGLE_FILE)
    with pytest.raises(SourceError, match="not a whole safetensors file"):
        open_checkpoint(folder)


@pytest.mark.parametrize(
    "file", ["../model.safetensors", "/etc/passwd", "sub/model.safetensors", "", 3, ".safetensors"]
)
def test_an_index_must_name_files_of_its_folder(folder: Path, file: object) -> None:
    (folder / SINGLE_FILE).rename(folder / "part.safetensors")
    (folder / INDEX_FILE).write_text(json.dumps({"weight_map": {NORM: file}}))
    with pytest.raises(SourceError, match="must be the name of a file in the folder"):
        open_checkpoint(folder)


def test_an_index_must_tell_the_truth(folder: Path) -> None:
    names = list(load_file(folder / SINGLE_FILE))
    (folder / SINGLE_FILE).rename(folder / "part.safetensors")
    index = folder / INDEX_FILE
    whole = dict.fromkeys(names, "part.safetensors")
    index.write_text(json.dumps({"weight_map": whole}))
    assert list(open_checkpoint(folder).tensors.names()) == sorted(names)
    index.write_text(json.dumps({"weight_map": {**whole, "x": "part.safetensors"}}))
    with pytest.raises(SourceError, match="'x' is in the index but not in the file"):
        open_checkpoint(folder)
    index.write_text(json.dumps({"weight_map": {**whole, NORM: "gone.safetensors"}}))
    with pytest.raises(SourceError, match=r"gone.safetensors"):
        open_checkpoint(folder)
    for broken in ("{", "[]", "{}", '{"weight_map": []}', '{"weight_map": {}}'):
        index.write_text(broken)
        with pytest.raises(SourceError, match=r"index.json"):
            open_checkpoint(folder)


def test_headers_are_checked_against_the_config(folder: Path) -> None:
    change(folder, model__norm__weight=torch.zeros(8))
    with pytest.raises(SourceError, match=r"model.norm.weight' has shape \[8\].*\[16\]"):
        open_checkpoint(folder)
    change(folder, model__norm__weight=torch.zeros(16, dtype=torch.int32))
    with pytest.raises(SourceError, match=r"torch.int32, not a floating one"):
        open_checkpoint(folder)
    change(folder, model__norm__weight=None)
    with pytest.raises(SourceError, match=r"'model.norm.weight' is missing"):
        open_checkpoint(folder)


def test_unknown_names_and_dtypes(folder: Path) -> None:
    opened = open_checkpoint(folder)
    for ask in (opened.tensors.info, opened.tensors.read):
        with pytest.raises(SourceError, match="'nothing' is missing from"):
            ask("nothing")
    change(folder, model__norm__weight=torch.zeros(16).to(torch.float8_e4m3fn))
    with pytest.raises(SourceError, match="unsupported dtype F8_E4M3"):
        open_checkpoint(folder)


def test_config_files_that_are_none(folder: Path) -> None:
    config = folder / "config.json"
    for broken in ("", "{", "[1]", '"x"', "[" * 100_000):
        config.write_text(broken)
        with pytest.raises(SourceError, match=r"config.json"):
            open_checkpoint(folder)
    config.write_bytes(b"\xff\xfe")
    with pytest.raises(SourceError, match=r"config.json"):
        open_checkpoint(folder)
    config.write_text('{"model_type": "mamba"}')
    with pytest.raises(UnsupportedModel, match="mamba"):
        open_checkpoint(folder)
    config.unlink()
    with pytest.raises(SourceError, match="does not exist"):
        open_checkpoint(folder)


def test_a_folder_without_weights(folder: Path) -> None:
    (folder / SINGLE_FILE).unlink()
    with pytest.raises(SourceError, match="holds neither"):
        open_checkpoint(folder)
