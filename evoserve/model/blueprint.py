"""How to make a shared weight: the expressions it is evaluated from, part by part."""

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
from evoserve.model.linear import Linear, Table
from evoserve.model.placement import Placement, make_linear, make_table
from evoserve.model.store import Weight
from evoserve.sources.architecture import Architecture, layer_name, layer_shapes

_FUSED = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "out": ("self_attn.o_proj",),
    "gate_up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
_KINDS = ("weight", "bias")

PartValue = Linear | Table | torch.Tensor


@dataclass(frozen=True, eq=False)
class Job:
    """Evaluate `expression` into `out`; `label` names the tensor for error messages."""

    label: str
    expression: Expression
    out: torch.Tensor


@dataclass(frozen=True, eq=False)
class Draft:
    """Allocated CPU buffers: once all `jobs` are done, `finish(num_threads)` is the part.

    `finish` may keep the buffers or pack what is in them into less; then they are free to go.
    """

    jobs: tuple[Job, ...]
    finish: Callable[[int], PartValue]


@dataclass(frozen=True, eq=False)
class Part:
    """What is drafted, evaluated and packed at once: a fused projection, a table or a vector."""

    name: str
    num_elements: int
    draft: Callable[[], Draft]


@dataclass(frozen=True, eq=False)
class Blueprint:
    """A weight that can be made from its parts, by name; equal keys are equal weights."""

    key: str
    parts: tuple[Part, ...]
    assemble: Callable[[Mapping[str, PartValue]], Weight]


def table_blueprint(
    tensors: RecipeTensors, model: str, name: str, placement: Placement
) -> Blueprint:
    """Embedding or head, one and the same if they are made of the same expression."""
    expression = tensors.expression(model, name)

    def draft() -> Draft:
        dtype = placement.draft_dtype([expression.node.dtype])
        out = torch.empty(expression.shape, dtype=dtype)
        job = Job(_label(model, name), expression, out)
        return Draft((job,), lambda num_threads: make_table(out, placement, num_threads))

    part = Part(name, _num_elements([expression]), draft)
    key = _digest("table", placement, expression.key)
    return Blueprint(key, (part,), lambda made: _weight(made[name]))


def vector_blueprint(
    tensors: RecipeTensors, model: str, name: str, placement: Placement
) -> Blueprint:
    """The final norm."""
    expression = tensors.expression(model, name)
    part = _vector_part(name, _label(model, name), expression, placement)
    key = _digest("tensor", placement, expression.key)
    return Blueprint(key, (part,), lambda made: _weight(made[name]))


def layer_blueprint(
    tensors: RecipeTensors, ref: LayerRef, arch: Architecture, placement: Placement
) -> Blueprint:
    """A whole layer with fused projections."""
    names = {short: layer_name(ref.layer, short) for short in layer_shapes(arch)}
    expressions = {short: tensors.expression(ref.model, name) for short, name in names.items()}
    labels = {short: _label(ref.model, name) for short, name in names.items()}
    shape = (arch.num_heads, arch.num_kv_heads, arch.head_dim)
    keys = [(short, expression.key) for short, expression in expressions.items()]
    projections = [_projection(fused, expressions, labels, placement) for fused in _FUSED]
    fused = {f"{name}.{kind}" for part in _FUSED.values() for name in part for kind in _KINDS}
    vectors = [
        _vector_part(short, labels[short], expression, placement)
        for short, expression in expressions.items()
        if short not in fused
    ]
    key = _digest("layer", placement, shape, keys)
    return Blueprint(key, (*projections, *vectors), lambda made: _assemble(arch, made))


def evaluate_jobs(jobs: Sequence[Job], num_threads: int) -> None:
    """Do the jobs. Raises SourceError that names the first tensor with NaN or infinity."""
    are_finite = evaluate_all([(job.expression, job.out) for job in jobs], num_threads)
    for job, is_finite in zip(jobs, are_finite, strict=True):
        if not is_finite:
            raise SourceError(
                f"{job.label} holds NaN or infinity as {job.out.dtype}; "
                "repair the source, or use a wider dtype if it overflows"
            )


def _vector_part(name: str, label: str, expression: Expression, placement: Placement) -> Part:
    def draft() -> Draft:
        out = torch.empty(expression.shape, dtype=placement.dtype)
        return Draft((Job(label, expression, out),), lambda _: out.to(placement.device))

    return Part(name, _num_elements([expression]), draft)


def _projection(
    fused: str,
    expressions: Mapping[str, Expression],
    labels: Mapping[str, str],
    placement: Placement,
) -> Part:
    """The rows of several projections one after the other; parts without a bias have none."""
    shorts = {
        kind: [f"{part}.{kind}" for part in _FUSED[fused] if f"{part}.{kind}" in expressions]
        for kind in _KINDS
    }
    weights = [expressions[short] for short in shorts["weight"]]

    def draft() -> Draft:
        dtypes = {
            "weight": placement.draft_dtype([each.node.dtype for each in weights]),
            "bias": placement.dtype,
        }
        buffers: dict[str, torch.Tensor] = {}
        jobs: list[Job] = []
        for kind, names in shorts.items():
            if names:
                rows = [expressions[short].shape[0] for short in names]
                shape = (sum(rows), *expressions[names[0]].shape[1:])
                buffers[kind] = torch.empty(shape, dtype=dtypes[kind])
                slices = torch.split(buffers[kind], rows)
                jobs += [
                    Job(labels[short], expressions[short], out)
                    for short, out in zip(names, slices, strict=True)
                ]
        weight, bias = buffers["weight"], buffers.get("bias")
        return Draft(
            tuple(jobs), lambda num_threads: make_linear(weight, bias, placement, num_threads)
        )

    return Part(fused, _num_elements(weights), draft)


def _assemble(arch: Architecture, made: Mapping[str, PartValue]) -> LayerWeights:
    qk_norm = None
    if arch.qk_norm:
        query = _vector(made["self_attn.q_norm.weight"]).expand(arch.num_heads, -1)
        key = _vector(made["self_attn.k_norm.weight"]).expand(arch.num_kv_heads, -1)
        qk_norm = torch.cat((query, key))
    return LayerWeights(
        arch.num_heads,
        arch.num_kv_heads,
        arch.head_dim,
        input_norm=_vector(made["input_layernorm.weight"]),
        qkv=_linear(made["qkv"]),
        out=_linear(made["out"]),
        post_norm=_vector(made["post_attention_layernorm.weight"]),
        gate_up=_linear(made["gate_up"]),
        down=_linear(made["down"]),
        qk_norm=qk_norm,
    )


def _weight(value: PartValue) -> Table | torch.Tensor:
    if not isinstance(value, Table | torch.Tensor):
        raise TypeError("a projection by itself is no weight")
    return value


def _vector(value: PartValue) -> torch.Tensor:
    if not isinstance(value, torch.Tensor):
        raise TypeError("a matrix stands where a vector belongs")
    return value


def _linear(value: PartValue) -> Linear:
    if isinstance(value, Table | torch.Tensor):
        raise TypeError("no projection stands where one belongs")
    return value


def _num_elements(expressions: Sequence[Expression]) -> int:
    return sum(torch.Size(expression.shape).numel() for expression in expressions)


def _label(model: str, name: str) -> str:
    return f"tensor '{name}' of model '{model}'"


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()
