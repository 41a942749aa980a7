"""Greedy evaluation on held-out items, and the plain merges that the README compares."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from models.mini.train.data import TaskItem
from models.mini.train.tokenizer import ASSISTANT, END, PAD, USER, special_ids

State = dict[str, torch.Tensor]
_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
_JAPANESE = re.compile(r"[぀-ヿ一-鿿]")
MAX_NEW_TOKENS = 96


@dataclass(frozen=True)
class Score:
    """How many of `count` items have the right number, the right language, and both."""

    count: int
    right: int
    language: int
    both: int


def evaluate_items(
    model: LlamaForCausalLM, tokenizer: Tokenizer, items: Sequence[TaskItem], batch_size: int = 100
) -> Score:
    """Score the greedy replies."""
    replies: list[str] = []
    for first in range(0, len(items), batch_size):
        prompts = [item["prompt"] for item in items[first : first + batch_size]]
        replies += generate(model, tokenizer, prompts)
    return score_replies(items, replies)


def score_replies(items: Sequence[TaskItem], replies: Sequence[str]) -> Score:
    """Count right numbers, replies in the language of the item, and replies with both."""
    right = [last_number(r) == float(i["answer"]) for i, r in zip(items, replies, strict=True)]
    language = [
        is_japanese(r) == (i["language"] == "ja") for i, r in zip(items, replies, strict=True)
    ]
    both = [a and b for a, b in zip(right, language, strict=True)]
    return Score(len(items), sum(right), sum(language), sum(both))


def last_number(text: str) -> float | None:
    """The last number in a reply."""
    found = _NUMBER.findall(text)
    return float(found[-1]) if found else None


def is_japanese(text: str) -> bool:
    """Whether more than half of the letters are kana or kanji."""
    letters = [c for c in text if c.isalpha()]
    return 2 * len(_JAPANESE.findall(text)) > len(letters)


@torch.inference_mode()
def generate(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[str]:
    """Greedy replies of one batch."""
    special = special_ids(tokenizer)
    rows = [
        [special[USER], *encoding.ids, special[END], special[ASSISTANT]]
        for encoding in tokenizer.encode_batch(list(prompts), add_special_tokens=False)
    ]
    length = max(len(row) for row in rows)
    ids = torch.tensor([[special[PAD]] * (length - len(row)) + row for row in rows])
    mask = torch.tensor([[0] * (length - len(row)) + [1] * len(row) for row in rows])
    model.eval()
    output = model.generate(
        input_ids=ids,
        attention_mask=mask,
        max_new_tokens=max_new_tokens,
        do_sample=False,
        eos_token_id=special[END],
        pad_token_id=special[PAD],
    )
    return [str(text) for text in tokenizer.decode_batch(output[:, length:].tolist())]


def wilson_interval(successes: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% Wilson interval of a share."""
    share = successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    half /= 1 + z * z / count
    return max(0.0, centre - half), min(1.0, centre + half)


def merge_linear(base: State, experts: Mapping[str, State], weights: Mapping[str, float]) -> State:
    """Task arithmetic: base + sum of weight times (expert - base)."""
    merged = {name: tensor.clone() for name, tensor in base.items()}
    for expert, weight in weights.items():
        for name, tensor in experts[expert].items():
            merged[name] += weight * (tensor - base[name])
    return merged


def merge_ties(
    base: State, experts: Mapping[str, State], weights: Mapping[str, float], density: float
) -> State:
    """TIES: trim by magnitude, elect a sign, and take the disjoint weighted mean."""
    merged: State = {}
    for name, origin in base.items():
        deltas = torch.stack(
            [_trim(experts[e][name] - origin, density) * w for e, w in weights.items()]
        )
        elected = torch.where(deltas.sum(0) >= 0, 1.0, -1.0)
        agreeing = (deltas.sign() == elected) * deltas
        scale = torch.tensor(list(weights.values())).view(-1, *([1] * origin.ndim))
        total = ((agreeing != 0) * scale).sum(0)
        merged[name] = origin + agreeing.sum(0) / torch.where(total > 0, total, 1.0)
    return merged


def load_state(folder: Path) -> State:
    """The fp32 tensors of a checkpoint, without the tied head."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def _trim(delta: torch.Tensor, density: float) -> torch.Tensor:
    keep = max(1, round(density * delta.numel()))
    threshold = delta.abs().flatten().kthvalue(delta.numel() - keep + 1).values
    return torch.where(delta.abs() >= threshold, delta, 0.0)
