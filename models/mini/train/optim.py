"""Muon for the hidden matrices, in fp32 and batched by shape (torch's own runs in bf16)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import torch

_NS_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan et al. 2024, quintic Newton-Schulz
_NS_STEPS = 5


class Muon:
    """Momentum orthogonalised by Newton-Schulz; matrices of one shape are stepped together.

    The update of an (out, in) matrix is scaled by sqrt(max(1, out / in)).
    """

    def __init__(self, params: Sequence[torch.nn.Parameter], momentum: float = 0.95) -> None:
        groups: dict[tuple[int, ...], list[torch.nn.Parameter]] = defaultdict(list)
        for param in params:
            groups[tuple(param.shape)].append(param)
        self._groups = list(groups.values())
        self._momentum = momentum
        self._buffers = [torch.zeros(len(g), *g[0].shape) for g in self._groups]

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """One update with the gradients that are there; every parameter must have one."""
        for group, buffer in zip(self._groups, self._buffers, strict=True):
            grads = torch.stack([_grad_of(param) for param in group])
            buffer.lerp_(grads, 1 - self._momentum)
            update = orthogonalize(grads.lerp(buffer, self._momentum))
            scale = max(1.0, update.shape[-2] / update.shape[-1]) ** 0.5
            for param, piece in zip(group, update, strict=True):
                param.add_(piece, alpha=-lr * scale)


def orthogonalize(matrices: torch.Tensor) -> torch.Tensor:
    """Push the singular values of (n, rows, columns) matrices towards 1."""
    a, b, c = _NS_COEFFICIENTS
    tall = matrices.shape[-2] > matrices.shape[-1]
    x: torch.Tensor = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(_NS_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: torch.Tensor = x.mT if tall else x
    return result


def _grad_of(param: torch.nn.Parameter) -> torch.Tensor:
    if param.grad is None:
        raise ValueError(f"parameter of shape {tuple(param.shape)} has no gradient")
    return param.grad
