"""A toy model whose logits hash the whole context as read back through its KV slots."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch

from evoserve.config import Settings
from evoserve.engine.request import SamplingParams
from evoserve.engine.runtime import RecipeRuntime, build_runtime
from evoserve.engine.scheduler import Counters
from evoserve.engine.sequence import Sequence as Generation
from evoserve.manifest.load import build_manifest
from evoserve.model.batch import ForwardBatch
from evoserve.model.kv_cache import KVCache, SlotCache
from evoserve.model.store import Lease, WeightStore
from evoserve.sources.architecture import parse_architecture
from evoserve.sources.checkpoint import Checkpoint, SafetensorsReader
from evoserve.sources.recipe import Recipe

VOCAB_SIZE = 19
EOS = 3


def toy_logits(token_ids: Sequence[int], salt: int) -> list[float]:
    """A row that depends on every token and its place."""
    state = salt + 1
    for token_id in token_ids:
        state = (state * 1_000_003 + token_id + 1) % 2_147_483_647
    return [(state * (2 * j + 1) * 2_654_435_761 % 2**32) / 2**29 for j in range(VOCAB_SIZE)]


@dataclass(eq=False)
class ToyModel:
    """Satisfies ServableModel; `before_forward` may raise, `spoil` may change the logits."""

    salt: int
    lease: Lease
    before_forward: Callable[[ForwardBatch], None] = lambda batch: None
    spoil: Callable[[torch.Tensor, ForwardBatch], torch.Tensor] = lambda logits, batch: logits
    num_steps: int = 1
    num_layers: int = 1
    vocab_size: int = VOCAB_SIZE
    max_model_len: int = 64
    weight_bytes: int = 4
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def kv_bytes_per_block(self, block_size: int) -> int:
        return block_size * 2 * 4

    def new_kv_cache(self, num_blocks: int, block_size: int) -> KVCache:
        return SlotCache(torch.full((1, num_blocks * block_size, 2, 1, 1), -1.0), block_size)

    def forward(self, batch: ForwardBatch, kv_cache: KVCache) -> torch.Tensor:
        self.before_forward(batch)
        slots = kv_cache.data[0, :, :, 0, 0]
        slots[batch.slot_mapping, 0] = batch.token_ids.float()
        slots[batch.slot_mapping, 1] = batch.positions.float()
        owners = [seq for seq, count in enumerate(batch.query_lens) for _ in range(count)]
        assert all(count == 1 for count in batch.query_lens[: batch.num_decodes])
        assert batch.num_decodes == sum(count == 1 for count in batch.query_lens)
        rows = [
            self._row(batch, slots, owners[row], kv_cache.block_size, int(batch.positions[row]))
            for row in batch.logit_rows.tolist()
        ]
        return self.spoil(torch.tensor(rows).reshape(-1, VOCAB_SIZE), batch)

    def _row(
        self, batch: ForwardBatch, slots: torch.Tensor, seq: int, size: int, position: int
    ) -> list[float]:
        assert position < batch.context_lens[seq]
        places = torch.arange(position + 1)
        read = slots[batch.block_tables[seq][places // size] * size + places % size]
        assert torch.equal(read[:, 1], places.float()), "a slot holds another position's KV"
        return toy_logits([int(token) for token in read[:, 0]], self.salt)


@dataclass(eq=False)
class ToyFactory:
    """Builds toy models by recipe name; `on_build` runs in the builder thread."""

    store: WeightStore = field(default_factory=WeightStore)
    built: list[ToyModel] = field(default_factory=list)
    on_build: Callable[[Recipe], None] = lambda recipe: None
    customise: Callable[[ToyModel], None] = lambda model: None

    @property
    def num_bytes(self) -> int:
        return self.store.num_bytes

    def build(self, recipe: Recipe) -> ToyModel:
        self.on_build(recipe)
        key = recipe.model_id
        lease = self.store.acquire([key], lambda keys: {k: torch.zeros(1) for k in keys})
        model = ToyModel(sum(recipe.manifest.name.encode()), lease)
        self.customise(model)
        self.built.append(model)
        return model


@dataclass(eq=False)
class Toys:
    """What tests make toys with."""

    folder: Path
    factory: ToyFactory = field(default_factory=ToyFactory)
    counters: Counters = field(default_factory=Counters)

    def settings(self, **changes: object) -> Settings:
        """32 blocks of 4 tokens and a small budget, unless changed."""
        given: dict[str, object] = {
            "block_size": 4,
            "kv_cache_bytes": 2**16,
            "max_num_seqs": 8,
            "max_num_batched_tokens": 16,
            "threads": 1,
            **changes,
        }
        return Settings.model_construct(**{**dict(Settings()), **given})

    def recipe(self, name: str = "toy", eos: object = EOS) -> Recipe:
        config = {
            "model_type": "llama",
            "vocab_size": VOCAB_SIZE,
            "hidden_size": 8,
            "intermediate_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 1,
            "eos_token_id": eos,
        }
        checkpoint = Checkpoint(
            self.folder, config, parse_architecture(config), SafetensorsReader({})
        )
        document = {"format": "evoserve/1", "name": name, "sources": {name: {"model": name}}}
        return Recipe(build_manifest(document), {name: checkpoint})

    def model_id(self, name: str) -> str:
        return self.recipe(name).model_id

    def runtime(self, name: str = "toy", **changes: object) -> RecipeRuntime:
        return build_runtime(
            self.recipe(name), self.factory, self.settings(**changes), self.counters
        )

    def continue_greedily(self, name: str, prompt: Sequence[int], number: int) -> list[int]:
        """What the toy recipe must generate, worked out without any engine."""
        tokens = list(prompt)
        for _ in range(number):
            row = toy_logits(tokens, sum(name.encode()))
            tokens.append(row.index(max(row)))
        return tokens[len(prompt) :]


@pytest.fixture
def toys(tmp_path: Path) -> Toys:
    return Toys(tmp_path)


@pytest.fixture
def new_sequence() -> Callable[..., Generation]:
    """Makes sequences with ever new tickets."""
    number = iter(range(1, 10**9))

    def make(
        prompt: Sequence[int],
        *,
        seed: int = 0,
        stop: frozenset[int] = frozenset(),
        **params: object,
    ) -> Generation:
        values: dict[str, object] = {"max_tokens": 4, "temperature": 0.0, **params}
        return Generation(next(number), tuple(prompt), SamplingParams(**values), seed, stop)  # type: ignore[arg-type]

    return make
