"""What int8 costs in quality: perplexity of a fixed English text, and greedy tokens kept.

SmolLM2-135M-Instruct (models/demo), and a DFS path over it that repeats and scales layers, built
by the engine's own factory without and with int8. Perplexity is over benchmarks/data/english.txt,
a text of our own that no model was trained on. Greedy agreement is counted twice over the first 64
tokens of each prompt: how many tokens until the two continuations part, and how often int8 would
have chosen the same next token after the unquantised continuation.

    python -m benchmarks.quantization [--json FILE]
"""

import argparse
import json
import math
import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from benchmarks.provenance import ROOT, find_commit, processor
from evoserve.config import Settings
from evoserve.engine.factory import PathModelFactory, ServableModel
from evoserve.manifest.load import build_manifest
from evoserve.model.batch import ForwardBatch
from evoserve.sources.checkpoint import open_checkpoint
from evoserve.sources.recipe import Recipe
from evoserve.tokenizer import load_tokenizer

DEMO = ROOT / "models" / "demo" / "smollm2-135m-instruct"
TEXT = Path(__file__).parent / "data" / "english.txt"
PATHS: dict[str, dict[str, Any]] = {
    "plain": {},
    "path": {
        "path": ["a[0:12]", "a[10:30]"],
        "scaling": {"default": 1.0, "matrix": [["a[11]", "a[10]", 0.9]]},
    },
}
PROMPTS = (
    "Write a short story about a fox who learns to swim.",
    "Explain to a child why it rains.",
    "What is the capital of France, and what is it known for?",
    "Give me five unusual uses of a paperclip.",
    "Tom has 12 apples and gives 5 of them away. How many are left? Explain each step.",
    "Write a polite letter that asks a neighbour to be quieter at night.",
    "What is the difference between a virus and a bacterium?",
    "Write a Python function that reverses a string.",
)
NUM_TOKENS = 64
_BLOCK_SIZE = 16
_CHUNK = 256


def main() -> None:
    """Measure, print, write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="file for the result")
    options = parser.parse_args()
    result = {
        "benchmark": "quantization",
        "results": {name: compare(name) for name in PATHS},
        "machine": {"processor": processor(), "system": platform.platform()},
        "torch": torch.__version__,
        "commit": find_commit(),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n", encoding="utf-8")


def compare(name: str) -> dict[str, Any]:
    """Perplexities and agreement of one of `PATHS`."""
    plain, packed = build(name, None), build(name, "int8")
    tokenizer = load_tokenizer(DEMO)
    text = tokenizer.encode(TEXT.read_text(encoding="utf-8"))
    perplexities = [perplexity(model, text) for model in (plain, packed)]
    prompts = [tokenizer.encode_chat([{"role": "user", "content": prompt}]) for prompt in PROMPTS]
    agreements = [agreement(plain, packed, prompt) for prompt in prompts]
    return {
        "num_text_tokens": len(text),
        "perplexity": perplexities[0],
        "int8_perplexity": perplexities[1],
        "ratio": perplexities[1] / perplexities[0],
        "num_tokens": NUM_TOKENS,
        "common_prefix": [each.common_prefix for each in agreements],
        "same_next_token": sum(each.same_next for each in agreements) / len(agreements),
        "weight_bytes": plain.weight_bytes,
        "int8_weight_bytes": packed.weight_bytes,
    }


def build(name: str, quantization: str | None) -> ServableModel:
    """One of `PATHS` as the server would build it on the CPU."""
    document = {"format": "evoserve/1", "name": name, "sources": {"a": {"model": str(DEMO)}}}
    manifest = build_manifest({**document, **PATHS[name]})
    settings = Settings.model_validate({"device": "cpu", "quantization": quantization})
    recipe = Recipe(manifest, {"a": open_checkpoint(DEMO)})
    return PathModelFactory(settings).build(recipe)


class Reader:
    """One sequence through a model of its own KV cache."""

    def __init__(self, model: ServableModel, max_len: int) -> None:
        """Room for `max_len` tokens."""
        self._model = model
        num_blocks = -(-max_len // _BLOCK_SIZE)
        self._cache = model.new_kv_cache(num_blocks, _BLOCK_SIZE)
        self._blocks = torch.arange(num_blocks)[None]
        self._length = 0

    def read(self, token_ids: Sequence[int]) -> torch.Tensor:
        """float32 logits (len(token_ids), vocab_size)."""
        starts = range(0, len(token_ids), _CHUNK)
        return torch.cat([self._chunk(token_ids[start : start + _CHUNK]) for start in starts])

    def _chunk(self, token_ids: Sequence[int]) -> torch.Tensor:
        count = len(token_ids)
        at = torch.arange(self._length, self._length + count)
        self._length += count
        batch = ForwardBatch(
            torch.tensor(token_ids),
            at,
            at,
            (count,),
            (self._length,),
            self._blocks,
            torch.arange(count),
            int(count == 1),
        )
        return self._model.forward(batch, self._cache).clone()


def perplexity(model: ServableModel, token_ids: Sequence[int]) -> float:
    """Over all tokens but the first, each with all before it as context."""
    logits = Reader(model, len(token_ids)).read(token_ids)
    loss = functional.cross_entropy(logits[:-1], torch.tensor(token_ids[1:]))
    return math.exp(loss.item())


@dataclass(frozen=True)
class Agreement:
    """common_prefix: tokens before two continuations part; same_next: share of equal choices."""

    common_prefix: int
    same_next: float


def agreement(plain: ServableModel, packed: ServableModel, prompt: Sequence[int]) -> Agreement:
    """Of greedy continuations of NUM_TOKENS tokens."""
    wanted, found = greedy(plain, prompt), greedy(packed, prompt)
    pairs = zip(wanted, found, strict=True)
    parts = (index for index, (a, b) in enumerate(pairs) if a != b)
    logits = Reader(packed, len(prompt) + NUM_TOKENS).read([*prompt, *wanted[:-1]])
    chosen = logits[len(prompt) - 1 :].argmax(-1)
    same = (chosen == torch.tensor(wanted)).float().mean().item()
    return Agreement(next(parts, NUM_TOKENS), same)


def greedy(model: ServableModel, prompt: Sequence[int]) -> list[int]:
    """NUM_TOKENS tokens; end tokens do not end it."""
    reader = Reader(model, len(prompt) + NUM_TOKENS)
    logits = reader.read(prompt)
    out = [int(logits[-1].argmax())]
    while len(out) < NUM_TOKENS:
        out.append(int(reader.read(out[-1:])[-1].argmax()))
    return out


if __name__ == "__main__":
    main()
