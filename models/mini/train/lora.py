"""A short LoRA of the arithmetic expert over the base, written in PEFT's own format."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from models.mini.train.corpus import MIXTURES
from models.mini.train.train import Schedule, batch_loss, iterate_batches, lr_factor

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK = 8
SCHEDULE = Schedule(num_steps=120, matrix_lr=4e-3, other_lr=0.0)


def train_lora(
    base: Path, out: Path, seed: int, *, num_steps: int, log: Callable[[str], None]
) -> None:
    """Train an adapter of `base` on the mixture `math-lora` with AdamW and save it to `out`."""
    schedule = Schedule(num_steps, SCHEDULE.matrix_lr, 0.0, SCHEDULE.batch_tokens)
    tokenizer = Tokenizer.from_file(str(base / "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=RANK,
        lora_alpha=2 * RANK,
        lora_dropout=0.0,
        target_modules=list(TARGETS),
    )
    adapted = get_peft_model(model, config)
    params = [p for p in adapted.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=schedule.matrix_lr, weight_decay=0.0)
    rng = random.Random(f"math-lora/{seed}")
    batches = iterate_batches(tokenizer, MIXTURES["math-lora"], schedule.batch_tokens, rng)
    adapted.train()
    for step in range(num_steps):
        loss = batch_loss(adapted, *next(batches))
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimizer.param_groups:
            group["lr"] = schedule.matrix_lr * lr_factor(step, schedule)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 50 == 49 or step + 1 == num_steps:
            log(f"step {step + 1}/{num_steps} loss {loss.item():.4f}")
    adapted.save_pretrained(str(out))
    _finish(out)


def _finish(out: Path) -> None:
    """Name the base without a machine's path, sort the lists, and drop PEFT's empty card."""
    path = out / "adapter_config.json"
    config = json.loads(path.read_text())
    config["base_model_name_or_path"] = "mini/base"
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (out / "adapter_model.safetensors").chmod(0o644)
    (out / "README.md").unlink(missing_ok=True)
