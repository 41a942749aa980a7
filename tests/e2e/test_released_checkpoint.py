"""A checkpoint in the released DFS format is imported and served; answers are its formula's."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from test_shipped_recipes import QUESTION, ROOT, start, stop
from transformers import AutoTokenizer, MistralConfig, MistralForCausalLM

LAYERS = [0, 1, 2, 1, 2, 3, 4, 3, 5]
SCALES = [1.0, 0.97, 1.04, 0.8, 0.9, 1.02, 1.0, 0.7, 0.95]


def write_evomistral(folder: Path) -> None:
    """mini/ja in Sakana's format: the layers once, and which one each hop visits."""
    shutil.copytree(ROOT / "models/mini/ja", folder)
    config = json.loads((folder / "config.json").read_text())
    config.update(
        model_type="evomistral",
        architectures=["EvoMistralForCausalLM"],
        auto_map={"AutoModelForCausalLM": "modeling_evomistral.EvoMistralForCausalLM"},
        sliding_window=None,
        num_hops=len(LAYERS),
    )
    (folder / "config.json").write_text(json.dumps(config))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.input_layers"] = torch.tensor(LAYERS, dtype=torch.int32)
    tensors["model.input_scales"] = torch.tensor(SCALES)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


@torch.inference_mode()
def greedy_by_formula(folder: Path, prompt: list[int], count: int) -> list[int]:
    """x_t = residual_(t-1) + s_t * mlp_(t-1), written out over transformers' own modules."""
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "mistral"
    model = MistralForCausalLM(MistralConfig(**config)).eval()
    model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    model.tie_weights()
    ids = list(prompt)
    while len(ids) - len(prompt) < count:
        token = int(last_logits(model, ids).argmax())
        ids.append(token)
        if token == config["eos_token_id"]:
            break
    return ids[len(prompt) :]


def last_logits(model: MistralForCausalLM, ids: list[int]) -> torch.Tensor:
    residual = torch.zeros(1)
    branch = model.model.embed_tokens(torch.tensor([ids]))
    positions = torch.arange(len(ids))[None]
    rotary = model.model.rotary_emb(branch, positions)
    mask = torch.full((len(ids), len(ids)), float("-inf")).triu(1)[None, None]
    for index, scale in zip(LAYERS, SCALES, strict=True):
        layer = model.model.layers[index]
        hidden = residual + scale * branch
        attended, _ = layer.self_attn(
            layer.input_layernorm(hidden), position_embeddings=rotary, attention_mask=mask
        )
        residual = hidden + attended
        branch = layer.mlp(layer.post_attention_layernorm(residual))
    return model.lm_head(model.model.norm(residual + branch))[0, -1]


def test_a_released_checkpoint_imports_and_serves(tmp_path: Path) -> None:
    write_evomistral(tmp_path / "evo")
    recipe = tmp_path / "recipe.json"
    command = [sys.executable, "-m", "evoserve", "import", str(tmp_path / "evo"), "-o", str(recipe)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    running = start([recipe])
    answer = running.client.chat.completions.create(
        model="recipe", messages=QUESTION, temperature=0, max_tokens=16
    )
    assert stop(running) == 0
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "models/mini/ja")
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True)["input_ids"]
    expected = greedy_by_formula(tmp_path / "evo", prompt, 16)
    text = tokenizer.decode(expected, skip_special_tokens=True)
    assert answer.choices[0].message.content == text
    assert text.strip()
