"""Tiny real checkpoints, built with transformers, for the tests of sources."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from tokenizers import Tokenizer as LibraryTokenizer
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from evoserve.manifest.load import build_manifest
from evoserve.manifest.schema import Manifest

TINY = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "use_cache": True,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
FAMILIES = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2", "qwen3": "Qwen3"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's cache of digests."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("EVOSERVE_CACHE_DIR", str(folder))
    return folder


@pytest.fixture
def tiny_model() -> Callable[..., Any]:
    """A random model of a family; keyword arguments go into its config."""

    def build(family: str = "llama", seed: int = 0, **changes: Any) -> Any:
        torch.manual_seed(seed)
        kind = FAMILIES[family]
        config = getattr(transformers, f"{kind}Config")(**{**TINY, **changes})
        return getattr(transformers, f"{kind}ForCausalLM")(config)

    return build


@pytest.fixture
def save_model(tiny_model: Callable[..., Any]) -> Callable[..., Path]:
    """Saves a random model into a folder and gives the folder back."""

    def save(folder: Path, family: str = "llama", seed: int = 0, **changes: Any) -> Path:
        tiny_model(family, seed, **changes).save_pretrained(folder)
        return folder

    return save


@pytest.fixture
def save_tokenizer() -> Callable[..., None]:
    """Saves a byte-level tokenizer of 20 letters plus `added` tokens into a folder."""

    def save(
        folder: Path, added: tuple[str, ...] = (), letters: str = "abcdefghijklmnopqrst"
    ) -> None:
        built = LibraryTokenizer(models.BPE({c: i for i, c in enumerate(letters)}, []))
        built.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        built.decoder = decoders.ByteLevel()
        for token in added:
            built.add_special_tokens([token])
        fast = PreTrainedTokenizerFast(tokenizer_object=built)
        fast.save_pretrained(folder)

    return save


@pytest.fixture
def manifest() -> Callable[..., Manifest]:
    """A manifest over sources given as name=folder (or a source's document)."""

    def build(sources: dict[str, Any], **fields: Any) -> Manifest:
        documents = {
            name: {"model": str(value)} if isinstance(value, Path) else value
            for name, value in sources.items()
        }
        return build_manifest(
            {"format": "evoserve/1", "name": "test", "sources": documents, **fields}
        )

    return build
