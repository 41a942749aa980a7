"""The seams for matrix products and lookups; `evoserve.model.placement` picks what stands there."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch.nn import functional

_WEIGHT_LEFT_TOKENS = range(5, 49)
"""Where MKL's float32 product W x^T beat x W^T (by up to 1.4 times), on an AVX2 machine."""


class Linear(Protocol):
    """y = x W^T + b of one (maybe fused) projection."""

    @property
    def num_out(self) -> int:
        """Columns of the result."""
        ...

    @property
    def num_bytes(self) -> int:
        """Bytes of weight and bias."""
        ...

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """(num_tokens, num_in) -> (num_tokens, num_out), in the dtype of `inputs`."""
        ...


class Embedding(Protocol):
    """Rows of a vocabulary table."""

    @property
    def num_bytes(self) -> int:
        """Bytes of the table."""
        ...

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(num_tokens,) -> (num_tokens, hidden_size), in the dtype of the activations."""
        ...


@dataclass(frozen=True, eq=False)
class Table:
    """A vocabulary table, to look up and to multiply by: a tied head is its embedding's storage.

    num_bytes: of both, what they share counted once.
    """

    embed: Embedding
    head: Linear
    num_bytes: int


@dataclass(frozen=True, eq=False)
class DenseLinear:
    """weight (num_out, num_in) and bias (num_out,) in the dtype of the activations."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None

    @property
    def num_out(self) -> int:
        """Rows of the weight."""
        return self.weight.shape[0]

    @property
    def num_bytes(self) -> int:
        """Bytes of weight and bias."""
        return self.weight.nbytes + (0 if self.bias is None else self.bias.nbytes)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """(num_tokens, num_in) -> (num_tokens, num_out)."""
        if _is_weight_left_faster(inputs):
            return _weight_left(inputs, self.weight, self.bias)
        return functional.linear(inputs, self.weight, self.bias)


@dataclass(frozen=True, eq=False)
class DenseEmbedding:
    """weight (num_rows, hidden_size) in the dtype of the activations."""

    weight: torch.Tensor

    @property
    def num_bytes(self) -> int:
        """Bytes of the table."""
        return self.weight.nbytes

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(num_tokens,) -> (num_tokens, hidden_size), new memory."""
        return functional.embedding(token_ids, self.weight)


def _is_weight_left_faster(inputs: torch.Tensor) -> bool:
    return (
        inputs.device.type == "cpu"
        and inputs.dtype == torch.float32
        and inputs.shape[0] in _WEIGHT_LEFT_TOKENS
    )


def _weight_left(
    inputs: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    out = torch.mm(weight, inputs.t()).t().contiguous()
    return out if bias is None else out.add_(bias)
