"""Rotary embedding: frequencies of the supported kinds, and cos/sin of a batch's positions.

Formulas and the order of operations are those of transformers' `modeling_rope_utils`, so that the
frequencies agree to the last bit.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from evoserve.errors import SourceError, UnsupportedModel
from evoserve.sources.architecture import Architecture, RopeSpec

ROPE_KINDS = ("default", "linear", "dynamic", "llama3", "yarn")
Parameters = Mapping[str, float | str | bool | None]


@dataclass(frozen=True, eq=False)
class Rope:
    """inv_freq: float32 (head_dim / 2,); `attention_scaling` multiplies cos and sin (YaRN)."""

    inv_freq: torch.Tensor
    attention_scaling: float

    def to(self, device: str) -> "Rope":
        """The same on `device`."""
        return replace(self, inv_freq=self.inv_freq.to(device))

    def cos_sin(
        self, positions: torch.Tensor, dtype: torch.dtype
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """cos and sin of `positions`, each (num_tokens, 1, head_dim).

        The first half of sin is negated: rotate(x) = x * cos + roll(x, head_dim / 2) * sin.
        """
        angles = positions[:, None].float() * self.inv_freq
        cos = (angles.cos() * self.attention_scaling).to(dtype)
        sin = (angles.sin() * self.attention_scaling).to(dtype)
        return torch.cat((cos, cos), dim=-1)[:, None], torch.cat((-sin, sin), dim=-1)[:, None]


def build_rope(arch: Architecture) -> Rope:
    """Frequencies for `arch`. Raises UnsupportedModel for a kind that is not in ROPE_KINDS.

    `dynamic` only differs from `default` beyond max_position_embeddings tokens, which is the
    longest context served, so its frequencies are the default ones.
    """
    spec = arch.rope
    parameters = dict(spec.parameters)
    if spec.kind not in ROPE_KINDS:
        raise UnsupportedModel(
            f"rope_type '{spec.kind}' is not supported; supported: {', '.join(ROPE_KINDS)}"
        )
    if (parameters.get("partial_rotary_factor") or 1.0) != 1.0:
        raise UnsupportedModel("partial_rotary_factor other than 1 is not supported")
    if arch.head_dim % 2:
        raise UnsupportedModel(f"head_dim {arch.head_dim} is odd; rotary embedding needs it even")
    plain = 1.0 / _powers(spec, arch.head_dim)
    scaling = 1.0
    if spec.kind == "linear":
        plain = plain / _number(parameters, "factor")
    elif spec.kind == "llama3":
        plain = _llama3(plain, parameters, arch.max_position_embeddings)
    elif spec.kind == "yarn":
        plain, scaling = _yarn(arch, parameters)
    return Rope(plain, scaling)


def _powers(spec: RopeSpec, head_dim: int) -> torch.Tensor:
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    return spec.theta**exponents


def _llama3(plain: torch.Tensor, parameters: Parameters, max_positions: int) -> torch.Tensor:
    factor = _number(parameters, "factor")
    low = _number(parameters, "low_freq_factor")
    high = _number(parameters, "high_freq_factor")
    old_length = _number(parameters, "original_max_position_embeddings", max_positions)
    wavelength = 2 * math.pi / plain
    scaled = torch.where(wavelength > old_length / low, plain / factor, plain)
    smooth = (old_length / wavelength - low) / (high - low)
    between = (1 - smooth) * scaled / factor + smooth * scaled
    medium = (wavelength >= old_length / high) & (wavelength <= old_length / low)
    return torch.where(medium, between, scaled)


def _yarn(arch: Architecture, parameters: Parameters) -> tuple[torch.Tensor, float]:
    """YaRN (2309.00071): interpolated low, extrapolated high frequencies, a ramp between."""
    original = _number(parameters, "original_max_position_embeddings", arch.max_position_embeddings)
    factor = _number(parameters, "factor", arch.max_position_embeddings / original)
    low, high = (
        arch.head_dim
        * math.log(original / (rotations * 2 * math.pi))
        / (2 * math.log(arch.rope.theta))
        for rotations in (_number(parameters, "beta_fast", 32), _number(parameters, "beta_slow", 1))
    )
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, arch.head_dim - 1)
    if low == high:
        high += 0.001
    ramp = (torch.arange(arch.head_dim // 2, dtype=torch.float32) - low) / (high - low)
    keep = 1 - torch.clamp(ramp, 0, 1)
    powers = _powers(arch.rope, arch.head_dim)
    inv_freq = 1.0 / (factor * powers) * (1 - keep) + 1.0 / powers * keep
    return inv_freq, _yarn_scaling(parameters, factor)


def _yarn_scaling(parameters: Parameters, factor: float) -> float:
    given = parameters.get("attention_factor")
    if given is not None:
        return _number(parameters, "attention_factor")
    mscale, all_dim = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if mscale and all_dim:
        return _mscale(factor, float(mscale)) / _mscale(factor, float(all_dim))
    return _mscale(factor, 1.0)


def _mscale(factor: float, scale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0


def _number(parameters: Parameters, key: str, default: float | None = None) -> float:
    value = parameters.get(key)
    value = default if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise SourceError(f"config.json: rope parameter {key} = {value!r} must be positive")
    return value
