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


def choose_backend(
    device: str,
    dtype: torch.dtype,
    quantization: Quantization | None,
    *,
    num_threads: int,
    enforce_eager: bool,
) -> Backend:
    """The fastest for the device: compiled kernels on a CPU in float32, CUDA graphs on a GPU.

    num_threads: of the CPU's kernels; enforce_eager: plain torch in either case.
    """
    if enforce_eager:
        return torch_backend(device, dtype, quantization)
    if device == "cpu" and dtype == torch.float32:
        return compiled_backend(num_threads, quantization)
    if torch.device(device).type == "cuda":
        placement = Placement(device, dtype, quantization)
        return Backend(
            placement, lambda parts: GraphedForward(parts, TorchAttention(), CudaRecorder())
        )
    return torch_backend(device, dtype, quantization)


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
