"""What every evolved recipe has to beat: sources alone and default merges, scored if wanted."""

from contextlib import ExitStack

from evoserve.manifest.schema import Manifest
from search.evaluate import Evaluator
from search.executors.protocol import Job, task_key
from search.executors.remember import RememberingExecutor
from search.genome.baselines import dare_ties, one_source, task_arithmetic, ties, uniform_average
from search.opened import open_sources
from search.record import RunRecord, find_record
from search.session import Order
from search.setup import build_settings, build_source_locator, build_tasks
from search.store import Store, StoreError


def list_baselines(record: RunRecord) -> list[tuple[str, Manifest]]:
    """(name, recipe): every source alone, then default merges of the models that were merged."""
    pool, genome = record.pool(), record.config.genome
    found = [(f"source {name}", one_source(pool, name)) for name in pool.sources]
    table = genome.ps or genome.lineage or genome.dfs
    models = [name for name in (table.models if table else ()) if name in pool.sources]
    if len(models) < 2 or len({pool.layers_of(name) for name in models}) > 1:
        return found
    found.append(("average", uniform_average(pool, models)))
    base = None if genome.ps is None else genome.ps.base
    if base is not None:
        made = (("task arithmetic", task_arithmetic), ("TIES", ties), ("DARE-TIES", dare_ties))
        found += [(name, build(pool, base, models)) for name, build in made]
    return found


def score_baselines(order: Order) -> int:
    """Score what the store does not know yet, on all tasks of the run; the number of scores.

    Raises StoreError if tasks or device are not those of the run.
    """
    config, folder = order.config, order.folder
    tasks = build_tasks(config, folder, force=True).all
    with ExitStack() as stack:
        store = Store(order.store)
        stack.callback(store.close)
        _, record = find_record(store, config.name)
        baselines = list_baselines(record)
        sources = open_sources(record.sources, build_source_locator(config, folder))
        evaluator = stack.enter_context(Evaluator(sources, build_settings(config, folder)))
        keys = {task.key for task in record.tasks}
        for task in tasks:
            if task_key(baselines[0][1], task, evaluator.place) not in keys:
                raise StoreError(
                    f"task '{task.name}' or the device is not that of run '{config.name}'; "
                    "give the config that the run was begun with"
                )
        jobs = [Job(manifest, task) for _, manifest in baselines for task in tasks]
        return sum(1 for _ in RememberingExecutor(store, evaluator).evaluate(jobs))
