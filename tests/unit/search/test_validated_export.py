"""What is exported where objectives are of other items in every generation, or are estimates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from search_cases import small, small_config

from evoserve.errors import ConfigError
from evoserve.manifest.canonical import digest
from evoserve.manifest.load import dump_manifest
from search.executors.protocol import Job, Results
from search.executors.remember import RememberingExecutor
from search.export import choose, score_results
from search.fitness.validation import check_validation
from search.record import RunRecord, TaskRecord, open_record
from search.setup import build_config_optimizer, build_genome, build_pool
from search.store import Evaluation, Individual, Store
from search.tasks.item import Item, Task, TaskError

NAMES = ("base", "ja", "math", "math2")


def make_tasks(counts: Sequence[int]) -> list[Task]:
    """Tasks of so many items, no question twice."""
    return [
        Task(f"t{t}", "search", tuple(Item(f"{t}:{i}", "1", "exact_number") for i in range(count)))
        for t, count in enumerate(counts)
    ]


class Known:
    """An executor whose candidates score what a table says of (digest, task)."""

    place = "cpu+torch.float32"

    def __init__(self, means: dict[tuple[str, str], float]) -> None:
        self.means = means

    def evaluate(self, jobs: Sequence[Job]) -> Results:
        for index, job in enumerate(jobs):
            name = digest(job.manifest)
            mean = self.means.get((name, job.task.name), 0.0)
            scores = np.full(len(job.task.items), mean)
            yield index, Evaluation(name, job.task.digest, scores, "", 0.0)

    def close(self) -> None:
        pass


class Finished:
    """A run of two generations of two individuals with these objectives."""

    def __init__(self, file: Path, objectives: Sequence[float], **changes: Any) -> None:
        document = small()
        tasks = [
            document["tasks"][0],
            {**document["tasks"][0], "name": "valid", "seed": 1},
            document["tasks"][1],
        ]
        config = small_config(tasks=tasks, **changes)
        genome = build_genome(config, build_pool(config, config.sources, dict.fromkeys(NAMES, 6)))
        named = ("mini-en", "valid", "mini-en-test")
        self.tasks = [
            Task(name, task.split, task.items)
            for name, task in zip(named, make_tasks((4, 5, 6)), strict=True)
        ]
        described = tuple(
            TaskRecord(task.name, "search", "strict", task.metric, task.digest, task.digest)
            for task in self.tasks
        )
        layers = dict.fromkeys(NAMES, 6)
        self.record = RunRecord(config, config.sources, layers, described, {})
        self.store = Store(file)
        self.run = open_record(self.store, self.record)
        state = build_config_optimizer(config, genome).state()
        self.digests = []
        for generation in range(2):
            saved = []
            for position in range(2):
                number = 2 * generation + position
                manifest = genome.decode(genome.initial + 0.01 * number)
                self.digests.append(digest(manifest))
                items = np.full(4, 0.5)
                items[number:] = np.nan if number < 3 else 0.5
                one = Individual(
                    generation,
                    position,
                    genome.initial,
                    self.digests[-1],
                    dump_manifest(manifest),
                    np.array([objectives[number]]),
                    items,
                )
                saved.append(one)
            self.store.save_generation(self.run, state, saved, 0.0)

    def score(self, means: dict[tuple[int, str], float]) -> set[str]:
        """Score all results; the labels that were scored."""
        table = {(self.digests[number], task): mean for (number, task), mean in means.items()}
        executor = RememberingExecutor(self.store, Known(table))
        results = score_results(self.store, self.run, self.record, executor, self.tasks)
        return {chosen.label for chosen, _, _ in results}

    def chosen(self, what: Any) -> int:
        """The number of the individual that is exported."""
        (one,) = choose(self.store, self.run, self.record, what)
        return self.digests.index(digest(one.manifest))


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    return tmp_path / "runs.sqlite"


def test_the_generation_s_best_that_validates_best_is_exported(stores: Path) -> None:
    fitness = {"kind": "minibatch", "size": 2}
    run = Finished(stores, (0.4, 0.6, 0.9, 0.1), fitness=fitness, validation={"task": "valid"})
    # The second and third are their generations' best; the fourth would validate best of all.
    labels = run.score({(1, "valid"): 0.5, (2, "valid"): 0.2, (3, "valid"): 1.0})
    assert labels == {"validated", "mean"}
    assert run.chosen("validated") == 1
    with pytest.raises(ConfigError, match="export its validated"):
        run.chosen("best")
    run.store.close()


def test_of_equals_the_earliest_generation_s_is_exported(stores: Path) -> None:
    run = Finished(stores, (0.4, 0.6, 0.9, 0.1), validation={"task": "valid"})
    assert run.score({(1, "valid"): 0.5, (2, "valid"): 0.5}) == {"best", "validated", "mean"}
    assert run.chosen("validated") == 1
    run.store.close()


def test_an_estimate_is_exported_for_what_it_scores_in_full(stores: Path) -> None:
    run = Finished(stores, (0.9, 0.8, 0.7, 0.5), fitness={"kind": "irt", "size": 2})
    run.score({(0, "mini-en"): 0.1, (1, "mini-en"): 0.6, (2, "mini-en"): 0.2})
    assert run.chosen("best") == 1
    run.store.close()


def test_a_dropped_candidate_is_not_exported(stores: Path) -> None:
    run = Finished(stores, (0.9, 0.8, 0.7, 0.5), fitness={"kind": "racing"})
    run.score({})
    assert run.chosen("best") == 3
    with pytest.raises(ConfigError, match="no \\[validation\\]"):
        run.chosen("validated")
    run.store.close()


def test_a_validation_task_shares_no_question() -> None:
    first, second = make_tasks((4, 3))
    check_validation(second, [first])
    with pytest.raises(TaskError, match="shares the question '0:1'"):
        check_validation(first.subset([1, 2]), [second, first])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fitness": {"kind": "minibatch", "size": 3}}, "needs a \\[validation\\]"),
        ({"fitness": {"kind": "racing", "size": 3}}, "fitness.racing.size = 3"),
        ({"fitness": {"kind": "some"}}, "'full', 'minibatch', 'racing', 'irt'"),
        ({"fitness": {"kind": "racing"}, "combine": "separate"}, "one objective"),
        ({"fitness": {"kind": "racing"}, "optimizer": {"name": "m2n2"}}, "compares all items"),
        ({"validation": {"task": "mini-en-test"}}, "is a test set"),
        ({"validation": {"task": "mini-en"}}, "no objective names"),
        ({"validation": {"task": "none"}}, "no objective names"),
    ],
)
def test_tables_that_make_no_sense_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        small_config(**changes)
