"""The architecture of the zoo and its Hugging Face layout on disk."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from models.mini.train.tokenizer import END, MAX_LENGTH, PAD, VOCAB_SIZE, save_tokenizer


def build_model(tokenizer: Tokenizer) -> LlamaForCausalLM:
    """A fresh Llama of 1.02M parameters; weights from torch's global generator."""
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
        use_cache=True,
    )
    return LlamaForCausalLM(config)


def save_checkpoint(model: LlamaForCausalLM, tokenizer: Tokenizer, folder: Path) -> None:
    """Write weights (fp32), configs, tokenizer and chat template."""
    model.to(dtype=torch.float32)
    model.generation_config = GenerationConfig(
        do_sample=False,
        eos_token_id=tokenizer.token_to_id(END),
        pad_token_id=tokenizer.token_to_id(PAD),
    )
    model.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)
    save_tokenizer(tokenizer, folder)
