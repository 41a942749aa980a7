"""int8 weights by output channel, 12-bit activations by token: plain torch, the law for kernels.

A row w of weights becomes q = round(w / s) with s = max|w| / 127 in float32 (s = 1 where that is
0), ties to even; a row of activations likewise with `token_levels` for 127. Activations of 8 bits
would cost 3 to 5% of perplexity on SmolLM2-135M, of 12 bits they cost as little as exact ones, and
CPUs multiply 16 bits by 16 as fast. The product is exact in int32, so a token's result does not
depend on what else is in the batch, nor on the kernel:
    y[t, o] = (float32(sum_i q_x[t, i] q_w[o, i]) * s_x[t]) * s_w[o] + b[o]
in float32, rounded to the activations' dtype at the end. A token that holds NaN or infinity gives
NaN, and spoils no other.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch.nn import functional

WEIGHT_LEVELS = 127
"""The largest weight of a row as an integer."""
TOKEN_LEVELS = 16 * 127
"""The largest activation of a row as an integer: 16 times an int8 and a rest in [-8, 8)."""
_EXACT_TERMS = 1024
"""Sums of so many products of int8 stay below 2^24, so float32 holds them exactly."""
_CHUNK = 1 << 15
"""Elements handled at once while weights are quantised: torch starts no threads of its own."""
_CUDA_MIN_ROWS = 32
"""torch._int_mm wants more than 16 rows of activations on CUDA, and multiples of 8 elsewhere."""
_CUDA_MULTIPLE = 8


@dataclass(frozen=True, eq=False)
class Int8Linear:
    """weight int8 (num_out, num_in), scales float32 (num_out,), bias (num_out,) or None."""

    weight: torch.Tensor
    scales: torch.Tensor
    bias: torch.Tensor | None = None

    @property
    def num_out(self) -> int:
        """Rows of the weight."""
        return self.weight.shape[0]

    @property
    def num_bytes(self) -> int:
        """Bytes of weight, scales and bias."""
        kept = (self.weight, self.scales, self.bias)
        return sum(tensor.nbytes for tensor in kept if tensor is not None)

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """(num_tokens, num_in) -> (num_tokens, num_out), in the dtype of `inputs`."""
        tokens, token_scales = quantize(inputs, token_levels(self.weight.shape[1]))
        sums = int8_product(tokens, self.weight)
        out = sums.to(torch.float32).mul_(token_scales[:, None]).mul_(self.scales)
        if self.bias is not None:
            out.add_(self.bias)
        return out.to(inputs.dtype)


@dataclass(frozen=True, eq=False)
class Int8Embedding:
    """weight int8 (num_rows, hidden_size), scales float32 (num_rows,); rows come out in `dtype`."""

    weight: torch.Tensor
    scales: torch.Tensor
    dtype: torch.dtype

    @property
    def num_bytes(self) -> int:
        """Bytes of rows and scales."""
        return self.weight.nbytes + self.scales.nbytes

    def __call__(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(num_tokens,) -> (num_tokens, hidden_size)."""
        rows = self.weight.index_select(0, token_ids).to(torch.float32)
        scales = self.scales.index_select(0, token_ids)
        return rows.mul_(scales[:, None]).to(self.dtype)


def token_levels(num_in: int) -> int:
    """The largest quantised activation: TOKEN_LEVELS, or less so that int32 holds every sum."""
    return min(TOKEN_LEVELS, (2**31 - 1) // (WEIGHT_LEVELS * num_in))


def quantize(values: torch.Tensor, levels: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int16 (num_rows, num_columns) in [-levels, levels] and float32 scales (num_rows,)."""
    wide = values.to(torch.float32)
    scales = wide.abs().amax(-1).div_(levels)
    scales.masked_fill_(scales == 0, 1.0)
    rounded = (wide / scales[:, None]).round_().clamp_(-levels, levels)
    return rounded.to(torch.int16), scales


def quantize_weight(weight: torch.Tensor, num_threads: int) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 rows and float32 scales of a CPU weight, made a few rows at a time."""
    rows, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(weight.shape[0])
    step = max(1, _CHUNK // weight.shape[1])

    def piece(start: int, stop: int) -> None:
        for at in range(start, stop, step):
            end = min(stop, at + step)
            rows[at:end], scales[at:end] = quantize(weight[at:end], WEIGHT_LEVELS)

    if num_threads <= 1 or weight.numel() <= _CHUNK:
        piece(0, len(rows))
    else:
        span = -(-len(rows) // (4 * num_threads))
        starts = range(0, len(rows), span)
        with ThreadPoolExecutor(num_threads, thread_name_prefix="quantize") as pool:
            list(pool.map(piece, starts, [min(at + span, len(rows)) for at in starts]))
    return rows, scales


def int8_product(tokens: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """int32 (num_tokens, num_out): int16 `tokens` (num_tokens, num_in) times int8 `weight`.

    tokens = 16 * high + low, both int8: two products in one, with twice the rows.
    """
    num_tokens = tokens.shape[0]
    high = (tokens + 8) >> 4
    halves = torch.cat((high, tokens - (high << 4))).to(torch.int8)
    if tokens.device.type == "cuda" and not any(n % _CUDA_MULTIPLE for n in weight.shape):
        sums = padded_int_mm(halves, weight)
    else:
        sums = exact_float_mm(halves, weight)
    return (sums[:num_tokens] << 4).add_(sums[num_tokens:])


def padded_int_mm(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """int32 rows @ weight.T of int8 matrices; few rows are filled up to as many as CUDA wants."""
    num_rows = rows.shape[0]
    if num_rows < _CUDA_MIN_ROWS:
        rows = functional.pad(rows, (0, 0, 0, _CUDA_MIN_ROWS - num_rows))
    return torch._int_mm(rows, weight.t())[:num_rows]


def exact_float_mm(rows: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """The same in float32: exact, because each product sums few enough small integers."""
    sums = torch.zeros((len(rows), len(weight)), dtype=torch.int32, device=rows.device)
    for start in range(0, weight.shape[1], _EXACT_TERMS):
        part = slice(start, start + _EXACT_TERMS)
        product = torch.mm(rows[:, part].to(torch.float32), weight[:, part].to(torch.float32).t())
        sums.add_(product.to(torch.int32))
    return sums
