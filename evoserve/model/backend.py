"""How a process runs its models: the form of their weights and what computes with them."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from evoserve.model.attention import TorchAttention
from evoserve.model.cpu.path import CpuForward
from evoserve.model.cpu.team import Team
from evoserve.model.cuda_graphs import CudaRecorder, GraphedForward
from evoserve.model.parts import PathParts
from evoserve.model.path_model import PathForward
from evoserve.model.placement import Placement, Quantization
from evoserve.model.torch_forward import TorchForward


@dataclass(frozen=True)
class Backend:
    """Where built weights go, and what `make_forward` runs on them."""

    placement: Placement
    make_forward: Callable[[PathParts], PathForward]


def choose_backend(placement: Placement, *, num_threads: int, enforce_eager: bool) -> Backend:
    """What `choose_placement` packed for, CUDA graphs on a GPU, else plain torch.

    num_threads: of the CPU's kernels; enforce_eager: plain torch on a GPU, too.
    """
    if placement.is_packed:
        return compiled_backend(num_threads, placement.quantization)
    if torch.device(placement.device).type == "cuda" and not enforce_eager:
        return Backend(
            placement, lambda parts: GraphedForward(parts, TorchAttention(), CudaRecorder())
        )
    return torch_backend(placement.device, placement.dtype, placement.quantization)


def torch_backend(
    device: str, dtype: torch.dtype, quantization: Quantization | None = None
) -> Backend:
    """Plain torch, on any device and in any dtype: what the others are checked against."""
    placement = Placement(device, dtype, quantization)
    return Backend(placement, lambda parts: TorchForward(parts, TorchAttention()))


def compiled_backend(num_threads: int, quantization: Quantization | None = None) -> Backend:
    """Packed weights and one native call per batch, on the CPU in float32; one team of threads."""
    team = Team(num_threads)
    placement = Placement("cpu", torch.float32, quantization, is_packed=True)
    return Backend(placement, lambda parts: CpuForward(parts, team))
