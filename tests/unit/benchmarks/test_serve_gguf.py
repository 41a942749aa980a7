"""The GGUF file for llama.cpp holds the checkpoint's own weights, tokens and template."""

from pathlib import Path

import numpy as np
import pytest
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors.numpy import load_file

from benchmarks.provenance import ROOT
from benchmarks.serve_gguf import arrange, name_splitting, name_tensor, write_gguf

MINI = ROOT / "models" / "mini" / "base"


def rotate(vector: np.ndarray, angles: np.ndarray, *, is_interleaved: bool) -> np.ndarray:
    """A head rotated pair by pair: (i, i + half), or neighbours."""
    half = len(vector) // 2
    a, b = (vector[::2], vector[1::2]) if is_interleaved else (vector[:half], vector[half:])
    turned = a * np.cos(angles) - b * np.sin(angles), b * np.cos(angles) + a * np.sin(angles)
    return np.stack(turned, -1).ravel() if is_interleaved else np.concatenate(turned)


def test_arranged_rows_rotate_as_the_original_ones() -> None:
    generator = np.random.default_rng(0)
    config = {"num_attention_heads": 1, "num_key_value_heads": 1}
    weights = [generator.normal(size=(8, 5)).astype(np.float32) for _ in range(2)]
    names = ("model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight")
    moved = [arrange(name, w, config) for name, w in zip(names, weights, strict=True)]
    x, angles = generator.normal(size=(2, 5)), generator.normal(size=(2, 4))
    plain = [
        rotate(w @ v, a, is_interleaved=False) for w, v, a in zip(weights, x, angles, strict=True)
    ]
    theirs = [
        rotate(w @ v, a, is_interleaved=True) for w, v, a in zip(moved, x, angles, strict=True)
    ]
    assert np.dot(*theirs) == pytest.approx(np.dot(*plain), rel=1e-5)


def test_a_written_file_reads_back_within_the_steps_of_q8_0(tmp_path: Path) -> None:
    file = tmp_path / "mini.gguf"
    write_gguf(MINI, file)
    reader = GGUFReader(file)
    found = {tensor.name: tensor for tensor in reader.tensors}
    config = {"num_attention_heads": 4, "num_key_value_heads": 2}
    tensors = load_file(MINI / "model.safetensors")
    assert len(found) == len(tensors)
    for name, tensor in tensors.items():
        written = found[name_tensor(name)]
        values = dequantize(written.data, written.tensor_type)
        wanted = arrange(name, tensor, config)
        blocks = np.abs(wanted.reshape(-1, 32)).max(1, keepdims=True)
        assert np.all(np.abs(values - wanted).reshape(-1, 32) <= blocks / 127)
    assert reader.fields["tokenizer.ggml.pre"].contents() == "smollm"
    template = (MINI / "chat_template.jinja").read_text("utf-8")
    assert reader.fields["tokenizer.chat_template"].contents() == template
    assert not list(tmp_path.glob("*.part"))


def test_what_llama_cpp_would_read_otherwise_is_refused() -> None:
    byte_level = {"type": "ByteLevel", "use_regex": True}
    assert name_splitting(byte_level) == "gpt-2"
    with pytest.raises(ValueError, match="pre_tokenizer"):
        name_splitting({**byte_level, "use_regex": False})
    with pytest.raises(ValueError, match=r"model\.layers\.0\.self_attn\.q_norm"):
        name_tensor("model.layers.0.self_attn.q_norm.weight")
