"""Random sources of a given Llama shape, written a layer at a time: no model is ever in memory."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.merge_kinds import NAMES

NOISE = 0.05
SPREAD = 0.02


@dataclass(frozen=True)
class Shape:
    """Sizes of an untied Llama model."""

    hidden: int
    intermediate: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    vocab_size: int

    @property
    def num_parameters(self) -> int:
        """Over all tensors."""
        return sum(rows * columns for part in shards(self) for _, (rows, columns) in part)


SHAPE = Shape(2048, 5632, 22, 32, 4, 32000)
"""TinyLlama-1.1B's."""
QUICK = Shape(768, 2048, 6, 12, 4, 16000)
TINY = Shape(32, 64, 1, 2, 2, 64)


def shards(shape: Shape) -> Iterator[list[tuple[str, tuple[int, int]]]]:
    """Names and sizes of the tensors of each shard; a vector has one column."""
    kv = shape.hidden // shape.num_heads * shape.num_kv_heads
    yield [("model.embed_tokens.weight", (shape.vocab_size, shape.hidden))]
    for index in range(shape.num_layers):
        layer = {
            "input_layernorm": (shape.hidden, 1),
            "self_attn.q_proj": (shape.hidden, shape.hidden),
            "self_attn.k_proj": (kv, shape.hidden),
            "self_attn.v_proj": (kv, shape.hidden),
            "self_attn.o_proj": (shape.hidden, shape.hidden),
            "post_attention_layernorm": (shape.hidden, 1),
            "mlp.gate_proj": (shape.intermediate, shape.hidden),
            "mlp.up_proj": (shape.intermediate, shape.hidden),
            "mlp.down_proj": (shape.hidden, shape.intermediate),
        }
        yield [(f"model.layers.{index}.{name}.weight", size) for name, size in layer.items()]
    yield [("model.norm.weight", (shape.hidden, 1))]
    yield [("lm_head.weight", (shape.vocab_size, shape.hidden))]


def write_sources(folder: Path, shape: Shape) -> None:
    """base: Gaussian; left and right: base plus noise of their own, 5% of its spread; bfloat16."""
    import torch
    from safetensors.torch import save_file

    parts = list(shards(shape))
    indices: dict[str, dict[str, str]] = {name: {} for name in NAMES}
    generators = {name: torch.Generator().manual_seed(seed) for seed, name in enumerate(NAMES)}
    for name in NAMES:
        (folder / name).mkdir(parents=True)
    for number, part in enumerate(parts, start=1):
        file = f"model-{number:05}-of-{len(parts):05}.safetensors"
        base = {
            key: torch.randn(size, generator=generators["base"]).mul_(SPREAD) for key, size in part
        }
        for name in NAMES:
            tensors = {}
            for key, start in base.items():
                tensor = start
                if name != "base":
                    noise = torch.randn(start.shape, generator=generators[name])
                    tensor = noise.mul_(SPREAD * NOISE).add_(start)
                vector = tensor.shape[1] == 1
                tensors[key] = (1 + tensor[:, 0] if vector else tensor).to(torch.bfloat16)
            save_file(tensors, folder / name / file, metadata={"format": "pt"})
            indices[name] |= dict.fromkeys(tensors, file)
    for name in NAMES:
        write_description(folder / name, shape, indices[name])


def write_description(folder: Path, shape: Shape, weight_map: dict[str, str]) -> None:
    """The checkpoint's config.json and the index of its shards."""
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": shape.hidden,
        "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
    index = {"metadata": {"total_size": 2 * shape.num_parameters}, "weight_map": weight_map}
    text = json.dumps(index, indent=2)
    (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
