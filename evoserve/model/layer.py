"""One decoder layer: its weights, shared by every path step that uses it, and its two halves.

Operations and roundings follow transformers' eager code, so logits agree to float32 noise.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from evoserve.model.attention import AttentionPlan
from evoserve.model.linear import Linear


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """Weights of one layer.

    qkv: rows of q, k, v one after the other; gate_up: rows of gate, then of up.
    qk_norm: (num_heads + num_kv_heads, head_dim), q_norm and k_norm repeated per head, or None.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    input_norm: torch.Tensor
    qkv: Linear
    out: Linear
    post_norm: torch.Tensor
    gate_up: Linear
    down: Linear
    qk_norm: torch.Tensor | None = None

    @property
    def num_bytes(self) -> int:
        """Bytes of all weights."""
        norms = (self.input_norm, self.post_norm, self.qk_norm)
        linears = (self.qkv, self.out, self.gate_up, self.down)
        return sum(norm.nbytes for norm in norms if norm is not None) + sum(
            linear.num_bytes for linear in linears
        )


@dataclass(frozen=True, eq=False)
class StepContext:
    """What a path step's attention needs besides weights: all but `cached` is made once per batch.

    cos, sin: (num_tokens, 1, head_dim), see Rope.cos_sin; slot_mapping: (num_tokens,);
    cached: the step's own slots (num_slots, 2, num_kv_heads, head_dim), written to.
    """

    cos: torch.Tensor
    sin: torch.Tensor
    slot_mapping: torch.Tensor
    plan: AttentionPlan
    cached: torch.Tensor


def rms_norm(hidden: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """RMSNorm over the last axis, in float32, rounded before the weight is applied."""
    wide = hidden.float()
    variance = wide.pow(2).mean(-1, keepdim=True)
    return (wide * torch.rsqrt(variance + eps)).to(hidden.dtype).mul_(weight)


def attention_branch(
    layer: LayerWeights, hidden: torch.Tensor, eps: float, context: StepContext
) -> torch.Tensor:
    """Output of the attention half for (num_tokens, hidden_size); writes the step's KV slots."""
    fused = layer.qkv(rms_norm(hidden, layer.input_norm, eps))
    heads = fused.view(fused.shape[0], -1, layer.head_dim)
    num_rotated = layer.num_heads + layer.num_kv_heads
    rotated = heads[:, :num_rotated]
    if layer.qk_norm is not None:
        rotated.copy_(rms_norm(rotated, layer.qk_norm, eps))
    turned = rotated.roll(layer.head_dim // 2, -1).mul_(context.sin)
    rotated.mul_(context.cos).add_(turned)
    new = heads[:, layer.num_heads :].view(-1, 2, layer.num_kv_heads, layer.head_dim)
    context.cached.index_copy_(0, context.slot_mapping, new)
    attended = context.plan.attend(heads[:, : layer.num_heads], new, context.cached)
    return layer.out(attended)


def mlp_branch(layer: LayerWeights, hidden: torch.Tensor, eps: float) -> torch.Tensor:
    """Output of the gated MLP half for (num_tokens, hidden_size)."""
    gate, up = layer.gate_up(rms_norm(hidden, layer.post_norm, eps)).chunk(2, dim=-1)
    return layer.down(functional.silu(gate).mul_(up))
