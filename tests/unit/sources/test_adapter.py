"""LoRA folded in, against peft's own merge_and_unload."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from evoserve.errors import SourceError, UnsupportedModel
from evoserve.sources.adapter import open_adapter
from evoserve.sources.checkpoint import Checkpoint, open_checkpoint

Q0 = "base_model.model.model.layers.0.self_attn.q_proj"
MLP = ["gate_proj", "up_proj", "down_proj"]


@pytest.fixture
def trained(tmp_path: Path, tiny_model: Callable[..., Any]) -> Callable[..., tuple[Path, Any]]:
    """Saves base and adapter with random weights; gives the folder and peft's merged weights."""

    def train(family: str = "llama", base: dict[str, Any] | None = None, **config: Any) -> Any:
        model = tiny_model(family, **(base or {}))
        model.save_pretrained(tmp_path / "base")
        wrapped = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, **config}))
        with torch.no_grad():
            for parameter in wrapped.parameters():
                if parameter.requires_grad:
                    parameter.copy_(torch.randn_like(parameter))
        wrapped.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter", wrapped.merge_and_unload().state_dict()

    return train


def folded(adapter: Path) -> Checkpoint:
    return open_adapter(adapter, open_checkpoint(adapter.parent / "base"))


CONFIGS = {
    "one_matrix": {"target_modules": ["q_proj"]},
    "all_linear": {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", *MLP], "r": 3},
    "alpha": {"target_modules": ["v_proj"], "lora_alpha": 20},
    "rslora": {"target_modules": ["v_proj"], "lora_alpha": 5, "use_rslora": True},
    "patterns": {
        "target_modules": ["q_proj", "up_proj", "down_proj"],
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6, r"layers\.\d\.mlp.down_proj": 1},
        "alpha_pattern": {"^model.layers.0.mlp.up_proj": 3, "q_proj": 1, "proj": 9},
    },
    "rank_pattern_rslora": {
        "target_modules": ["q_proj", "v_proj"],
        "rank_pattern": {"v_proj": 2},
        "use_rslora": True,
    },
    "some_layers": {"target_modules": ["k_proj"], "layers_to_transform": [1]},
    "embedding_and_head": {"target_modules": ["embed_tokens", "lm_head", "o_proj"]},
    "whole_modules": {
        "target_modules": ["q_proj"],
        "modules_to_save": ["embed_tokens", "lm_head", "post_attention_layernorm"],
    },
    "gaussian": {"target_modules": ["q_proj"], "init_lora_weights": "gaussian"},
}


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.filterwarnings("ignore")
def test_every_tensor_is_pefts(trained: Callable[..., Any], name: str) -> None:
    adapter, expected = trained(**CONFIGS[name])
    opened = folded(adapter)
    base = open_checkpoint(adapter.parent / "base")
    assert list(opened.tensors.names()) == sorted(expected)
    changed = 0
    for tensor, value in expected.items():
        got = opened.tensors.read(tensor)
        info = opened.tensors.info(tensor)
        assert (info.shape, info.dtype) == (tuple(got.shape), got.dtype)
        torch.testing.assert_close(got, value, rtol=1e-6, atol=1e-6)
        changed += not torch.equal(value, base.tensors.read(tensor))
    assert changed


def test_biases_of_qwen2(trained: Callable[..., Any]) -> None:
    adapter, expected = trained("qwen2", target_modules=["q_proj"], bias="all")
    opened = folded(adapter)
    name = "model.layers.1.self_attn.q_proj.bias"
    assert torch.equal(opened.tensors.read(name), expected[name])
    base = open_checkpoint(adapter.parent / "base")
    assert not torch.equal(base.tensors.read(name), expected[name])


def test_a_half_precision_base_is_folded_in_float32(
    tmp_path: Path, tiny_model: Callable[..., Any], trained: Callable[..., Any]
) -> None:
    adapter, _ = trained(target_modules=["q_proj"])
    tiny_model().to(torch.bfloat16).save_pretrained(tmp_path / "base")
    opened = folded(adapter)
    parts = load_file(adapter / "adapter_model.safetensors")
    name = "model.layers.0.self_attn.q_proj.weight"
    base = open_checkpoint(tmp_path / "base").tensors.read(name)
    delta = parts[f"{Q0}.lora_B.weight"] @ parts[f"{Q0}.lora_A.weight"]
    assert torch.equal(opened.tensors.read(name), base.float() + 2.0 * delta)
    assert opened.tensors.info(name).dtype == torch.float32
    untouched = "model.layers.0.self_attn.k_proj.weight"
    assert opened.tensors.info(untouched).dtype == torch.bfloat16
    assert opened.adapter == adapter
    with pytest.raises(SourceError, match="'nothing' is missing"):
        opened.tensors.read("nothing")


def edit_config(adapter: Path, **changes: Any) -> None:
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("peft_type", "IA3"),
        ("use_dora", True),
        ("fan_in_fan_out", True),
        ("lora_bias", True),
        ("layer_replication", [[0, 2], [1, 2]]),
        ("trainable_token_indices", {"embed_tokens": [1]}),
        ("alora_invocation_tokens", [1, 2]),
        ("init_lora_weights", "pissa"),
        ("init_lora_weights", "loftq"),
        ("target_parameters", ["mlp.experts"]),
        ("use_qalora", True),
        ("an_invention_of_next_year", 1),
    ],
)
def test_what_is_not_folded_is_refused_by_name(
    trained: Callable[..., Any], key: str, value: object
) -> None:
    adapter, _ = trained(target_modules=["q_proj"])
    folded(adapter)
    edit_config(adapter, **{key: value})
    with pytest.raises(UnsupportedModel, match=key):
        folded(adapter)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("r", 0),
        ("r", 2.5),
        ("lora_alpha", "big"),
        ("lora_alpha", float("nan")),
        ("rank_pattern", {"q_proj": -1}),
        ("alpha_pattern", {"q_proj": True}),
        ("alpha_pattern", {"(": 1}),
    ],
)
def test_senseless_numbers(trained: Callable[..., Any], key: str, value: object) -> None:
    adapter, _ = trained(target_modules=["q_proj"])
    edit_config(adapter, **{key: value})
    with pytest.raises(SourceError, match=key):
        folded(adapter)


@pytest.mark.parametrize("extra", [{"use_dora": True}, {"lora_bias": True}])
@pytest.mark.filterwarnings("ignore")
def test_tensors_that_are_not_folded(trained: Callable[..., Any], extra: dict[str, Any]) -> None:
    adapter, _ = trained("qwen2", target_modules=["q_proj"], **extra)
    edit_config(adapter, **dict.fromkeys(extra, False))
    with pytest.raises(UnsupportedModel, match=r"lora_(magnitude_vector|B.bias)"):
        folded(adapter)


def test_tensors_that_do_not_fit(trained: Callable[..., Any]) -> None:
    adapter, _ = trained(target_modules=["q_proj"])
    file = adapter / "adapter_model.safetensors"
    whole = load_file(file)
    first, second = f"{Q0}.lora_A.weight", f"{Q0}.lora_B.weight"
    for changes, message in [
        ({first: torch.zeros(4, 15)}, "has shape [4, 15], the base needs [4, 16]"),
        ({second: torch.zeros(16, 5)}, "has shape [16, 5], the base needs [16, 4]"),
        ({first.replace("0", "7", 1): whole[first].clone()}, "matches no tensor of"),
        ({"base_model.model.lm_head.weight": torch.zeros(3, 16)}, "has shape [3, 16]"),
        ({first: whole[first].to(torch.int8)}, "has dtype torch.int8"),
        ({f"{Q0}.weight": whole[first].clone()}, "has shape [4, 16]"),
    ]:
        save_file({**whole, **changes}, file)
        name = next(iter(changes))
        with pytest.raises(SourceError, match=re.escape(f"'{name}' {message}")):
            folded(adapter)
    save_file({name: value for name, value in whole.items() if name != second}, file)
    with pytest.raises(SourceError, match=r"'.*lora_A.weight' has no other half"):
        folded(adapter)
    save_file({}, file)
    with pytest.raises(SourceError, match="holds no tensors"):
        folded(adapter)
    file.write_bytes(b"")
    with pytest.raises(SourceError, match=r"adapter_model.safetensors"):
        folded(adapter)


@pytest.mark.filterwarnings("ignore")
def test_a_tied_embedding_is_refused(trained: Callable[..., Any]) -> None:
    adapter, _ = trained(base={"tie_word_embeddings": True}, target_modules=["embed_tokens"])
    with pytest.raises(UnsupportedModel, match="also the head"):
        folded(adapter)
