"""The decoder that follows a path: embedding, one step per hop, final norm, head."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from evoserve.model.attention import AttentionBackend
from evoserve.model.batch import ForwardBatch
from evoserve.model.kv_cache import KVCache
from evoserve.model.layer import (
    LayerWeights,
    StepContext,
    attention_branch,
    mlp_branch,
    rms_norm,
)
from evoserve.model.linear import DenseLinear, Linear
from evoserve.model.plan import ScalingTarget
from evoserve.model.rope import Rope
from evoserve.model.store import Lease
from evoserve.sources.architecture import Architecture


@dataclass(frozen=True, eq=False)
class PathStep:
    """One hop: the layer, what its input is multiplied by, and what its own source prescribes.

    rope: index into the model's ropes; window: last tokens that attention sees, None for all.
    """

    layer: LayerWeights
    scale: float
    eps: float
    rope: int
    window: int | None


@dataclass(frozen=True, eq=False)
class ModelEnds:
    """embed: (num_rows, hidden_size); norm: (hidden_size,); head: (vocab_size, hidden_size)."""

    embed: torch.Tensor
    norm: torch.Tensor
    norm_eps: float
    head: torch.Tensor


@dataclass(frozen=True, eq=False)
class PathParts:
    """What a path model is made of; `architecture` is that of the model that gives the embedding.

    max_model_len: longest context in tokens.
    """

    architecture: Architecture
    steps: tuple[PathStep, ...]
    ends: ModelEnds
    ropes: tuple[Rope, ...]
    target: ScalingTarget
    max_model_len: int


class PathModel:
    """A built recipe; `forward` is pure but for the KV cache that it is given.

    With branch_t the MLP output of hop t and h_t = r_t + branch_t its hidden state (h_-1 is the
    embedding), hop t reads
        mlp_output:   x_t = r_(t-1) + s_t * branch_(t-1),  x_0 = s_0 * embedding
        hidden_state: x_t = s_t * h_(t-1)
    and the final norm reads the last h unscaled.
    """

    def __init__(self, parts: PathParts, backend: AttentionBackend, lease: Lease) -> None:
        """`lease` holds the weights in their store until `evoserve.model.build.release`."""
        self.architecture = parts.architecture
        self.max_model_len = parts.max_model_len
        self.lease = lease
        self._steps = parts.steps
        self._ends = parts.ends
        self._ropes = parts.ropes
        self._target = parts.target
        self._backend = backend
        self._head: Linear = DenseLinear(parts.ends.head)

    @property
    def num_steps(self) -> int:
        """Hops of the path; each has its own KV slots."""
        return len(self._steps)

    @property
    def num_layers(self) -> int:
        """Distinct layers, repeats counted once."""
        return len({id(step.layer) for step in self._steps})

    @property
    def vocab_size(self) -> int:
        """Rows of the head."""
        return self._ends.head.shape[0]

    @property
    def device(self) -> torch.device:
        """Where weights and caches live."""
        return self._ends.embed.device

    @property
    def dtype(self) -> torch.dtype:
        """Of weights, activations and KV cache."""
        return self._ends.embed.dtype

    @property
    def scales(self) -> tuple[float, ...]:
        """The scale of each hop."""
        return tuple(step.scale for step in self._steps)

    @property
    def weight_bytes(self) -> int:
        """Bytes of the weights in use, shared ones counted once."""
        layers = {id(step.layer): step.layer.num_bytes for step in self._steps}
        ends = {id(end): end.nbytes for end in (self._ends.embed, self._ends.norm, self._ends.head)}
        return sum(layers.values()) + sum(ends.values())

    def kv_bytes_per_block(self, block_size: int) -> int:
        """Bytes that one block of `block_size` tokens takes over all path steps."""
        layer = self._steps[0].layer
        per_token = 2 * layer.num_kv_heads * layer.head_dim * self.dtype.itemsize
        return self.num_steps * block_size * per_token

    def new_kv_cache(self, num_blocks: int, block_size: int) -> KVCache:
        """An uninitialised cache in one allocation."""
        layer = self._steps[0].layer
        shape = (self.num_steps, num_blocks * block_size, 2, layer.num_kv_heads, layer.head_dim)
        data = torch.empty(shape, dtype=self.dtype, device=self.device)
        return KVCache(data, block_size)

    @torch.inference_mode()
    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        """float32 logits (num_rows, vocab_size) of `batch.logit_rows`; fills the KV cache."""
        contexts = self._prepare(batch, kv_cache)
        first, last = self._steps[0], self.num_steps - 1
        hidden = functional.embedding(batch.token_ids, self._ends.embed)
        if first.scale != 1.0:
            hidden = hidden * first.scale
        for index, (step, context) in enumerate(zip(self._steps, contexts, strict=True)):
            attended = attention_branch(step.layer, hidden, step.eps, context)
            hidden = hidden.add_(attended)
            if index == last:
                hidden = hidden.index_select(0, batch.logit_rows)
            branch = mlp_branch(step.layer, hidden, step.eps)
            scale = 1.0 if index == last else self._steps[index + 1].scale
            hidden = self._join(hidden, branch, scale)
        normed = rms_norm(hidden, self._ends.norm, self._ends.norm_eps)
        return self._head(normed).float()

    def _join(self, residual: torch.Tensor, branch: torch.Tensor, scale: float) -> torch.Tensor:
        """What the next hop reads; writes into `residual`."""
        if self._target == "mlp_output":
            return residual.add_(branch, alpha=scale)
        joined = residual.add_(branch)
        return joined if scale == 1.0 else joined.mul_(scale)

    def _prepare(self, batch: ForwardBatch, kv_cache: KVCache) -> list[StepContext]:
        """Rotations and attention plans: made once per kind, not per step."""
        longest = max(batch.context_lens)
        rotations = [rope.cos_sin(batch.positions, self.dtype) for rope in self._ropes]
        windows = [_effective(step.window, longest) for step in self._steps]
        plans = {
            window: self._backend.plan(batch, kv_cache.block_size, window)
            for window in dict.fromkeys(windows)
        }
        return [
            StepContext(*rotations[step.rope], batch.slot_mapping, plans[window], cached)
            for step, window, cached in zip(self._steps, windows, kv_cache.data, strict=True)
        ]


def _effective(window: int | None, longest_context: int) -> int | None:
    """A window that no sequence of the batch outgrows is none."""
    return None if window is None or window >= longest_context else window
