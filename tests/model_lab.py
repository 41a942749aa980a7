"""Tiny real checkpoints and a reference decoder for tests of the model runtime."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from evoserve.manifest.load import build_manifest
from evoserve.model.backend import Backend, torch_backend
from evoserve.model.batch import ForwardBatch
from evoserve.model.build import build_model
from evoserve.model.cpu.cache import PanelCache
from evoserve.model.kv_cache import KVCache, SlotCache
from evoserve.model.path_model import PathModel
from evoserve.model.store import WeightStore
from evoserve.sources.checkpoint import open_checkpoint
from evoserve.sources.compatible import check_compatible
from evoserve.sources.recipe import Recipe

BLOCK_SIZE = 4
SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
}
FAMILY_CASES: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama", "tie_word_embeddings": True},
    "llama-untied-biased": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama-llama3": {"model_type": "llama", "rope_parameters": LLAMA3, "head_dim": 16},
    "llama-yarn": {"model_type": "llama", "rope_parameters": YARN},
    "mistral": {"model_type": "mistral", "sliding_window": None},
    "mistral-window": {"model_type": "mistral", "sliding_window": 7},
    "qwen2": {"model_type": "qwen2", "tie_word_embeddings": True},
    "qwen2-window": {
        "model_type": "qwen2",
        "use_sliding_window": True,
        "sliding_window": 6,
        "max_window_layers": 2,
    },
    "qwen3": {"model_type": "qwen3", "head_dim": 24},
    "qwen3-tied-yarn": {
        "model_type": "qwen3",
        "head_dim": 16,
        "tie_word_embeddings": True,
        "rope_parameters": YARN,
    },
}


def make_checkpoint(folder: Path, *, seed: int = 0, **config: Any) -> Path:
    """A random Hugging Face checkpoint whose every tensor matters."""
    torch.manual_seed(seed)
    fields = {**SHAPE, **config}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**fields)).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.copy_(1 + 0.3 * torch.randn_like(parameter))
            else:
                parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    return folder


def open_recipe(sources: dict[str, Path], **fields: Any) -> Recipe:
    """A recipe over local folders."""
    document = {
        "format": "evoserve/1",
        "name": "lab",
        "sources": {name: {"model": str(folder)} for name, folder in sources.items()},
        **fields,
    }
    checkpoints = {name: open_checkpoint(folder) for name, folder in sources.items()}
    manifest = build_manifest(document)
    warnings = check_compatible(
        manifest, {name: found.architecture for name, found in checkpoints.items()}
    )
    return Recipe(manifest, checkpoints, warnings)


def build(
    recipe: Recipe, store: WeightStore | None = None, backend: Backend | None = None
) -> PathModel:
    """In float32 on the CPU, by plain torch unless told otherwise."""
    backend = backend or torch_backend("cpu", torch.float32)
    return build_model(recipe, store or WeightStore(), backend, num_threads=1)


class Tape:
    """Several sequences with blocks of their own, in an order that is not that of the pool."""

    def __init__(self, model: PathModel, num_seqs: int, max_len: int = 128) -> None:
        self.model = model
        width = max_len // BLOCK_SIZE
        order = torch.randperm(num_seqs * width, generator=torch.Generator().manual_seed(7))
        self.tables = order.view(num_seqs, width)
        self.cache: KVCache = model.new_kv_cache(num_seqs * width, BLOCK_SIZE)
        cache_data(self.cache).fill_(float("nan"))
        self.lengths = [0] * num_seqs

    def feed(self, chunks: Sequence[tuple[int, Sequence[int]]]) -> list[torch.Tensor]:
        """Run one batch of (sequence, tokens); logits (len(tokens), vocab_size) of each chunk."""
        ordered = sorted(range(len(chunks)), key=lambda i: len(chunks[i][1]) > 1)
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        contexts: list[int] = []
        for index in ordered:
            seq, ids = chunks[index]
            span = range(self.lengths[seq], self.lengths[seq] + len(ids))
            blocks = self.tables[seq].tolist()
            tokens += ids
            positions += span
            slots += [blocks[at // BLOCK_SIZE] * BLOCK_SIZE + at % BLOCK_SIZE for at in span]
            self.lengths[seq] = span.stop
            contexts.append(span.stop)
        lens = [len(chunks[index][1]) for index in ordered]
        batch = ForwardBatch(
            torch.tensor(tokens),
            torch.tensor(positions),
            torch.tensor(slots),
            tuple(lens),
            tuple(contexts),
            self.tables[[chunks[index][0] for index in ordered]],
            torch.arange(len(tokens)),
            sum(length == 1 for length in lens),
        )
        parts = self.model.forward(batch, self.cache).split(lens)
        found = dict(zip(ordered, parts, strict=True))
        return [found[index] for index in range(len(chunks))]


def all_logits(model: PathModel, ids: Sequence[int]) -> torch.Tensor:
    """(len(ids), vocab_size) in one prefill."""
    return model.forward(single_batch(ids, range(len(ids))), new_cache(model, len(ids)))


def new_cache(model: PathModel, num_tokens: int) -> KVCache:
    """Room for one sequence."""
    return model.new_kv_cache(-(-num_tokens // BLOCK_SIZE), BLOCK_SIZE)


def cache_data(cache: KVCache) -> torch.Tensor:
    """All that a cache holds, to write to."""
    assert isinstance(cache, SlotCache | PanelCache)
    return cache.data


def single_batch(ids: Sequence[int], rows: Sequence[int]) -> ForwardBatch:
    """One sequence from its start, in the first blocks; logits of `rows`."""
    count = len(ids)
    at = torch.arange(count)
    blocks = torch.arange(-(-count // BLOCK_SIZE))[None]
    wanted = torch.tensor(list(rows), dtype=torch.int64)
    return ForwardBatch(
        torch.tensor(ids), at, at, (count,), (count,), blocks, wanted, int(count == 1)
    )


def greedy(model: PathModel, prompt: Sequence[int], num_tokens: int) -> list[int]:
    """The most likely continuation, token by token through the KV cache."""
    tape = Tape(model, 1, max_len=len(prompt) + num_tokens + BLOCK_SIZE)
    logits = tape.feed([(0, prompt)])[0][-1]
    out: list[int] = []
    while True:
        out.append(int(logits.argmax()))
        if len(out) == num_tokens:
            return out
        logits = tape.feed([(0, out[-1:])])[0][-1]


def random_ids(count: int, seed: int = 0, vocab_size: int = SHAPE["vocab_size"]) -> list[int]:
    """`count` token ids."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, vocab_size, (count,), generator=generator).tolist()


@torch.no_grad()
def unroll(
    layers: Sequence[tuple[Any, int]], scales: Sequence[float], target: str, ids: Sequence[int]
) -> torch.Tensor:
    """Logits of a path computed by hand from transformers' own modules, one layer call at a time.

    layers: (transformers model, layer index) per hop; embedding of the first, head of the last.
    """
    first, last = layers[0][0], layers[-1][0]
    tokens = torch.tensor([ids])
    residual, branch = torch.zeros(1), first.model.embed_tokens(tokens)
    for (model, index), scale in zip(layers, scales, strict=True):
        layer = model.model.layers[index]
        if target == "mlp_output":
            hidden = residual + scale * branch
        else:
            hidden = scale * (residual + branch)
        positions = torch.arange(len(ids))[None]
        attended = layer.self_attn(
            layer.input_layernorm(hidden),
            position_embeddings=model.model.rotary_emb(hidden, positions),
            attention_mask=_mask(model.config, index, len(ids)),
        )[0]
        residual = hidden + attended
        branch = layer.mlp(layer.post_attention_layernorm(residual))
    return last.lm_head(last.model.norm(residual + branch))[0]


def _mask(config: Any, index: int, length: int) -> torch.Tensor:
    at = torch.arange(length)
    visible = at <= at[:, None]
    kinds = getattr(config, "layer_types", None)
    window = getattr(config, "sliding_window", None)
    if window is not None and (kinds is None or kinds[index] == "sliding_attention"):
        visible &= at > at[:, None] - window
    return torch.zeros(length, length).masked_fill(~visible, float("-inf"))[None, None]


def load_reference(folder: Path) -> Any:
    """The checkpoint in transformers, eager attention, float32."""
    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    ).eval()
