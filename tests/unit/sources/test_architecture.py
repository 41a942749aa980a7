"""Configs of the supported families, as transformers writes them, into architectures."""

from collections.abc import Callable
from typing import Any

import pytest
from transformers import LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from evoserve.errors import SourceError, UnsupportedModel
from evoserve.sources.architecture import (
    FAMILIES,
    RopeSpec,
    layer_name,
    layer_shapes,
    parse_architecture,
    split_layer_name,
    tensor_shapes,
)

CONFIGS = {
    "llama": LlamaConfig,
    "mistral": MistralConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "high_freq_factor": 4.0,
    "low_freq_factor": 1.0,
    "original_max_position_embeddings": 8192,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_default_config_of_the_family(family: str) -> None:
    config = CONFIGS[family]()
    arch = parse_architecture(config.to_dict())
    assert arch.family == family
    assert arch.num_layers == config.num_hidden_layers == len(arch.windows)
    assert (
        arch.head_dim == getattr(config, "head_dim", None) or config.hidden_size // arch.num_heads
    )
    assert arch.rms_norm_eps == config.rms_norm_eps
    assert arch.rope == RopeSpec(config.rope_parameters["rope_theta"])
    assert arch.qk_norm == (family == "qwen3")
    assert arch.attention_bias == (family == "qwen2")
    assert not arch.output_bias


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "key",
    [
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
        "sliding_window",
        "use_sliding_window",
        "max_window_layers",
        "rms_norm_eps",
        "tie_word_embeddings",
        "attention_bias",
        "mlp_bias",
        "hidden_act",
        "rope_parameters",
        "layer_types",
    ],
)
def test_a_key_that_is_absent_means_what_transformers_takes_it_for(family: str, key: str) -> None:
    config = CONFIGS[family](hidden_size=2048, num_attention_heads=32, use_sliding_window=True)
    short = {name: value for name, value in config.to_dict().items() if name != key}
    assert parse_architecture(short) == parse_architecture(CONFIGS[family](**short).to_dict())


def test_keys_that_a_family_ignores() -> None:
    llama = parse_architecture({**LlamaConfig().to_dict(), "sliding_window": 8})
    assert set(llama.windows) == {None}
    mistral = {**MistralConfig().to_dict(), "attention_bias": True, "mlp_bias": True}
    assert parse_architecture(mistral) == parse_architecture(MistralConfig().to_dict())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_shapes_are_those_of_transformers(
    tiny_model: Callable[..., Any], family: str, tied: bool, bias: bool
) -> None:
    changes = {"attention_bias": bias, "mlp_bias": bias} if family == "llama" else {}
    if family == "qwen3":
        changes = {"attention_bias": bias}
    model = tiny_model(family, tie_word_embeddings=tied, num_hidden_layers=3, **changes)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if tied:
        del expected["lm_head.weight"]
    assert tensor_shapes(parse_architecture(model.config.to_dict())) == expected


def test_rope_in_the_old_and_the_new_spelling() -> None:
    old = LlamaConfig().to_dict()
    del old["rope_parameters"]
    old |= {"rope_theta": 500000.0, "rope_scaling": LLAMA3}
    new = LlamaConfig(rope_parameters={"rope_theta": 500000.0, **LLAMA3}).to_dict()
    spec = parse_architecture(old).rope
    assert parse_architecture(new).rope == spec
    assert spec.theta == 500000.0
    assert spec.kind == "llama3"
    assert dict(spec.parameters) == {k: v for k, v in LLAMA3.items() if k != "rope_type"}
    older = {**old, "rope_scaling": {"type": "linear", "factor": 2.0}}
    assert parse_architecture(older).rope == RopeSpec(500000.0, "linear", (("factor", 2.0),))


def test_windows() -> None:
    mistral = MistralConfig(sliding_window=64, num_hidden_layers=3).to_dict()
    assert parse_architecture(mistral).windows == (64, 64, 64)
    assert parse_architecture({**mistral, "sliding_window": None}).windows == (None,) * 3
    qwen = Qwen2Config(
        use_sliding_window=True, sliding_window=64, max_window_layers=2, num_hidden_layers=4
    ).to_dict()
    assert parse_architecture(qwen).windows == (None, None, 64, 64)
    del qwen["layer_types"]
    assert parse_architecture(qwen).windows == (None, None, 64, 64)
    assert parse_architecture({**qwen, "use_sliding_window": False}).windows == (None,) * 4
    with pytest.raises(SourceError, match="layer_types has 1 entries for 4 layers"):
        parse_architecture({**qwen, "layer_types": ["full_attention"]})


def test_what_is_not_supported_is_named() -> None:
    with pytest.raises(UnsupportedModel, match=r"'gpt2'.*llama, mistral, qwen2, qwen3"):
        parse_architecture({"model_type": "gpt2"})
    with pytest.raises(UnsupportedModel, match="gelu"):
        parse_architecture({**LlamaConfig().to_dict(), "hidden_act": "gelu"})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", "many"),
        ("hidden_size", 0),
        ("num_hidden_layers", True),
        ("vocab_size", None),
        ("num_key_value_heads", 3),
        ("rms_norm_eps", float("nan")),
        ("rms_norm_eps", "small"),
        ("intermediate_size", 2**40),
    ],
)
def test_a_senseless_number_is_named(key: str, value: object) -> None:
    with pytest.raises(SourceError, match=key):
        parse_architecture({**LlamaConfig().to_dict(), key: value})


def test_remote_code_is_not_run_and_not_needed() -> None:
    config = {**LlamaConfig().to_dict(), "auto_map": {"AutoModelForCausalLM": "evil.Model"}}
    assert parse_architecture(config).family == "llama"


def test_sakanas_format_is_mistral_layers() -> None:
    config = MistralConfig(sliding_window=64).to_dict()
    assert parse_architecture({**config, "model_type": "evomistral"}) == parse_architecture(config)


def test_layer_names() -> None:
    assert split_layer_name(layer_name(12, "mlp.up_proj.weight")) == (12, "mlp.up_proj.weight")
    for name in ("model.norm.weight", "lm_head.weight", "model.layers.x.y", "a.model.layers.1.y"):
        assert split_layer_name(name) is None
    arch = parse_architecture(LlamaConfig().to_dict())
    assert len(layer_shapes(arch)) == 9
