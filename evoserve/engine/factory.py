"""Where the engine's models come from, and on what device and in what dtype they run."""

import os
from typing import Protocol

import torch

from evoserve.config import Settings
from evoserve.engine.runner import LanguageModel
from evoserve.errors import ConfigError
from evoserve.model.backend import choose_backend
from evoserve.model.build import build_model
from evoserve.model.kv_cache import KVCache
from evoserve.model.placement import Placement, choose_placement
from evoserve.model.store import Lease, WeightStore
from evoserve.sources.recipe import Recipe

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class ServableModel(LanguageModel, Protocol):
    """A built recipe before it has a KV cache; sizes in bytes, lengths in tokens."""

    lease: Lease

    @property
    def num_steps(self) -> int:
        """Hops of the path."""
        ...

    @property
    def num_layers(self) -> int:
        """Distinct layers."""
        ...

    @property
    def max_model_len(self) -> int:
        """Longest prompt plus completion that the weights were made for."""
        ...

    @property
    def weight_bytes(self) -> int:
        """Of this model, shared or not."""
        ...

    def kv_bytes_per_block(self, block_size: int) -> int:
        """KV cache of `block_size` tokens over all steps."""
        ...

    def new_kv_cache(self, num_blocks: int, block_size: int) -> KVCache:
        """A cache that only this model uses."""
        ...


class ModelFactory(Protocol):
    """Builds models; called from the builder thread, but for `num_bytes`."""

    @property
    def num_bytes(self) -> int:
        """Weights held now, shared ones counted once."""
        ...

    def build(self, recipe: Recipe) -> ServableModel:
        """Raises InputError subclasses, and then holds nothing."""
        ...


class PathModelFactory:
    """Path models over one store, so that recipes share equal layers."""

    def __init__(self, settings: Settings) -> None:
        """Raises ConfigError for a device that is not there."""
        self._num_threads = num_threads(settings)
        self._backend = choose_backend(
            resolve_placement(settings),
            num_threads=self._num_threads,
            enforce_eager=settings.enforce_eager,
        )
        self._store = WeightStore()

    @property
    def num_bytes(self) -> int:
        """Weights held now, shared ones counted once."""
        return self._store.num_bytes

    def build(self, recipe: Recipe) -> ServableModel:
        """Raises InputError subclasses, and then holds nothing."""
        return build_model(recipe, self._store, self._backend, num_threads=self._num_threads)


def resolve_placement(settings: Settings) -> Placement:
    """Where and in what form the settings want weights. Raises ConfigError."""
    device = resolve_device(settings.device)
    return choose_placement(
        device,
        resolve_dtype(settings.dtype, device),
        settings.quantization,
        enforce_eager=settings.enforce_eager,
    )


def resolve_device(name: str) -> str:
    """`auto` is a GPU if there is one, else the CPU. Raises ConfigError."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device '{name}' must be auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise ConfigError(f"device '{name}' is not supported; use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ConfigError(f"device '{name}': {torch.cuda.device_count()} GPUs are visible")
    return name


def resolve_dtype(name: str, device: str) -> torch.dtype:
    """`auto` is float32 on the CPU and bfloat16 on a GPU."""
    if name == "auto":
        return torch.float32 if device == "cpu" else torch.bfloat16
    return _DTYPES[name]


def num_threads(settings: Settings) -> int:
    """CPU threads to use: the setting, or every core this process may run on."""
    if settings.threads:
        return settings.threads
    has_affinity = hasattr(os, "sched_getaffinity")  # Linux alone knows it
    return len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
