"""The stock config.json and generation_config.json of an exported path."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from evoserve.errors import ManifestError
from evoserve.manifest.parts import GenerationSpec
from evoserve.model.plan import PathPlan
from evoserve.sources.architecture import FAMILIES, Architecture

_CLASSES = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_ONE_FOR_ALL = (
    "num_heads",
    "intermediate_size",
    "attention_bias",
    "output_bias",
    "mlp_bias",
    "qk_norm",
    "rms_norm_eps",
)
_SAMPLING = ("temperature", "top_p", "top_k", "min_p")
_TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class StockShape:
    """What the config must say beyond the plan."""

    family: str
    vocab_size: int
    rms_norm_eps: float
    is_tied: bool
    dtype: torch.dtype


def choose_family(plan: PathPlan) -> str:
    """The stock family that can express the path, the embedding's own if it can.

    Raises ManifestError for steps that differ in what a config has one value for.
    """
    first = plan.steps[0].architecture
    for step in plan.steps:
        for field in _ONE_FOR_ALL:
            mine, theirs = getattr(first, field), getattr(step.architecture, field)
            if mine != theirs:
                raise _mixed(field, str(plan.steps[0].ref), mine, str(step.ref), theirs)
    if plan.head.rms_norm_eps != first.rms_norm_eps:
        raise _mixed(
            "rms_norm_eps", str(plan.steps[0].ref), first.rms_norm_eps, "the head",
            plan.head.rms_norm_eps,
        )  # fmt: skip
    if len(plan.ropes) > 1:
        other = next(step for step in plan.steps if step.rope != plan.steps[0].rope)
        raise _mixed(
            "rotary embedding", str(plan.steps[0].ref), first.rope, str(other.ref),
            other.architecture.rope,
        )  # fmt: skip
    windows = [step.window for step in plan.steps]
    for family in (plan.embed.family, *FAMILIES):
        if _can_express(family, first, windows):
            return family
    raise ManifestError(
        f"the steps' sliding windows {sorted(set(map(str, windows)))} fit no stock family with "
        "these layers; serve the recipe itself",
        where="path",
    )


def stock_config(plan: PathPlan, shape: StockShape, source: Mapping[str, Any]) -> dict[str, Any]:
    """config.json; rope keys in the older spelling, which every loader reads.

    `source` is the config of the tokenizer's source: it gives the special token ids.
    """
    arch = plan.steps[0].architecture
    config: dict[str, Any] = {
        "architectures": [_CLASSES[shape.family]],
        "model_type": shape.family,
        "vocab_size": shape.vocab_size,
        "hidden_size": arch.hidden_size,
        "intermediate_size": arch.intermediate_size,
        "num_hidden_layers": len(plan.steps),
        "num_attention_heads": arch.num_heads,
        "num_key_value_heads": arch.num_kv_heads,
        "head_dim": arch.head_dim,
        "hidden_act": "silu",
        "max_position_embeddings": plan.max_model_len,
        "rms_norm_eps": shape.rms_norm_eps,
        "tie_word_embeddings": shape.is_tied,
        "torch_dtype": str(shape.dtype).removeprefix("torch."),
        "use_cache": True,
        **_rope(arch),
        **_windows(shape.family, [step.window for step in plan.steps]),
        **{key: source.get(key) for key in _TOKEN_IDS},
    }
    if shape.family in ("llama", "qwen3"):
        config["attention_bias"] = arch.attention_bias
    if shape.family == "llama":
        config["mlp_bias"] = arch.mlp_bias
    return config


def generation_config(source: Mapping[str, Any], spec: GenerationSpec) -> dict[str, Any]:
    """The source's generation_config.json with the manifest's sampling defaults over it."""
    config = {key: value for key, value in source.items() if not key.startswith("_")}
    config.pop("transformers_version", None)
    given = spec.model_dump(exclude_none=True)
    if given.get("temperature") == 0:
        config = {key: value for key, value in config.items() if key not in _SAMPLING}
        config["do_sample"] = False
    else:
        sampling = {key: given[key] for key in _SAMPLING if key in given}
        config.update(sampling, **({"do_sample": True} if sampling else {}))
    if "max_tokens" in given:
        config["max_new_tokens"] = given["max_tokens"]
    if "repetition_penalty" in given:
        config["repetition_penalty"] = given["repetition_penalty"]
    return config


def _mixed(what: str, first: str, mine: object, other: str, theirs: object) -> ManifestError:
    return ManifestError(
        f"{what} is {mine} at {first} but {theirs} at {other}; a stock config has one for all "
        "layers, so this path can be served but not exported",
        where="path",
    )


def _can_express(family: str, arch: Architecture, windows: Sequence[int | None]) -> bool:
    kinds = set(windows)
    has_one_bias = arch.attention_bias == arch.output_bias
    if family == "llama":
        return kinds == {None} and not arch.qk_norm and has_one_bias
    if arch.mlp_bias or len(kinds - {None}) > 1:
        return False
    if family == "mistral":
        return len(kinds) == 1 and not (arch.qk_norm or arch.attention_bias or arch.output_bias)
    if family == "qwen2":
        return arch.attention_bias and not (arch.output_bias or arch.qk_norm)
    return arch.qk_norm and has_one_bias


def _rope(arch: Architecture) -> dict[str, Any]:
    spec = arch.rope
    if spec.kind == "default":
        return {"rope_theta": spec.theta}
    parameters = {"rope_type": spec.kind, **dict(spec.parameters)}
    if spec.kind in ("llama3", "yarn"):
        original = parameters.get("original_max_position_embeddings")
        original = original or arch.max_position_embeddings
        parameters["original_max_position_embeddings"] = original
        if parameters.get("factor") is None:
            parameters["factor"] = arch.max_position_embeddings / float(original)
    return {"rope_theta": spec.theta, "rope_scaling": parameters}


def _windows(family: str, windows: Sequence[int | None]) -> dict[str, Any]:
    if family == "llama":
        return {}
    size = next((window for window in windows if window is not None), None)
    if family == "mistral":
        return {"sliding_window": size}
    if size is None:
        return {"use_sliding_window": False}
    kinds = ["full_attention" if each is None else "sliding_attention" for each in windows]
    return {
        "use_sliding_window": True,
        "sliding_window": size,
        "max_window_layers": kinds.index("sliding_attention"),
        "layer_types": kinds,
    }
