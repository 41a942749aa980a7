"""A PEFT LoRA adapter folded into its base one tensor at a time: W + scale * (B @ A) in float32.

scale is alpha / r, or alpha / sqrt(r) with use_rslora. Tensors that an adapter carries whole
(modules_to_save, resized or trained embeddings, biases) take the base's place. What changes the
model in any other way (DoRA, trainable tokens, layer replication, initialisations that change the
base, ...) is refused by name. PEFT rounds the sum to the base's dtype; here it stays in float32
until a merge or the runtime rounds it once.
"""

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from evoserve.errors import SourceError, UnsupportedModel
from evoserve.sources.architecture import EMBED
from evoserve.sources.checkpoint import (
    Checkpoint,
    SafetensorsReader,
    TensorInfo,
    TensorReader,
    read_json,
    single_file,
)
from evoserve.sources.digest import ADAPTER_CONFIG, ADAPTER_WEIGHTS

_PREFIX = "base_model.model."
_READ = {"peft_type", "r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"}
# What says how the adapter was made or where it may go; its tensors say the rest.
_NEUTRAL = {
    "alora_invocation_string",
    "arrow_config",
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "corda_config",
    "ensure_weight_tying",
    "eva_config",
    "exclude_modules",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "loftq_config",
    "lora_dropout",
    "lora_ga_config",
    "megatron_core",
    "modules_to_save",
    "peft_version",
    "qalora_group_size",
    "revision",
    "runtime_config",
    "target_modules",
    "task_type",
}
_PURE_STARTS = (True, False, None, "gaussian", "eva", "orthogonal")


@dataclass(frozen=True)
class _Patch:
    """What an adapter does to one base tensor: adapter tensors by name, None where it has none."""

    whole: str | None = None
    lora_a: str | None = None
    lora_b: str | None = None
    scale: float = 1.0
    is_embedding: bool = False


class AdapterReader:
    """The base's tensors with the adapter folded in; a touched one is float32."""

    def __init__(
        self, base: TensorReader, adapter: TensorReader, patches: Mapping[str, _Patch]
    ) -> None:
        self._base = base
        self._adapter = adapter
        self._patches = dict(patches)

    def names(self) -> Sequence[str]:
        """All names, sorted: those of the base."""
        return self._base.names()

    def info(self, name: str) -> TensorInfo:
        """Shape and dtype of what `read` gives. Raises SourceError for an unknown name."""
        info = self._base.info(name)
        patch = self._patches.get(name)
        if patch is None:
            return info
        if patch.lora_a is None and patch.whole is not None:
            return self._adapter.info(patch.whole)
        return TensorInfo(info.shape, torch.float32)

    def read(self, name: str) -> torch.Tensor:
        """The folded tensor, maybe memory-mapped: never write to it. Raises SourceError."""
        patch = self._patches.get(name)
        if patch is None:
            return self._base.read(name)
        whole = self._base.read(name) if patch.whole is None else self._adapter.read(patch.whole)
        if patch.lora_a is None or patch.lora_b is None:
            return whole
        down = self._adapter.read(patch.lora_a).to(torch.float32)
        up = self._adapter.read(patch.lora_b).to(torch.float32)
        delta = up @ down
        return whole.to(torch.float32) + patch.scale * (delta.T if patch.is_embedding else delta)


def open_adapter(folder: Path, base: Checkpoint) -> Checkpoint:
    """`base` with the adapter in `folder` folded into its tensors.

    Raises UnsupportedModel for a feature that is not folded, SourceError for a tensor that fits
    no tensor of the base.
    """
    config = read_json(folder / ADAPTER_CONFIG)
    check_adapter_config(folder / ADAPTER_CONFIG, config)
    reader = SafetensorsReader(single_file(folder / ADAPTER_WEIGHTS))
    patches = _plan(folder / ADAPTER_WEIGHTS, config, reader, base)
    return replace(base, tensors=AdapterReader(base.tensors, reader, patches), adapter=folder)


def check_adapter_config(file: Path, config: Mapping[str, Any]) -> None:
    """Raises UnsupportedModel for a setting that changes the model in a way not folded here."""
    if config.get("peft_type") != "LORA":
        raise UnsupportedModel(f"{file}: peft_type {config.get('peft_type')!r} is not LORA")
    if config.get("init_lora_weights", True) not in _PURE_STARTS:
        raise UnsupportedModel(
            f"{file}: init_lora_weights {config['init_lora_weights']!r} changes the base model; "
            "convert the adapter with PEFT's path_initial_model_for_weight_conversion"
        )
    for key, value in sorted(config.items()):
        is_known = key in _READ or key in _NEUTRAL or key == "init_lora_weights"
        if value and not is_known:
            raise UnsupportedModel(f"{file}: {key} = {value!r:.80} cannot be folded into weights")
    for key in ("r", "lora_alpha"):
        _positive(file, key, config.get(key, 8))
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern, value in (config.get(key) or {}).items():
            _positive(file, f"{key}[{pattern!r}]", value)
            _check_pattern(file, key, pattern)


def _plan(
    file: Path, config: Mapping[str, Any], reader: TensorReader, base: Checkpoint
) -> dict[str, _Patch]:
    present = set(base.tensors.names())
    parts: dict[str, dict[str, str]] = defaultdict(dict)
    for name in reader.names():
        target, part = _split(file, name)
        if target not in present:
            raise SourceError(f"{file}: tensor '{name}' matches no tensor of {base.folder}")
        if not reader.info(name).dtype.is_floating_point:
            raise SourceError(f"{file}: tensor '{name}' has dtype {reader.info(name).dtype}")
        parts[target][part] = name
    if not parts:
        raise SourceError(f"{file}: holds no tensors")
    return {
        target: _patch(file, target, found, config, (reader, base))
        for target, found in sorted(parts.items())
    }


def _split(file: Path, name: str) -> tuple[str, str]:
    """(base tensor, part) that an adapter tensor belongs to; parts are whole, A, B, EA and EB."""
    plain = name.removeprefix(_PREFIX)
    for ending, part in (
        (".lora_A.weight", "A"),
        (".lora_B.weight", "B"),
        (".lora_embedding_A", "EA"),
        (".lora_embedding_B", "EB"),
    ):
        if plain.endswith(ending):
            return plain.removesuffix(ending) + ".weight", part
    if "lora_" in plain or ".token_adapter." in plain:
        raise UnsupportedModel(f"{file}: tensor '{name}' cannot be folded into weights")
    return plain.replace(".base_layer.", "."), "whole"


def _patch(
    file: Path,
    target: str,
    found: Mapping[str, str],
    config: Mapping[str, Any],
    readers: tuple[TensorReader, Checkpoint],
) -> _Patch:
    reader, base = readers
    shape = base.tensors.info(target).shape
    if target == EMBED and base.architecture.tie_word_embeddings:
        raise UnsupportedModel(
            f"{file}: changes '{target}', which is also the head of {base.folder} "
            "(tie_word_embeddings); fold it with PEFT and use the result as the source"
        )
    if "whole" in found:
        _check_shape(file, found["whole"], reader, shape)
    is_embedding = "EA" in found or "EB" in found
    first, second = ("EA", "EB") if is_embedding else ("A", "B")
    if first not in found and second not in found:
        return _Patch(whole=found["whole"])
    if first not in found or second not in found:
        lonely = found.get(first) or found[second]
        raise SourceError(f"{file}: tensor '{lonely}' has no other half")
    module = target.removesuffix(".weight")
    rank = _by_pattern(config, "rank_pattern", module, config.get("r", 8))
    rows, columns = (shape[1], shape[0]) if is_embedding else (shape[0], shape[-1])
    _check_shape(file, found[first], reader, (rank, columns))
    _check_shape(file, found[second], reader, (rows, rank))
    alpha = _by_pattern(config, "alpha_pattern", module, config.get("lora_alpha", 8))
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return _Patch(found.get("whole"), found[first], found[second], scale, is_embedding)


def _by_pattern(config: Mapping[str, Any], key: str, module: str, default: Any) -> Any:
    """PEFT's rule: the first pattern that matches the end of the module's name wins."""
    for pattern, value in (config.get(key) or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _check_shape(file: Path, name: str, reader: TensorReader, shape: tuple[int, ...]) -> None:
    given = reader.info(name).shape
    if given != shape:
        raise SourceError(
            f"{file}: tensor '{name}' has shape {list(given)}, the base needs {list(shape)}"
        )


def _positive(file: Path, key: str, value: object) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_rank = not key.startswith("r") or isinstance(value, int)
    if not is_number or not is_rank or not 0 < float(str(value)) < 1e6:
        raise SourceError(f"{file}: {key} = {value!r} must be a positive number")


def _check_pattern(file: Path, key: str, pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise SourceError(f"{file}: {key}: {pattern!r} is no pattern: {error}") from None
