"""Lazily read safetensors checkpoints: headers at opening, a tensor's bytes when asked for."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from evoserve.errors import SourceError
from evoserve.sources.architecture import Architecture, parse_architecture, tensor_shapes

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
_FILE_NAME = re.compile(r"[A-Za-z0-9_\-][A-Za-z0-9_.\-]*\.safetensors")
DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I64": torch.int64,
    "I32": torch.int32,
    "U8": torch.uint8,
    "I8": torch.int8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True)
class TensorInfo:
    """What a header says of a tensor."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes of the data."""
        return torch.Size(self.shape).numel() * self.dtype.itemsize


class TensorReader(Protocol):
    """Named tensors that are read one by one; safe to call from several threads."""

    def names(self) -> Sequence[str]:
        """All names, sorted."""
        ...

    def info(self, name: str) -> TensorInfo:
        """Shape and dtype from the header. Raises SourceError for an unknown name."""
        ...

    def read(self, name: str) -> torch.Tensor:
        """The tensor on the CPU, maybe memory-mapped: never write to it."""
        ...


@dataclass(frozen=True)
class Checkpoint:
    """A source: its folder (config, tokenizer), what it is, and its tensors.

    adapter: the folder of the LoRA adapter that `tensors` folds in, if there is one;
    digest: what identifies the weights if it was verified: that of the folder, with `+` and that
    of the adapter behind it if there is one; None if nobody has checked.
    """

    folder: Path
    config: Mapping[str, Any]
    architecture: Architecture
    tensors: TensorReader
    digest: str | None = None
    adapter: Path | None = None


class SafetensorsReader:
    """The safetensors files of a folder, sharded or not."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        """`files` maps each tensor's name to the file that holds it."""
        self._handles = {file: _open(file) for file in sorted(set(files.values()))}
        self._files = dict(files)
        for name, file in self._files.items():
            if name not in self._handles[file].keys():  # noqa: SIM118 (no mapping)
                raise SourceError(f"{file}: tensor '{name}' is in the index but not in the file")

    def names(self) -> Sequence[str]:
        """All names, sorted."""
        return sorted(self._files)

    def info(self, name: str) -> TensorInfo:
        """Shape and dtype from the header. Raises SourceError for an unknown name or dtype."""
        part = self._handle(name).get_slice(name)
        kind = part.get_dtype()
        if kind not in DTYPES:
            raise SourceError(f"{self._files[name]}: tensor '{name}' has unsupported dtype {kind}")
        return TensorInfo(tuple(part.get_shape()), DTYPES[kind])

    def read(self, name: str) -> torch.Tensor:
        """The tensor, mapped from the file. Raises SourceError."""
        try:
            tensor: torch.Tensor = self._handle(name).get_tensor(name)
        except SafetensorError as error:
            raise SourceError(f"{self._files[name]}: tensor '{name}': {error}") from None
        return tensor

    def _handle(self, name: str) -> Any:
        if name not in self._files:
            raise SourceError(f"tensor '{name}' is missing from {self._folder()}")
        return self._handles[self._files[name]]

    def _folder(self) -> str:
        return next((str(file.parent) for file in self._handles), "an empty checkpoint")


def open_checkpoint(folder: Path) -> Checkpoint:
    """Open a Hugging Face folder and check its headers against its config.

    Raises SourceError for a missing, truncated or non-safetensors file and for a missing tensor
    or wrong shape, UnsupportedModel for a family this runtime does not implement.
    """
    config = read_json(folder / "config.json")
    architecture = parse_architecture(config)
    reader = SafetensorsReader(weight_files(folder))
    check_tensors(reader, architecture, str(folder))
    return Checkpoint(folder, config, architecture, reader)


def weight_files(folder: Path) -> dict[str, Path]:
    """The file that holds each tensor, by name; one whole file wins over shards and their index.

    Raises SourceError if the folder holds no safetensors checkpoint or a broken index.
    """
    index = folder / INDEX_FILE
    single = folder / SINGLE_FILE
    if single.exists():
        return single_file(single)
    if not index.exists():
        raise SourceError(f"{folder}: holds neither {SINGLE_FILE} nor {INDEX_FILE}")
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise SourceError(f"{index}: has no weight_map")
    for file in weight_map.values():
        if not isinstance(file, str) or not _FILE_NAME.fullmatch(file):
            raise SourceError(f"{index}: {file!r} must be the name of a file in the folder")
    return {name: folder / file for name, file in weight_map.items()}


def single_file(file: Path) -> dict[str, Path]:
    """The names in one safetensors file, each with that file. Raises SourceError."""
    return dict.fromkeys(_open(file).keys(), file)


def check_tensors(reader: TensorReader, architecture: Architecture, where: str) -> None:
    """Raises SourceError for a missing tensor, a wrong shape or a dtype that is not floating."""
    present = set(reader.names())
    for name, shape in tensor_shapes(architecture).items():
        if name not in present:
            raise SourceError(f"{where}: tensor '{name}' is missing")
        info = reader.info(name)
        if info.shape != shape:
            raise SourceError(
                f"{where}: tensor '{name}' has shape {list(info.shape)}, "
                f"config.json says {list(shape)}"
            )
        if not info.dtype.is_floating_point:
            raise SourceError(
                f"{where}: tensor '{name}' has dtype {info.dtype}, not a floating one"
            )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises SourceError that names the file."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"{file} does not exist") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise SourceError(f"{file}: {error}") from None
    if not isinstance(value, dict):
        raise SourceError(f"{file}: must hold a JSON object")
    return value


def _open(file: Path) -> Any:
    try:
        return safe_open(file, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise SourceError(f"{file}: not a whole safetensors file: {error}") from None
