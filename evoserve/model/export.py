"""Write a recipe out as a stock Hugging Face checkpoint that needs no custom code."""

import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from evoserve.errors import CapacityError, ConfigError
from evoserve.merge.expression import TORCH_DTYPES, RecipeTensors
from evoserve.model.export_card import model_card
from evoserve.model.export_config import (
    StockShape,
    choose_family,
    generation_config,
    stock_config,
)
from evoserve.model.fold import fold_path
from evoserve.model.plan import plan_path
from evoserve.model.shards import TensorSlot, write_checkpoint
from evoserve.model.stock import produce_tensors, stock_tensors
from evoserve.sources.architecture import EMBED, LM_HEAD
from evoserve.sources.checkpoint import read_json
from evoserve.sources.recipe import Recipe
from evoserve.sources.vocabulary import Vocabulary, resolve_vocabulary

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "tekken.json",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
_TOKENIZER_CONFIG = "tokenizer_config.json"
_GENERATION_CONFIG = "generation_config.json"


@dataclass(frozen=True)
class ExportReport:
    """What was written; `num_bytes` counts the tensors."""

    folder: Path
    files: tuple[str, ...]
    num_bytes: int
    num_layers: int
    dtype: torch.dtype
    warnings: tuple[str, ...]


def export_checkpoint(
    recipe: Recipe,
    out: Path,
    *,
    dtype: torch.dtype | None = None,
    max_shard_bytes: int = 5 * 10**9,
) -> ExportReport:
    """Write `recipe` into the new folder `out`: path step t becomes layer t, scales are folded.

    dtype: of the tensors; by default that of the merge or source that gives the embedding.
    The folder appears whole or not at all. Raises ConfigError if `out` is there and not empty,
    ManifestError for a path or scales that no stock checkpoint can express, CapacityError if the
    disk is too full, and what reading the sources raises.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} exists and is not an empty folder; choose another one")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        report = _write(recipe, temporary, dtype or _own_dtype(recipe), max_shard_bytes)
        temporary.chmod(0o755)
        temporary.rename(out)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return replace(report, folder=out)


def _write(recipe: Recipe, folder: Path, dtype: torch.dtype, max_shard_bytes: int) -> ExportReport:
    plan = plan_path(recipe)
    family = choose_family(plan)
    fold = fold_path(plan)
    vocabulary = resolve_vocabulary(recipe)
    tensors = {
        tensor.slot.name: tensor
        for tensor in stock_tensors(recipe, plan, fold, RecipeTensors(recipe, vocabulary.rows))
    }
    slots = [tensor.slot for tensor in tensors.values()]
    num_bytes = sum(slot.num_bytes(dtype) for slot in slots)
    _check_space(folder, num_bytes)

    def produce(shard: Sequence[TensorSlot]) -> Iterator[torch.Tensor]:
        return produce_tensors(tensors, shard, dtype, torch.get_num_threads())

    write_checkpoint(folder, slots, dtype, max_shard_bytes, produce)
    shape = StockShape(family, slots[0].shape[0], fold.eps, LM_HEAD not in tensors, dtype)
    origin = _read_optional(vocabulary.folder / "config.json")
    _write_json(folder / "config.json", stock_config(plan, shape, origin))
    _write_generation(recipe, vocabulary, folder)
    _write_tokenizer(recipe, vocabulary, folder)
    card = model_card(recipe.manifest, family, len(plan.steps), fold.warnings)
    (folder / "README.md").write_text(card, encoding="utf-8")
    files = tuple(sorted(file.name for file in folder.iterdir()))
    return ExportReport(folder, files, num_bytes, len(plan.steps), dtype, fold.warnings)


def _own_dtype(recipe: Recipe) -> torch.dtype:
    model = recipe.manifest.embed_model
    merge = recipe.manifest.merges.get(model)
    if merge is not None:
        return TORCH_DTYPES[merge.dtype]
    return recipe.checkpoints[model].tensors.info(EMBED).dtype


def _check_space(folder: Path, num_bytes: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise CapacityError(
            f"{folder.parent} has {free / 1e9:.1f} GB free; the checkpoint needs "
            f"{num_bytes / 1e9:.1f} GB"
        )


def _write_generation(recipe: Recipe, vocabulary: Vocabulary, folder: Path) -> None:
    origin = _read_optional(vocabulary.folder / _GENERATION_CONFIG)
    config = generation_config(origin, recipe.manifest.generation)
    if config:
        _write_json(folder / _GENERATION_CONFIG, config)


def _write_tokenizer(recipe: Recipe, vocabulary: Vocabulary, folder: Path) -> None:
    """Copy the files as they are; a union of vocabularies is saved anew.

    `auto_map` is dropped: it names code that would run in whoever loads the checkpoint.
    """
    if vocabulary.added:
        vocabulary.load_tokenizer().save(folder)
    else:
        for name in (*_TOKENIZER_FILES, _TOKENIZER_CONFIG):
            if (vocabulary.folder / name).is_file():
                shutil.copyfile(vocabulary.folder / name, folder / name)
    config = _read_optional(folder / _TOKENIZER_CONFIG)
    dropped = ["auto_map", "is_local", "local_files_only"]
    template = recipe.manifest.chat_template
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
        dropped.append("chat_template")
    if config:
        kept = {key: value for key, value in config.items() if key not in dropped}
        _write_json(folder / _TOKENIZER_CONFIG, kept)


def _read_optional(file: Path) -> dict[str, Any]:
    return read_json(file) if file.exists() else {}


def _write_json(file: Path, value: Mapping[str, object]) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    file.write_text(text, encoding="utf-8")
