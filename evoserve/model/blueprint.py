"""How to make a shared weight: the expressions it is evaluated from and the buffer they fill."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from evoserve.errors import SourceError
from evoserve.manifest.refs import LayerRef
from evoserve.merge.build import evaluate_all
from evoserve.merge.expression import Expression, RecipeTensors
from evoserve.model.layer import LayerWeights
from evoserve.model.linear import DenseLinear
from evoserve.model.store import Weight
from evoserve.sources.architecture import Architecture, layer_name, layer_shapes

_FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}


@dataclass(frozen=True, eq=False)
class Job:
    """Evaluate `expression` into `out`; `label` names the tensor for error messages."""

    label: str
    expression: Expression
    out: torch.Tensor


@dataclass(frozen=True, eq=False)
class Draft:
    """Allocated CPU buffers: once all `jobs` are done, `finish(device)` is the weight."""

    jobs: tuple[Job, ...]
    finish: Callable[[str], Weight]


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A weight that can be made; equal keys are equal weights."""

    key: str
    draft: Callable[[], Draft]


@dataclass(frozen=True)
class Placement:
    """Where built weights go and in which dtype."""

    device: str
    dtype: torch.dtype


def tensor_blueprint(
    tensors: RecipeTensors, model: str, name: str, placement: Placement
) -> Blueprint:
    """One tensor by itself: embedding, head or final norm."""
    expression = tensors.expression(model, name)

    def draft() -> Draft:
        out = torch.empty(expression.shape, dtype=placement.dtype)
        return Draft((Job(_label(model, name), expression, out),), out.to)

    return Blueprint(_digest("tensor", placement, expression.key), draft)


def layer_blueprint(
    tensors: RecipeTensors, ref: LayerRef, arch: Architecture, placement: Placement
) -> Blueprint:
    """A whole layer with fused projections."""
    names = {short: layer_name(ref.layer, short) for short in layer_shapes(arch)}
    expressions = {short: tensors.expression(ref.model, name) for short, name in names.items()}
    shape = (arch.num_heads, arch.num_kv_heads, arch.head_dim)
    keys = [(short, expression.key) for short, expression in expressions.items()]

    def draft() -> Draft:
        buffers, slices = _allocate(expressions, placement.dtype)
        jobs = tuple(
            Job(_label(ref.model, names[short]), expression, slices[short])
            for short, expression in expressions.items()
        )
        return Draft(jobs, lambda device: _assemble(arch, buffers, device))

    return Blueprint(_digest("layer", placement, shape, keys), draft)


def evaluate_jobs(jobs: Sequence[Job], num_threads: int) -> None:
    """Do the jobs. Raises SourceError that names the first tensor with NaN or infinity."""
    are_finite = evaluate_all([(job.expression, job.out) for job in jobs], num_threads)
    for job, is_finite in zip(jobs, are_finite, strict=True):
        if not is_finite:
            raise SourceError(
                f"{job.label} holds NaN or infinity as {job.out.dtype}; "
                "repair the source, or use a wider dtype if it overflows"
            )


def _allocate(
    expressions: Mapping[str, Expression], dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Fused buffers by name, and the part of them that each tensor fills."""
    buffers: dict[str, torch.Tensor] = {}
    slices: dict[str, torch.Tensor] = {}
    for fused, parts in _FUSED.items():
        for kind in ("weight", "bias"):
            shorts = [f"{part}.{kind}" for part in parts if f"{part}.{kind}" in expressions]
            if shorts:
                shapes = [tuple(expressions[short].shape) for short in shorts]
                rows = [shape[0] for shape in shapes]
                buffer = torch.empty((sum(rows), *shapes[0][1:]), dtype=dtype)
                buffers[f"{fused}.{kind}"] = buffer
                slices.update(zip(shorts, torch.split(buffer, rows), strict=True))
    for short, expression in expressions.items():
        if short not in slices:
            buffers[short] = slices[short] = torch.empty(expression.shape, dtype=dtype)
    return buffers, slices


def _assemble(arch: Architecture, buffers: Mapping[str, torch.Tensor], device: str) -> LayerWeights:
    placed = {name: buffer.to(device) for name, buffer in buffers.items()}
    linears = {
        fused: DenseLinear(placed[f"{fused}.weight"], placed.get(f"{fused}.bias"))
        for fused in _FUSED
    }
    qk_norm = None
    if arch.qk_norm:
        query = placed["self_attn.q_norm.weight"].expand(arch.num_heads, -1)
        key = placed["self_attn.k_norm.weight"].expand(arch.num_kv_heads, -1)
        qk_norm = torch.cat((query, key))
    return LayerWeights(
        arch.num_heads,
        arch.num_kv_heads,
        arch.head_dim,
        input_norm=placed["input_layernorm.weight"],
        qkv=linears["qkv"],
        out=linears["out"],
        post_norm=placed["post_attention_layernorm.weight"],
        gate_up=linears["gate_up"],
        down=linears["down"],
        qk_norm=qk_norm,
    )


def _label(model: str, name: str) -> str:
    return f"tensor '{name}' of model '{model}'"


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()
