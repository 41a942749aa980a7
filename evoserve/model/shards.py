"""Safetensors files written tensor by tensor, so that a checkpoint never has to fit in memory."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from evoserve.sources.checkpoint import DTYPES, INDEX_FILE, SINGLE_FILE

_ALIGNMENT = 8


@dataclass(frozen=True)
class TensorSlot:
    """A tensor to be written."""

    name: str
    shape: tuple[int, ...]

    def num_bytes(self, dtype: torch.dtype) -> int:
        """Bytes of the data."""
        return torch.Size(self.shape).numel() * dtype.itemsize


Produce = Callable[[Sequence[TensorSlot]], Iterator[torch.Tensor]]
"""Makes tensors in the order of the slots, each (*shape,) in the file's dtype on the CPU."""


def write_checkpoint(
    folder: Path,
    slots: Sequence[TensorSlot],
    dtype: torch.dtype,
    max_shard_bytes: int,
    produce: Produce,
) -> list[str]:
    """Write model.safetensors, or shards with their index; returns the file names.

    A shard holds at most `max_shard_bytes` of data, or one tensor that is larger.
    """
    shards = plan_shards(slots, dtype, max_shard_bytes)
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        names = [SINGLE_FILE]
    for name, shard in zip(names, shards, strict=True):
        _write_shard(folder / name, shard, dtype, produce(shard))
    if len(shards) > 1:
        files = {
            slot.name: name for name, shard in zip(names, shards, strict=True) for slot in shard
        }
        total = sum(slot.num_bytes(dtype) for slot in slots)
        index = {"metadata": {"total_size": total}, "weight_map": files}
        text = json.dumps(index, indent=2) + "\n"
        (folder / INDEX_FILE).write_text(text, encoding="utf-8")
    return names


def plan_shards(
    slots: Sequence[TensorSlot], dtype: torch.dtype, max_shard_bytes: int
) -> list[list[TensorSlot]]:
    """Consecutive slots, cut before a shard would exceed `max_shard_bytes`."""
    shards: list[list[TensorSlot]] = [[]]
    filled = 0
    for slot in slots:
        size = slot.num_bytes(dtype)
        if shards[-1] and filled + size > max_shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(slot)
        filled += size
    return shards


def _write_shard(
    file: Path, slots: Sequence[TensorSlot], dtype: torch.dtype, tensors: Iterator[torch.Tensor]
) -> None:
    with file.open("wb") as stream:
        stream.write(_header(slots, dtype))
        for slot, tensor in zip(slots, tensors, strict=True):
            if tuple(tensor.shape) != slot.shape or tensor.dtype != dtype:
                raise ValueError(f"{slot.name}: made {tensor.dtype} {tuple(tensor.shape)}")
            stream.write(tensor.contiguous().view(torch.uint8).numpy().data)


def _header(slots: Sequence[TensorSlot], dtype: torch.dtype) -> bytes:
    kind = next(name for name, known in DTYPES.items() if known == dtype)
    entries: dict[str, Mapping[str, object]] = {"__metadata__": {"format": "pt"}}
    end = 0
    for slot in slots:
        start, end = end, end + slot.num_bytes(dtype)
        entries[slot.name] = {"dtype": kind, "shape": slot.shape, "data_offsets": (start, end)}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text
