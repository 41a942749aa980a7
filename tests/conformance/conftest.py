"""Real, tiny models that every engine must serve alike, and what transformers says of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_lab import ENGINES, QUANTIZED, MakeEngine, runner_of
from transformers import LlamaConfig, LlamaForCausalLM

from evoserve.manifest.load import build_manifest
from evoserve.sources.checkpoint import open_checkpoint
from evoserve.sources.recipe import Recipe

VOCAB_SIZE = 97
EOS = 96


@dataclass(frozen=True, eq=False)
class Zoo:
    """Two checkpoints, a and b, their recipes, and a path that visits layers of both."""

    folders: dict[str, Path]
    references: dict[str, Any]

    def recipe(self, name: str) -> Recipe:
        """a or b as they are, or `path`: a's ends around layers of both, one twice and scaled."""
        document: dict[str, object] = {
            "format": "evoserve/1",
            "name": name,
            "sources": {name: {"model": str(self.folders[name])}} if name != "path" else {},
        }
        if name == "path":
            document["sources"] = {key: {"model": str(file)} for key, file in self.folders.items()}
            document["path"] = ["a[0:2]", "b[1]", "a[1:3]"]
            document["scaling"] = {"per_hop": [1.0, 0.9, 1.1, 0.8, 1.0]}
        manifest = build_manifest(document)
        return Recipe(
            manifest, {key: open_checkpoint(self.folders[key]) for key in manifest.sources}
        )

    def logits(self, name: str, token_ids: Sequence[int]) -> torch.Tensor:
        """float32 (len(token_ids), vocab_size) by transformers."""
        with torch.inference_mode():
            result: torch.Tensor = self.references[name](torch.tensor([list(token_ids)])).logits[0]
        return result

    def continue_greedily(self, name: str, prompt: Sequence[int], number: int) -> list[int]:
        """By transformers, one full pass per token, end tokens ignored."""
        tokens = list(prompt)
        for _ in range(number):
            tokens.append(int(self.logits(name, tokens)[-1].argmax()))
        return tokens[len(prompt) :]


@pytest.fixture(scope="session")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    config = LlamaConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=48,
        intermediate_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=EOS,
    )
    folders, references = {}, {}
    for seed, name in enumerate(("a", "b")):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).eval()
        folders[name] = tmp_path_factory.mktemp(name)
        model.save_pretrained(folders[name])
        references[name] = model
    return Zoo(folders, references)


@pytest.fixture(scope="session")
def draw_prompt() -> Callable[[int, int], list[int]]:
    """(seed, length) -> token ids without the end token."""

    def draw(seed: int, length: int) -> list[int]:
        generator = torch.Generator().manual_seed(seed)
        ids: list[int] = torch.randint(0, EOS, (length,), generator=generator).tolist()
        return ids

    return draw


@pytest.fixture(params=sorted(ENGINES))
def running(request: pytest.FixtureRequest) -> MakeEngine:
    """An async context manager: an engine with the given settings, closed at the end."""
    return runner_of(ENGINES[request.param])


@pytest.fixture(params=sorted(ENGINES | QUANTIZED))
def running_any(request: pytest.FixtureRequest) -> MakeEngine:
    """`running`, with engines too whose tokens are not those of transformers."""
    return runner_of((ENGINES | QUANTIZED)[request.param])
