"""Rotary frequencies: equal to transformers' to the last bit; what is not supported is refused."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from evoserve.errors import SourceError, UnsupportedModel
from evoserve.model.rope import Rope, build_rope
from evoserve.sources.architecture import Architecture, RopeSpec, parse_architecture

CONFIG = {
    "vocab_size": 11,
    "hidden_size": 256,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 4096,
}
KINDS: list[dict[str, Any]] = [
    {"rope_type": "default", "rope_theta": 500000.0},
    {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0},
    {
        "rope_type": "llama3",
        "rope_theta": 500000.0,
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
    {
        "rope_type": "yarn",
        "rope_theta": 1000000.0,
        "factor": 4.0,
        "original_max_position_embeddings": 1024,
    },
    {
        "rope_type": "yarn",
        "rope_theta": 10000.0,
        "factor": 40.0,
        "original_max_position_embeddings": 1024,
        "beta_fast": 16.0,
        "beta_slow": 2.0,
        "mscale": 1.0,
        "mscale_all_dim": 0.7,
        "truncate": False,
    },
]


def architecture(rope: RopeSpec | None = None) -> Architecture:
    arch = parse_architecture({"model_type": "llama", **CONFIG})
    return arch if rope is None else replace(arch, rope=rope)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind["rope_type"])
def test_frequencies_are_those_of_transformers(kind: dict[str, Any]) -> None:
    config = LlamaConfig(**CONFIG, rope_parameters=dict(kind))
    if kind["rope_type"] == "default":
        expected, scaling = LlamaRotaryEmbedding.compute_default_rope_parameters(config)
    else:
        expected, scaling = ROPE_INIT_FUNCTIONS[kind["rope_type"]](config)
    arch = parse_architecture({"model_type": "llama", **CONFIG, "rope_parameters": kind})
    built = build_rope(arch)
    assert torch.equal(built.inv_freq, expected)
    assert built.attention_scaling == scaling


def test_cos_sin_rotate_like_transformers() -> None:
    config = LlamaConfig(**CONFIG, rope_parameters=dict(KINDS[4]))
    rotary = LlamaRotaryEmbedding(config)
    positions = torch.tensor([0, 5, 4095])
    cos, sin = rotary(torch.zeros(1), positions[None])
    arch = parse_architecture({"model_type": "llama", **CONFIG, "rope_parameters": KINDS[4]})
    ours = build_rope(arch).cos_sin(positions, torch.float32)
    half = cos.shape[-1] // 2
    assert torch.equal(ours[0][:, 0], cos[0])
    assert torch.equal(ours[1][:, 0, half:], sin[0, :, half:])
    assert torch.equal(ours[1][:, 0, :half], -sin[0, :, :half])


@pytest.mark.parametrize("kind", ["longrope", "proportional", "mrope"])
def test_other_kinds_are_refused_with_the_list_of_supported_ones(kind: str) -> None:
    with pytest.raises(UnsupportedModel, match=f"rope_type '{kind}'.*default, linear, dynamic"):
        build_rope(architecture(RopeSpec(10000.0, kind)))


def test_partial_rotation_is_refused() -> None:
    with pytest.raises(UnsupportedModel, match="partial_rotary_factor"):
        build_rope(architecture(RopeSpec(10000.0, "default", (("partial_rotary_factor", 0.5),))))


def test_a_missing_factor_is_named() -> None:
    with pytest.raises(SourceError, match="rope parameter factor = None"):
        build_rope(architecture(RopeSpec(10000.0, "linear")))


def test_moving_keeps_the_scaling() -> None:
    rope = Rope(torch.ones(2), 1.5)
    assert rope.to("cpu").attention_scaling == 1.5
