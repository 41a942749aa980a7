"""A dry run: everything of a search but the weights, resolved and counted."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from evoserve.errors import ConfigError, SourceError
from evoserve.sources.architecture import parse_architecture
from evoserve.sources.locate import SourceLocator
from search.config import SearchConfig, load_config
from search.genome.encoded import EncodedGenome
from search.optimizers.protocol import Optimizer
from search.setup import (
    SearchTasks,
    build_config_optimizer,
    build_genome,
    build_pool,
    build_settings,
    build_source_locator,
    build_tasks,
)


@dataclass(frozen=True)
class Source:
    """A source of the config; folder is None if it is not on this machine."""

    name: str
    model: str
    num_layers: int
    folder: Path | None


def check_search(file: Path, *, num_layers: int | None = None, force: bool = False) -> list[str]:
    """What a run of the config would do, a line each; nothing is downloaded, built or written.

    num_layers: assumed of sources that are not on this machine. Raises InputError subclasses for
    whatever would keep the run from starting, but for what only the weights can tell.
    """
    config = load_config(file)
    folder = file.absolute().parent
    build_settings(config, folder)
    tasks = build_tasks(config, folder, force=force)
    locator = replace(build_source_locator(config, folder), offline=True)
    sources = list(_find_sources(config, locator, num_layers))
    layers = {source.name: source.num_layers for source in sources}
    genome = build_genome(config, build_pool(config, config.sources, layers))
    optimizer = build_config_optimizer(config, genome)
    genome.decode(genome.initial)
    return [
        *(_describe_source(source) for source in sources),
        *_describe_search(config, genome, optimizer, tasks),
    ]


def _find_sources(
    config: SearchConfig, locator: SourceLocator, assumed: int | None
) -> Iterator[Source]:
    for name, spec in config.sources.items():
        try:
            folder = locator.locate(name, spec)
        except SourceError as error:
            if assumed is None:
                raise SourceError(f"{error}; or check with an assumed number of layers") from None
            yield Source(name, spec.model, assumed, None)
        else:
            yield Source(name, spec.model, _num_layers(folder), folder)


def _num_layers(folder: Path) -> int:
    file = folder / "config.json"
    try:
        fields: Mapping[str, object] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: {error}") from None
    return parse_architecture(fields).num_layers


def _describe_source(source: Source) -> str:
    where = "not here, layers assumed" if source.folder is None else str(source.folder)
    return f"source {source.name} = {source.model}: {source.num_layers} layers ({where})"


def _describe_search(
    config: SearchConfig, genome: EncodedGenome, optimizer: Optimizer, tasks: SearchTasks
) -> Iterator[str]:
    population = len(optimizer.ask())
    yield f"genome {config.genome.kind}: {len(genome.initial)} dimensions"
    yield f"optimizer {config.optimizer.name}: population {population}"
    rounds = [] if config.generations is None else [config.generations]
    if config.evaluations is not None:
        rounds.append(-(-config.evaluations // population))
    yield f"budget: {min(rounds)} generations, {min(rounds) * population} individuals"
    for task in tasks.all:
        role = "counted" if task in tasks.counted else "held out"
        language = ", reply language required" if task.require_language else ""
        yield (
            f"task {task.name} ({task.split}, {role}): {len(task.items)} items, metric "
            f"{task.metric}, protocol {task.protocol}, at most "
            f"{task.generation.max_new_tokens} tokens{language}"
        )
