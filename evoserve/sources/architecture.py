"""What a Hugging Face config.json means to us: the supported decoder families as plain data."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from evoserve.errors import SourceError, UnsupportedModel

Family = Literal["llama", "mistral", "qwen2", "qwen3"]
FAMILIES: tuple[str, ...] = get_args(Family)
EMBED = "model.embed_tokens.weight"
FINAL_NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"

# What a config.json that lacks the key means, where transformers' families do not agree.
_DEFAULTS: dict[str, dict[str, int]] = {
    "llama": {},
    "mistral": {
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "max_position_embeddings": 131072,
    },
    "qwen2": {
        "num_key_value_heads": 32,
        "sliding_window": 4096,
        "max_position_embeddings": 32768,
    },
    "qwen3": {
        "num_key_value_heads": 32,
        "head_dim": 128,
        "sliding_window": 4096,
        "max_position_embeddings": 32768,
    },
}


@dataclass(frozen=True)
class RopeSpec:
    """Rotary embedding: `kind` is Hugging Face's rope_type, `parameters` its own numbers."""

    theta: float
    kind: str = "default"
    parameters: tuple[tuple[str, float | str | bool | None], ...] = ()


@dataclass(frozen=True)
class Architecture:
    """Shapes and switches of a decoder; two equal ones can exchange layers and be merged.

    windows: per layer the sliding window in tokens, None for full attention;
    attention_bias: q, k, v have biases; output_bias: o has; mlp_bias: gate, up, down have;
    qk_norm: RMSNorm over head_dim on q and k before the rotary embedding (Qwen3).
    """

    family: Family
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    max_position_embeddings: int
    rope: RopeSpec
    windows: tuple[int | None, ...]
    tie_word_embeddings: bool = False
    attention_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False


def layer_name(layer: int, short: str) -> str:
    """The full tensor name of `short` (such as `mlp.down_proj.weight`) in layer `layer`."""
    return f"model.layers.{layer}.{short}"


def split_layer_name(name: str) -> tuple[int, str] | None:
    """(layer, short name) of a layer's tensor, None for embedding, final norm and head."""
    prefix, _, rest = name.partition("model.layers.")
    number, _, short = rest.partition(".")
    return (int(number), short) if not prefix and short and number.isdecimal() else None


def layer_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of one layer by short name, in the order they are stored."""
    hidden, inter = arch.hidden_size, arch.intermediate_size
    query, key = arch.num_heads * arch.head_dim, arch.num_kv_heads * arch.head_dim
    linears = {
        "self_attn.q_proj": (query, hidden, arch.attention_bias),
        "self_attn.k_proj": (key, hidden, arch.attention_bias),
        "self_attn.v_proj": (key, hidden, arch.attention_bias),
        "self_attn.o_proj": (hidden, query, arch.output_bias),
        "mlp.gate_proj": (inter, hidden, arch.mlp_bias),
        "mlp.up_proj": (inter, hidden, arch.mlp_bias),
        "mlp.down_proj": (hidden, inter, arch.mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {"input_layernorm.weight": (hidden,)}
    for name, (rows, columns, has_bias) in linears.items():
        shapes[f"{name}.weight"] = (rows, columns)
        if has_bias:
            shapes[f"{name}.bias"] = (rows,)
    if arch.qk_norm:
        shapes["self_attn.q_norm.weight"] = (arch.head_dim,)
        shapes["self_attn.k_norm.weight"] = (arch.head_dim,)
    shapes["post_attention_layernorm.weight"] = (hidden,)
    return shapes


def tensor_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor of the checkpoint by full name; a tied head has none of its own."""
    table = (arch.vocab_size, arch.hidden_size)
    shapes: dict[str, tuple[int, ...]] = {EMBED: table}
    for layer in range(arch.num_layers):
        for short, shape in layer_shapes(arch).items():
            shapes[layer_name(layer, short)] = shape
    shapes[FINAL_NORM] = (arch.hidden_size,)
    if not arch.tie_word_embeddings:
        shapes[LM_HEAD] = table
    return shapes


def parse_architecture(config: Mapping[str, Any]) -> Architecture:
    """The architecture a config.json describes.

    Raises UnsupportedModel for what this runtime does not implement, SourceError for a config
    that lacks a number or holds a senseless one.
    """
    family = config.get("model_type")
    if family == "evomistral":  # Sakana's DFS format: Mistral layers, hops in two more tensors
        family = "mistral"
    if family not in FAMILIES:
        raise UnsupportedModel(
            f"model_type '{family}' is not supported; supported: {', '.join(FAMILIES)}"
        )
    config = {**_DEFAULTS[family], **config, "model_type": family}
    if config.get("hidden_act", "silu") not in ("silu", "swish"):
        raise UnsupportedModel(
            f"hidden_act '{config['hidden_act']}' is not supported; only silu is"
        )
    heads = _count(config, "num_attention_heads")
    hidden = _count(config, "hidden_size")
    layers = _count(config, "num_hidden_layers")
    kv_heads = _count(config, "num_key_value_heads", heads)
    head_dim = _count(config, "head_dim", hidden // heads)
    if heads % kv_heads:
        raise SourceError(
            f"num_attention_heads {heads} is no multiple of num_key_value_heads {kv_heads}"
        )
    has_bias = bool(config.get("attention_bias", False)) and family in ("llama", "qwen3")
    return Architecture(
        family=cast(Family, family),
        vocab_size=_count(config, "vocab_size"),
        hidden_size=hidden,
        intermediate_size=_count(config, "intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        rms_norm_eps=_number(config, "rms_norm_eps", 1e-6),
        max_position_embeddings=_count(config, "max_position_embeddings", 2048),
        rope=_parse_rope(config),
        windows=_parse_windows(config, layers),
        tie_word_embeddings=bool(config.get("tie_word_embeddings", False)),
        attention_bias=has_bias or family == "qwen2",
        output_bias=has_bias,
        mlp_bias=bool(config.get("mlp_bias", False)) and family == "llama",
        qk_norm=family == "qwen3",
    )


def _parse_rope(config: Mapping[str, Any]) -> RopeSpec:
    """transformers 5 writes `rope_parameters`; older files `rope_theta` and `rope_scaling`."""
    given = {**(config.get("rope_scaling") or {}), **(config.get("rope_parameters") or {})}
    theta = given.pop("rope_theta", None) or config.get("rope_theta") or 10000.0
    kind = given.pop("rope_type", given.pop("type", None)) or "default"
    given.pop("type", None)
    plain = {k: v for k, v in given.items() if isinstance(v, int | float | str | bool | None)}
    return RopeSpec(float(theta), str(kind), tuple(sorted(plain.items())))


def _parse_windows(config: Mapping[str, Any], layers: int) -> tuple[int | None, ...]:
    """Llama has no windows, Mistral one for all layers, Qwen one for the layers it lists."""
    family = config["model_type"]
    is_off = family != "mistral" and not config.get("use_sliding_window", False)
    if family == "llama" or is_off or config.get("sliding_window") is None:
        return (None,) * layers
    window = _count(config, "sliding_window")
    if family == "mistral":
        return (window,) * layers
    types = config.get("layer_types")
    if types is None:
        first = int(config.get("max_window_layers", 28))
        return tuple(window if layer >= first else None for layer in range(layers))
    if len(types) != layers:
        raise SourceError(f"layer_types has {len(types)} entries for {layers} layers")
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def _count(config: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = config.get(key)
    value = default if value is None else value
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 2**31:
        raise SourceError(f"config.json: {key} = {value!r} must be a positive integer")
    return value


def _number(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key, default)
    if not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise SourceError(f"config.json: {key} = {value!r} must be a number that is not negative")
    return float(value)
