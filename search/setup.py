"""From a checked config to the parts of a search: sources, tasks, genome, optimizer."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from evoserve.config import Settings, load_settings
from evoserve.errors import ConfigError
from evoserve.manifest.parts import SourceSpec
from evoserve.manifest.schema import Manifest
from evoserve.sources.locate import SourceLocator, build_locator
from search.config import DfsConfig, PsConfig, RangeConfig, SearchConfig, TaskConfig
from search.genome.axes import Range
from search.genome.baselines import one_source
from search.genome.dfs import DfsSettings, build_dfs_genome
from search.genome.encoded import EncodedGenome
from search.genome.groups import build_groups
from search.genome.joint import build_joint_genome
from search.genome.lineage import build_lineage_genome
from search.genome.pool import Pool
from search.genome.ps import PsSettings, build_ps_genome
from search.optimizers.build import OPTIMIZERS, build_optimizer
from search.optimizers.protocol import Optimizer
from search.tasks.item import Generation, Task, TaskError
from search.tasks.lm_eval import load_lm_eval
from search.tasks.load import check_disjoint, check_searchable, load_items, load_mgsm
from search.tasks.parse import parse_item

_MINI = Generation(max_new_tokens=96, chat=True)


@dataclass(frozen=True)
class SearchTasks:
    """counted: the objectives' tasks in their order; held_out: scored at the end only."""

    counted: tuple[Task, ...]
    held_out: tuple[Task, ...] = ()

    @property
    def all(self) -> tuple[Task, ...]:
        """Every task."""
        return (*self.counted, *self.held_out)


def build_settings(config: SearchConfig, folder: Path) -> Settings:
    """The engine's settings; relative paths count from the config's folder. Raises ConfigError."""
    catalogue = None if config.catalogue is None else folder / config.catalogue
    return load_settings(None, catalogue=catalogue, **config.engine.model_dump())


def build_source_locator(config: SearchConfig, folder: Path) -> SourceLocator:
    """Where sources are looked for. Raises SourceError for a broken catalogue."""
    return build_locator(build_settings(config, folder), folder)


def build_tasks(config: SearchConfig, folder: Path, *, force: bool = False) -> SearchTasks:
    """Load all tasks. Raises TaskError, also for a search on a test set without `force`, and for
    a question that a counted and a held-out task of different splits share."""
    tasks = {each.name: _build_task(each, folder) for each in config.tasks}
    counted = tuple(tasks.pop(objective.task) for objective in config.objectives)
    for task in counted:
        check_searchable(task, force=force)
        for other in tasks.values():
            if other.split != task.split:
                check_disjoint({task.split: task, other.split: other})
    if config.validation is not None:
        check_searchable(tasks[config.validation.task], force=force)
    return SearchTasks(counted, tuple(tasks.values()))


def build_pool(
    config: SearchConfig, specs: Mapping[str, SourceSpec], num_layers: Mapping[str, int]
) -> Pool:
    """The models that the genome draws on."""
    return Pool(
        config.name,
        specs,
        num_layers,
        merges=config.genome.merges,
        tokenizer=config.tokenizer,
        license=config.license,
        description=config.description,
    )


def build_genome(config: SearchConfig, pool: Pool) -> EncodedGenome:
    """The genome of the config. Raises ConfigError and ManifestError."""
    genome = config.genome
    try:
        if genome.ps is not None and genome.dfs is not None:
            return build_joint_genome(pool, _ps(genome.ps, pool), _dfs(genome.dfs))
        if genome.ps is not None:
            return build_ps_genome(pool, _ps(genome.ps, pool))
        if genome.dfs is not None:
            return build_dfs_genome(pool, _dfs(genome.dfs))
        if genome.lineage is not None:
            lineage = genome.lineage
            return build_lineage_genome(pool, lineage.models, lineage.max_merges)
    except ValueError as error:
        raise ConfigError(f"genome: {error}") from None
    raise ConfigError("genome: no table is given")


def build_config_optimizer(config: SearchConfig, genome: EncodedGenome) -> Optimizer:
    """The optimizer at its start. Raises ConfigError, also for too many objectives."""
    name, settings = config.optimizer.name, dict(config.optimizer.settings)
    count = num_objectives(config)
    if name == "nsga2" and settings.setdefault("num_objectives", count) != count:
        raise ConfigError(
            f"optimizer.settings.num_objectives = {settings['num_objectives']}: the config has "
            f"{count}; leave it out"
        )
    kind = OPTIMIZERS.get(name)
    limit = kind.max_objectives if kind else None
    if limit is not None and count > limit:
        raise ConfigError(
            f"optimizer '{name}' takes one objective, combine = 'separate' makes {count}: use "
            "nsga2, or combine = 'mean'"
        )
    try:
        return build_optimizer(name, genome, config.seed, settings)
    except (ValueError, TypeError) as error:
        raise ConfigError(f"optimizer: {error}") from None


def num_objectives(config: SearchConfig) -> int:
    """How many numbers an individual earns."""
    return len(config.objectives) if config.combine == "separate" else 1


def resident_models(config: SearchConfig, pool: Pool) -> Sequence[Manifest]:
    """What stays built during the search: the models that paths are made of, nothing for PS."""
    dfs, ps = config.genome.dfs, config.genome.ps
    if dfs is None:
        return []
    evolved = ps.merge if ps else None
    return [one_source(pool, model) for model in dfs.models if model != evolved]


def _ps(config: PsConfig, pool: Pool) -> PsSettings:
    pool.check_known(config.models)
    root = config.base or config.models[0]
    groups = build_groups(pool.layers_of(root), config.groups, split=config.split_filters)
    return PsSettings(
        config.method,
        config.models,
        base=config.base,
        groups=groups,
        ranges={key: _range(value) for key, value in config.ranges.items()},
        options=config.options,
        seed=config.seed,
        dtype=config.dtype,
        merge=config.merge,
    )


def _dfs(config: DfsConfig) -> DfsSettings:
    scale = None if config.scale is None else Range(**config.scale.model_dump())
    fields = config.model_dump(exclude={"scale", "models"})
    return DfsSettings(models=config.models, scale=scale, **fields)


def _range(value: RangeConfig | float) -> Range | float:
    return Range(**value.model_dump()) if isinstance(value, RangeConfig) else value


def _build_task(config: TaskConfig, folder: Path) -> Task:
    try:
        task = _load_task(config, folder)
        if config.items is not None:
            task = task.subset(_selected(config.items, len(task.items)))
    except TaskError as error:
        raise TaskError(f"tasks.{config.name}: {error}") from None
    keys = ("template", "chat", "stop", "max_new_tokens")
    given = {key: getattr(config, key) for key in keys if getattr(config, key) is not None}
    generation = replace(task.generation, **given)
    protocol = config.protocol or task.protocol
    require = task.require_language if config.require_language is None else config.require_language
    return replace(
        task,
        name=config.name,
        generation=generation,
        protocol=protocol,
        require_language=require,
    )


def _load_task(config: TaskConfig, folder: Path) -> Task:
    if config.builtin == "mgsm_ja":
        return load_mgsm(folder / (config.file or ""), "ja")
    split = config.split or "search"
    if config.lm_eval is not None:
        include = None if config.include_path is None else str(folder / config.include_path)
        return load_lm_eval(config.lm_eval, include, split=split, metric=config.metric)
    if config.file is not None:
        return Task(config.name, split, load_items(folder / config.file))
    if "" not in sys.path:
        # Console scripts do not look in the working directory by themselves. Last, so that nothing
        # is shadowed.
        sys.path.append("")
    try:
        from models.mini.train.data import build_items
    except ImportError:
        raise ConfigError(
            f"tasks.{config.name}: the builtin 'mini' needs EvoServe's repository as the working "
            "directory; write its items to a JSONL file, or start there"
        ) from None
    built = build_items(split, config.language or "ja", config.count or 100, config.seed or 0)
    items = tuple(parse_item(dict(item), f"tasks.{config.name}") for item in built)
    return Task(config.name, split, items, _MINI)


def _selected(bounds: Sequence[int], count: int) -> range:
    start, stop = bounds
    if not 0 <= start < stop <= count:
        raise TaskError(f"items [{start}, {stop}] must be a range within [0, {count}]")
    return range(start, stop)
