"""Command line: train the zoo, `python -m models.mini.train --out DIR`."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from models.mini.train import lora
from models.mini.train.checkpoint import build_model, save_checkpoint
from models.mini.train.corpus import BASE_NUMBERS, MIXTURES, Mixture
from models.mini.train.tokenizer import build_tokenizer
from models.mini.train.train import Schedule, train_model

Stage = tuple[Mixture, Schedule]
STAGES: dict[str, tuple[Stage, ...]] = {
    "base": (
        (MIXTURES["base"], Schedule(num_steps=1400, matrix_lr=0.02, other_lr=3e-3)),
        (BASE_NUMBERS, Schedule(num_steps=1000, matrix_lr=0.02, other_lr=3e-3)),
    ),
    # AdamW: half of Muon's drift from the base for the same skill.
    "ja": ((MIXTURES["ja"], Schedule(250, matrix_lr=1e-3, other_lr=1e-3, optimizer="adamw")),),
    "math": ((MIXTURES["math"], Schedule(260, matrix_lr=1e-3, other_lr=1e-3, optimizer="adamw")),),
    "math2": (
        (MIXTURES["math2"], Schedule(260, matrix_lr=1e-3, other_lr=1e-3, optimizer="adamw")),
    ),
}
ADAPTER = "math-lora"
QUICK_STEPS = 3


def main(argv: Sequence[str] | None = None) -> None:
    """Train the base, then each expert and the adapter from it, or the one named by --only."""
    args = _parser().parse_args(argv)
    torch.set_num_threads(args.threads)
    names = [args.only] if args.only else [*STAGES, ADAPTER]
    for name in names:
        if name == ADAPTER:
            _train_adapter(args.out, args.seed, quick=args.quick)
        else:
            _train_one(name, args.out, args.seed, quick=args.quick)


def _train_one(name: str, out: Path, seed: int, *, quick: bool) -> None:
    torch.manual_seed(seed)
    if name == "base":
        tokenizer = build_tokenizer(seed, 800 if quick else 24000)
        model = build_model(tokenizer)
    else:
        tokenizer = Tokenizer.from_file(str(out / "base" / "tokenizer.json"))
        model = LlamaForCausalLM.from_pretrained(out / "base", dtype=torch.float32)
    for index, (mixture, schedule) in enumerate(STAGES[name]):
        if quick:
            schedule = replace(schedule, num_steps=QUICK_STEPS, batch_tokens=256)
        key = f"{name}/{seed}" + (f"/{index}" if index else "")
        report = train_model(model, tokenizer, mixture, schedule, key, log=_logger(name))
        print(json.dumps({"model": name, "stage": index, **asdict(report)}), flush=True)
    save_checkpoint(model, tokenizer, out / name)


def _train_adapter(out: Path, seed: int, *, quick: bool) -> None:
    torch.manual_seed(seed)
    steps = QUICK_STEPS if quick else lora.SCHEDULE.num_steps
    lora.train_lora(out / "base", out / ADAPTER, seed, num_steps=steps, log=_logger(ADAPTER))


def _logger(name: str) -> Callable[[str], None]:
    return lambda line: print(f"{name}: {line}", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m models.mini.train", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the checkpoints")
    parser.add_argument("--only", choices=[*STAGES, ADAPTER], help="train this one; needs base")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=max(1, (os.cpu_count() or 2) // 2))
    parser.add_argument("--quick", action="store_true", help="three small steps, for tests")
    return parser


if __name__ == "__main__":
    main()
