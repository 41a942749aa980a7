"""The training loop: seeded batches bucketed by length, Muon and AdamW, linear warm-down."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import LlamaForCausalLM

from models.mini.train.corpus import Mixture, sample_examples
from models.mini.train.optim import Muon
from models.mini.train.tokenizer import Encoded, encode_examples

_CHUNK = 4096  # examples drawn, sorted by length and cut into batches at a time
_IGNORE = -100


@dataclass(frozen=True)
class Schedule:
    """How long and how fast: a step takes `batch_tokens` padded tokens, prompts included.

    optimizer: of the hidden matrices; embeddings and norms always take AdamW.
    """

    num_steps: int
    matrix_lr: float
    other_lr: float
    batch_tokens: int = 4096
    warmup_steps: int = 20
    decay_share: float = 0.5
    optimizer: Literal["muon", "adamw"] = "muon"


@dataclass(frozen=True)
class TrainReport:
    """What a run took."""

    num_steps: int
    num_tokens: int
    wall_s: float
    loss: float


def train_model(
    model: LlamaForCausalLM,
    tokenizer: Tokenizer,
    mixture: Mixture,
    schedule: Schedule,
    seed: str,
    *,
    log: Callable[[str], None],
) -> TrainReport:
    """Train every parameter of the model in place; the loss covers assistant tokens only."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    hidden = [p for name, p in named if p.ndim == 2 and "embed_tokens" not in name]
    others = [p for name, p in named if p.ndim != 2 or "embed_tokens" in name]
    stepper = _build_stepper(hidden, others, schedule)
    batches = iterate_batches(tokenizer, mixture, schedule.batch_tokens, random.Random(seed))
    started, num_tokens, smooth = time.monotonic(), 0, 0.0
    model.train()
    for step in range(schedule.num_steps):
        ids, labels = next(batches)
        factor = lr_factor(step, schedule)
        loss = batch_loss(model, ids, labels)
        loss.backward()  # type: ignore[no-untyped-call]
        stepper(factor)
        model.zero_grad(set_to_none=True)
        num_tokens += ids.numel()
        smooth = loss.item() if step == 0 else 0.95 * smooth + 0.05 * loss.item()
        if step % 50 == 49 or step + 1 == schedule.num_steps:
            rate = num_tokens / (time.monotonic() - started)
            log(f"step {step + 1}/{schedule.num_steps} loss {smooth:.4f} {rate:.0f} tokens/s")
    return TrainReport(schedule.num_steps, num_tokens, time.monotonic() - started, smooth)


def _build_stepper(
    hidden: list[torch.nn.Parameter], others: list[torch.nn.Parameter], schedule: Schedule
) -> Callable[[float], None]:
    """A function that takes a step at a share of the schedule's rates."""
    muon = Muon(hidden) if schedule.optimizer == "muon" else None
    rates = [(others, schedule.other_lr)]
    if muon is None:
        rates.insert(0, (hidden, schedule.matrix_lr))
    groups = [{"params": params, "peak": rate} for params, rate in rates]
    adamw = torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.98), weight_decay=0.0)
    clipped = others if muon else [*hidden, *others]

    def step(factor: float) -> None:
        torch.nn.utils.clip_grad_norm_(clipped, 1.0)
        for group in adamw.param_groups:
            group["lr"] = group["peak"] * factor
        adamw.step()
        if muon is not None:
            muon.step(schedule.matrix_lr * factor)

    return step


def batch_loss(model: torch.nn.Module, ids: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of the next token over the labels that are not ignored."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    flat = logits.reshape(-1, logits.shape[-1])
    return cross_entropy(flat, labels[:, 1:].reshape(-1), ignore_index=_IGNORE)


def lr_factor(step: int, schedule: Schedule) -> float:
    """Linear warm-up, a plateau, and a linear decay to a twentieth over the last share."""
    warm = min(1.0, (step + 1) / schedule.warmup_steps)
    left = (schedule.num_steps - step) / (schedule.num_steps * schedule.decay_share)
    return warm * max(0.05, min(1.0, left))


def iterate_batches(
    tokenizer: Tokenizer, mixture: Mixture, batch_tokens: int, rng: random.Random
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Endless (ids, labels), each (rows, length), right-padded, of near-equal lengths."""
    while True:
        encoded = encode_examples(tokenizer, sample_examples(mixture, _CHUNK, rng))
        encoded.sort(key=lambda example: len(example.ids))
        batches: list[list[Encoded]] = [[]]
        for example in encoded:
            if (len(batches[-1]) + 1) * len(example.ids) > batch_tokens and batches[-1]:
                batches.append([])
            batches[-1].append(example)
        rng.shuffle(batches)
        yield from (_pad(batch) for batch in batches)


def _pad(batch: list[Encoded]) -> tuple[torch.Tensor, torch.Tensor]:
    length = max(len(example.ids) for example in batch)
    ids = torch.zeros(len(batch), length, dtype=torch.long)
    labels = torch.full((len(batch), length), _IGNORE)
    for row, example in enumerate(batch):
        values = torch.tensor(example.ids)
        ids[row, : len(values)] = values
        trained = torch.tensor(example.trained)
        labels[row, : len(values)] = torch.where(trained, values, _IGNORE)
    return ids, labels
