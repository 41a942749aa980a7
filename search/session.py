"""A config put to work: sources opened, terms recorded, searched, and the results scored."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from search.config import SearchConfig, load_config
from search.evaluate import check_tasks
from search.executors.build import build_executor
from search.executors.protocol import Executor, task_key
from search.executors.remember import RememberingExecutor
from search.export import score_results
from search.fitness.build import build_fitness
from search.fitness.validation import check_validation, validate_generation
from search.genome.baselines import one_source
from search.loop import Desk, Search, Stopped, run_search
from search.opened import open_sources
from search.progress import Reporter
from search.record import RunRecord, current_versions, describe_tasks, open_record
from search.setup import (
    SearchTasks,
    build_config_optimizer,
    build_genome,
    build_pool,
    build_settings,
    build_source_locator,
    build_tasks,
    resident_models,
)
from search.store import Store
from search.tasks.interval import format_accuracy
from search.tasks.item import Task


@dataclass(frozen=True)
class Order:
    """What to run and where to; force allows a search on a test split.

    folder: what the config's relative paths count from.
    """

    config: SearchConfig
    folder: Path
    store: Path
    force: bool = False


def load_order(file: Path, store: Path, *, force: bool = False) -> Order:
    """An order for the config in `file`. Raises ConfigError."""
    return Order(load_config(file), file.absolute().parent, store, force)


def run_order(order: Order, reporter: Reporter, should_stop: Callable[[], bool]) -> None:
    """Run or resume a search to its end, then score its results on every task.

    Raises InputError subclasses for what is wrong with the config or the run, and Stopped.
    """
    config, folder = order.config, order.folder
    tasks = build_tasks(config, folder, force=order.force)
    chooser = _validation_task(config, tasks)
    sources = open_sources(config.sources, build_source_locator(config, folder))
    with ExitStack() as stack:
        store = Store(order.store)
        stack.callback(store.close)
        stack.enter_context(store.lock_run(config.name))
        pool = build_pool(config, sources.specs, sources.num_layers)
        genome = build_genome(config, pool)
        first = genome.decode(genome.initial)
        check_tasks(sources, first, tasks.all)
        settings, resident = build_settings(config, folder), resident_models(config, pool)
        workers = build_executor(config.executor, sources, settings, folder, resident)
        stack.callback(workers.close)
        executor = RememberingExecutor(store, workers)
        search = Search(
            config,
            genome,
            build_config_optimizer(config, genome),
            build_fitness(
                config.fitness,
                executor,
                tasks.counted,
                [objective.weight for objective in config.objectives],
                config.seed,
                [one_source(pool, name) for name in config.sources],
            ),
            None if chooser is None else partial(validate_generation, executor, task=chooser),
        )
        keys = {task.digest: task_key(first, task, executor.place) for task in tasks.all}
        record = RunRecord(
            config,
            sources.specs,
            sources.num_layers,
            describe_tasks(tasks, keys),
            current_versions(config.optimizer.name),
        )
        desk = Desk(store, open_record(store, record), reporter, should_stop)
        run_search(search, desk)
        _score_results(desk, executor, record, tasks)


def _validation_task(config: SearchConfig, tasks: SearchTasks) -> Task | None:
    if config.validation is None:
        return None
    (task,) = (task for task in tasks.held_out if task.name == config.validation.task)
    check_validation(task, tasks.counted)
    return task


def _score_results(desk: Desk, executor: Executor, record: RunRecord, tasks: SearchTasks) -> None:
    results = score_results(desk.store, desk.run, record, executor, tasks.all)
    for chosen, task, evaluation in results:
        accuracy = format_accuracy(evaluation.scores.tolist())
        desk.reporter.note(f"{chosen.label} on {task.name} ({task.split}): {accuracy}")
        if desk.should_stop():
            raise Stopped
