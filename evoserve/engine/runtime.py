"""One loaded recipe: its model, KV cache and queues, and how large they may be."""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from evoserve.config import Settings
from evoserve.engine.admission import Limits
from evoserve.engine.block_manager import BlockManager
from evoserve.engine.factory import ModelFactory, ServableModel
from evoserve.engine.protocol import ModelInfo, ModelStats
from evoserve.engine.runner import Runner
from evoserve.engine.scheduler import Counters, Scheduler
from evoserve.errors import CapacityError
from evoserve.model.store import Lease
from evoserve.sources.checkpoint import read_json
from evoserve.sources.recipe import Recipe
from evoserve.sources.vocabulary import resolve_vocabulary


@dataclass(frozen=True, eq=False)
class RecipeRuntime:
    """Everything that one loaded recipe owns; dropping it frees its KV cache."""

    info: ModelInfo
    limits: Limits
    lease: Lease
    runner: Runner
    scheduler: Scheduler

    @property
    def stats(self) -> ModelStats:
        """Load now; may be read from any thread."""
        blocks = self.scheduler.blocks
        return ModelStats(
            model_id=self.info.model_id,
            num_running=self.scheduler.num_running,
            num_waiting=self.scheduler.num_waiting,
            num_blocks=blocks.num_blocks,
            num_free_blocks=blocks.num_free,
            num_cached_blocks=blocks.num_cached,
            num_preemptions=self.scheduler.num_preemptions,
        )


def build_runtime(
    recipe: Recipe, models: ModelFactory, settings: Settings, counters: Counters
) -> RecipeRuntime:
    """Build a recipe beside whatever runs. Raises InputError subclasses and CapacityError.

    Whatever is raised, no weights stay held.
    """
    start = time.monotonic()
    model = models.build(recipe)
    try:
        num_blocks, max_model_len = plan_capacity(model, settings)
        kv_cache = model.new_kv_cache(num_blocks, settings.block_size)
        eos_ids = frozenset(id_ for id_ in end_token_ids(recipe) if 0 <= id_ < model.vocab_size)
    except BaseException:
        model.lease.release()
        raise
    info = ModelInfo(
        model_id=recipe.model_id,
        max_model_len=max_model_len,
        num_steps=model.num_steps,
        num_layers=model.num_layers,
        weight_bytes=model.weight_bytes,
        kv_cache_bytes=num_blocks * model.kv_bytes_per_block(settings.block_size),
        build_s=time.monotonic() - start,
    )
    blocks = BlockManager(num_blocks, settings.block_size, caching=settings.enable_prefix_caching)
    scheduler = Scheduler(
        blocks,
        max_num_seqs=settings.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        counters=counters,
    )
    limits = Limits(model.vocab_size, max_model_len, settings.max_logprobs, eos_ids)
    return RecipeRuntime(info, limits, model.lease, Runner(model, kv_cache), scheduler)


def plan_capacity(model: ServableModel, settings: Settings) -> tuple[int, int]:
    """(num_blocks, max_model_len): what `kv_cache_bytes` buys, and the longest sequence then.

    More blocks than `max_num_seqs` of the longest sequences fill are not taken.

    Without a max_model_len of the settings the pool may bound it below the model's own. Raises
    CapacityError if not one block fits, or not one sequence of the length asked for.
    """
    block_size = settings.block_size
    block_bytes = model.kv_bytes_per_block(block_size)
    num_blocks = settings.kv_cache_bytes // block_bytes
    wanted = min(settings.max_model_len or 1, model.max_model_len)
    if num_blocks * block_size < wanted:
        needed = -(-wanted // block_size) * block_bytes
        raise CapacityError(
            f"kv_cache_bytes {settings.kv_cache_bytes} hold {num_blocks * block_size} tokens of "
            f"this model, {wanted} are needed: set kv_cache_bytes to {needed} or more"
        )
    longest = min(settings.max_model_len or model.max_model_len, model.max_model_len)
    usable = settings.max_num_seqs * -(-longest // block_size)
    return min(num_blocks, usable), min(longest, num_blocks * block_size)


def end_token_ids(recipe: Recipe) -> frozenset[int]:
    """The end tokens that config.json and generation_config.json of the tokenizer's model name.

    Raises SourceError for a generation_config.json that is no JSON.
    """
    folder = resolve_vocabulary(recipe).folder
    owner = next(each for each in recipe.checkpoints.values() if each.folder == folder)
    file = folder / "generation_config.json"
    configs = (owner.config, read_json(file) if file.exists() else {})
    return frozenset(id_ for config in configs for id_ in _ids(config.get("eos_token_id")))


def _ids(value: object) -> Iterator[int]:
    """Hugging Face writes one id, a list of them or null."""
    if isinstance(value, list):
        for item in value:
            yield from _ids(item)
    elif isinstance(value, int) and not isinstance(value, bool):
        yield value
