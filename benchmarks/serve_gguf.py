"""A Q8_0 GGUF file for llama.cpp, made of the very checkpoint that the other servers load.

    python -m benchmarks.serve_gguf MODEL_FOLDER FILE.gguf

Tokens, merges and chat template are the checkpoint's own. Matrices become Q8_0 (the embedding too,
as llama.cpp's own converter does), norms stay float32.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

TENSORS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
OUTSIDE = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)\.weight")
_NORMAL, _CONTROL = 1, 3
_MOSTLY_Q8_0 = 7

Array = NDArray[np.float32]


def main() -> None:
    """Convert one checkpoint."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("file", type=Path)
    options = parser.parse_args()
    write_gguf(options.model, options.file)


def write_gguf(model: Path, file: Path) -> None:
    """Convert a Llama checkpoint in one safetensors file. Raises ValueError if it is another."""
    from gguf import GGMLQuantizationType, GGUFWriter
    from gguf.quants import quantize

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    if config["model_type"] != "llama":
        raise ValueError(f"{model}: model_type is {config['model_type']!r}, must be 'llama'")
    work = file.with_suffix(".part")
    writer = GGUFWriter(work, "llama")
    add_config(writer, config)
    add_tokenizer(writer, model, config)
    for name, tensor in load_file(model / "model.safetensors").items():
        ours = name_tensor(name)
        values = arrange(name, tensor, config).astype(np.float32)
        if values.ndim < 2:
            writer.add_tensor(ours, values)
        else:
            kind = GGMLQuantizationType.Q8_0
            writer.add_tensor(ours, quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    work.replace(file)


def name_tensor(name: str) -> str:
    """llama.cpp's name of a tensor. Raises ValueError if it has none."""
    found = _LAYER.fullmatch(name)
    if found and found[2] in TENSORS:
        return f"blk.{found[1]}.{TENSORS[found[2]]}.weight"
    stem = name.removesuffix(".weight")
    if stem not in OUTSIDE:
        raise ValueError(f"tensor {name!r} has no place in a Llama GGUF")
    return f"{OUTSIDE[stem]}.weight"


def arrange(name: str, tensor: Array, config: dict[str, Any]) -> Array:
    """q and k rows in the order of llama.cpp's rotary embedding, anything else as it is.

    Hugging Face rotates the halves of a head against each other, llama.cpp neighbours: row
    `half * head_dim / 2 + i` of a head becomes its row `2 * i + half`.
    """
    heads = {
        "q_proj": config["num_attention_heads"],
        "k_proj": config["num_key_value_heads"],
    }
    kind = name.split(".")[-2]
    if kind not in heads:
        return tensor
    halves = tensor.reshape(heads[kind], 2, -1, tensor.shape[-1])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(tensor.shape)


def add_config(writer: Any, config: dict[str, Any]) -> None:
    """Shape and constants of the model."""
    writer.add_file_type(_MOSTLY_Q8_0)
    writer.add_quantization_version(2)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_vocab_size(config["vocab_size"])


def add_tokenizer(writer: Any, model: Path, config: dict[str, Any]) -> None:
    """Tokens, merges and template."""
    tokenizer = json.loads((model / "tokenizer.json").read_text(encoding="utf-8"))
    names = {number: token for token, number in tokenizer["model"]["vocab"].items()}
    kinds = dict.fromkeys(names, _NORMAL)
    for added in tokenizer["added_tokens"]:
        names[added["id"]] = added["content"]
        kinds[added["id"]] = _CONTROL if added["special"] else _NORMAL
    pairs = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(name_splitting(tokenizer["pre_tokenizer"]))
    writer.add_token_list([names[number] for number in sorted(names)])
    writer.add_token_types([kinds[number] for number in sorted(names)])
    writer.add_token_merges([p if isinstance(p, str) else " ".join(p) for p in pairs])
    writer.add_eos_token_id(config["eos_token_id"])
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
    writer.add_chat_template((model / "chat_template.jinja").read_text(encoding="utf-8"))


def name_splitting(splitting: dict[str, Any]) -> str:
    """llama.cpp's name of a pre-tokenizer. Raises ValueError if it is not known here."""
    steps = splitting.get("pretokenizers", [splitting])
    match [step["type"] for step in steps], steps[-1].get("use_regex"):
        case ["ByteLevel"], True:
            return "gpt-2"
        case ["Digits", "ByteLevel"], True if steps[0]["individual_digits"]:
            return "smollm"
    raise ValueError(f"pre_tokenizer {splitting} is not GPT-2's ByteLevel, with Digits or without")


if __name__ == "__main__":
    main()
