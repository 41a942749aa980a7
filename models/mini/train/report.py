"""Command line: measure a zoo, `python -m models.mini.train.report --zoo models/mini`.

Prints the README's table: each source and the plain merges on held-out items of both languages.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from models.mini.train.data import SPLITS, Split, build_items
from models.mini.train.evaluate import (
    Score,
    State,
    evaluate_items,
    load_state,
    merge_linear,
    merge_ties,
    wilson_interval,
)

EXPERTS = ("ja", "math", "math2")


def main(argv: Sequence[str] | None = None) -> None:
    """Print one table row per model; --weights adds a merge with weights for ja, math, math2."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--zoo", type=Path, required=True)
    parser.add_argument("--split", choices=SPLITS, default="test")
    parser.add_argument("--count", type=int, default=300, help="items of each language")
    parser.add_argument("--weights", type=float, nargs=3, action="append", default=[])
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(argv)
    torch.set_num_threads(args.threads)
    split: Split = args.split
    items = {"ja": build_items(split, "ja", args.count), "en": build_items(split, "en", args.count)}
    tokenizer = Tokenizer.from_file(str(args.zoo / "base" / "tokenizer.json"))
    model = LlamaForCausalLM.from_pretrained(args.zoo / "base", dtype=torch.float32)
    print("| model | ja: number right | ja: right, in Japanese | en: right, in English |")
    print("|---|---|---|---|")
    for name, state in iterate_models(args.zoo, args.weights):
        model.load_state_dict(state, strict=False)
        japanese = evaluate_items(model, tokenizer, items["ja"])
        english = evaluate_items(model, tokenizer, items["en"])
        cells = [cell(japanese, japanese.right), cell(japanese, japanese.both)]
        print("| " + " | ".join([name, *cells, cell(english, english.both)]) + " |", flush=True)


def iterate_models(zoo: Path, weightings: Sequence[Sequence[float]]) -> Iterator[tuple[str, State]]:
    """The sources, the plain merges, and a weighted merge for each weighting."""
    base = load_state(zoo / "base")
    experts = {name: load_state(zoo / name) for name in EXPERTS}
    yield "base", base
    yield from experts.items()
    yield "uniform average of ja, math, math2", merge_linear(base, experts, _equal(1 / 3))
    yield "task arithmetic, all 0.5", merge_linear(base, experts, _equal(0.5))
    yield "task arithmetic, all 1", merge_linear(base, experts, _equal(1.0))
    yield "TIES, density 0.5, all 1", merge_ties(base, experts, _equal(1.0), 0.5)
    for weights in weightings:
        named = dict(zip(EXPERTS, weights, strict=True))
        label = ", ".join(f"{name} {weight:g}" for name, weight in named.items())
        yield f"task arithmetic, {label}", merge_linear(base, experts, named)


def cell(score: Score, successes: int) -> str:
    """A share in percent with its 95% interval."""
    low, high = wilson_interval(successes, score.count)
    return f"{100 * successes / score.count:.1f} ({100 * low:.1f}-{100 * high:.1f})"


def _equal(weight: float) -> dict[str, float]:
    return dict.fromkeys(EXPERTS, weight)


if __name__ == "__main__":
    main()
