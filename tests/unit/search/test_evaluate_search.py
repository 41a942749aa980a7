"""The evaluator scores what the models say; nothing of a candidate can end a run."""

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from search_cases import ROOT

from evoserve.config import Settings
from evoserve.engine.factory import PathModelFactory
from evoserve.errors import InputError
from evoserve.manifest.canonical import digest
from evoserve.manifest.parts import ScalingSpec, SourceSpec
from evoserve.sources.catalogue import load_catalogue
from evoserve.sources.locate import SourceLocator
from evoserve.sources.vocabulary import resolve_vocabulary
from search.evaluate import Evaluator, check_tasks
from search.executors.protocol import Job, evaluate_one
from search.executors.remember import RememberingExecutor
from search.genome.baselines import layer_swap, one_source
from search.genome.pool import Pool
from search.opened import OpenSources, open_sources
from search.replies import Asker
from search.store import Store
from search.tasks.item import Generation, Item, Task

SETTINGS = Settings(threads=1, max_model_len=128)
NAMES = ("base", "ja", "math")


@pytest.fixture(scope="module")
def sources() -> OpenSources:
    locator = SourceLocator(load_catalogue(ROOT / "models/catalogue.toml"))
    return open_sources({name: SourceSpec(model=f"mini/{name}") for name in NAMES}, locator)


@pytest.fixture(scope="module")
def pool(sources: OpenSources) -> Pool:
    return Pool("test", sources.specs, sources.num_layers)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "runs.sqlite")
    yield opened
    opened.close()


def task(*items: Item, **generation: object) -> Task:
    return Task("t", "search", items, Generation(**{"max_new_tokens": 12, **generation}))  # type: ignore[arg-type]


SUMS = tuple(Item(f"{a}+{b}=", str(a + b), "exact_number") for a, b in ((2, 3), (10, 4), (7, 8)))


def test_scores_come_from_the_replies_and_are_kept(
    sources: OpenSources, pool: Pool, store: Store
) -> None:
    anything = task(*SUMS, Item("1+1=", ".", "regex"), Item("1+1=", "(?!)", "regex"))
    with Evaluator(sources, SETTINGS) as evaluator:
        remembering = RememberingExecutor(store, evaluator)
        found = evaluate_one(remembering, one_source(pool, "math"), anything)
        again = evaluate_one(remembering, one_source(pool, "math"), anything)
        fresh = evaluate_one(evaluator, one_source(pool, "math"), anything)
    assert found.scores[3:].tolist() == [1.0, 0.0]
    assert found.scores.tolist() == again.scores.tolist()
    assert again.seconds == found.seconds  # from the store
    assert (fresh.outputs, fresh.scores.tolist()) == (found.outputs, found.scores.tolist())


def test_batching_changes_no_score(sources: OpenSources, pool: Pool) -> None:
    with Evaluator(sources, SETTINGS) as evaluator:
        manifest = one_source(pool, "math")
        alone = [evaluate_one(evaluator, manifest, task(item)).scores[0] for item in SUMS]
        assert evaluate_one(evaluator, manifest, task(*SUMS)).scores.tolist() == alone


def test_choices_are_scored_by_likelihood(sources: OpenSources, pool: Pool) -> None:
    items = [
        Item("2+3=", str(right), "choice", choices=choices)
        for right, choices in ((0, ("5", "猫犬")), (1, ("猫犬", "5")), (0, ("猫犬", "5")))
    ]
    with Evaluator(sources, SETTINGS) as evaluator:
        found = evaluate_one(evaluator, one_source(pool, "base"), task(*items))
    assert found.scores.tolist() == [1.0, 1.0, 0.0]


def test_a_stop_string_ends_the_reply(sources: OpenSources, pool: Pool) -> None:
    manifest = one_source(pool, "math")
    story = Item("At first there were 12 apples. Then", "1", "exact_number")
    with Evaluator(sources, SETTINGS) as evaluator:
        recipe = sources.recipe(manifest)
        engine = evaluator._engine
        tokenizer = evaluator._tokenizer(resolve_vocabulary(recipe))

        async def ask(stop: tuple[str, ...]) -> str:
            await engine.load(recipe)
            generation = Generation(12, stop)
            return (await Asker(engine, recipe.model_id, tokenizer, generation).replies([story]))[0]

        whole = evaluator._runner.run(ask(()))
        stop = whole[1:3]
        cut = evaluator._runner.run(ask((stop,)))
    assert len(whole) > 2
    assert cut == whole[: whole.index(stop)]


def test_a_broken_candidate_scores_zero_and_the_next_one_is_fine(
    sources: OpenSources, pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    huge = ScalingSpec(target="hidden_state", per_hop=(10_000.0,) * 12)
    broken = pool.manifest({}, ["math[0:6]", "math[0:6]"], huge)
    unknown = pool.manifest({}, ["math[0:7]"])
    with Evaluator(sources, SETTINGS) as evaluator, caplog.at_level(logging.WARNING):
        assert evaluate_one(evaluator, broken, task(*SUMS)).scores.tolist() == [0, 0, 0]
        assert evaluate_one(evaluator, unknown, task(*SUMS)).scores.tolist() == [0, 0, 0]
        long = task(Item("1+1=" * 200, "2", "exact_number"))
        assert evaluate_one(evaluator, one_source(pool, "math"), long).scores.tolist() == [0]
        fine = evaluate_one(evaluator, one_source(pool, "math"), task(Item("1+1=", ".", "regex")))
        assert fine.scores.tolist() == [1]
    reasons = [record.getMessage() for record in caplog.records]
    assert len(reasons) == 3
    assert digest(broken)[7:19] in reasons[0]
    assert "math[6]" in reasons[1]


def test_resident_layers_are_not_built_again(sources: OpenSources, pool: Pool) -> None:
    factory = PathModelFactory(SETTINGS)
    models = [factory.build(sources.recipe(one_source(pool, name))) for name in ("ja", "math")]
    held = factory.num_bytes
    model = factory.build(sources.recipe(layer_swap(pool, "ja", "math", 1, 1)))
    assert factory.num_bytes == held
    for each in (*models, model):
        each.lease.release()
    resident = [one_source(pool, name) for name in ("ja", "math")]
    with Evaluator(sources, SETTINGS, resident) as evaluator:
        before = evaluator._engine.stats().weight_bytes
        scores = evaluate_one(evaluator, layer_swap(pool, "ja", "math", 1, 1), task(*SUMS)).scores
        assert np.isfinite(scores).all()
        assert evaluator._engine.stats().weight_bytes == before == held


@pytest.mark.parametrize("in_flight", [1, 2, 3])
def test_candidates_side_by_side_score_as_alone(
    sources: OpenSources, pool: Pool, in_flight: int
) -> None:
    tasks = (task(*SUMS), task(*SUMS[:2], Item("2+3=", "0", "choice", choices=("5", "猫"))))
    paths = [["math[0:6]"], ["ja[0:7]"], ["ja[0:2]", "math[2:6]"], ["base[0:6]"]]
    manifests = [pool.manifest({}, path) for path in paths]
    jobs = [Job(manifest, each) for manifest in manifests for each in tasks]
    with Evaluator(sources, SETTINGS) as evaluator:
        alone = [evaluate_one(evaluator, job.manifest, job.task) for job in jobs]
    with Evaluator(sources, SETTINGS, in_flight=in_flight) as evaluator:
        together = dict(evaluator.evaluate(jobs))
        assert evaluator._engine.models() == []
    assert sorted(together) == list(range(len(jobs)))
    for index, one in enumerate(alone):
        other = together[index]
        assert (other.digest, other.task, other.outputs) == (one.digest, one.task, one.outputs)
        assert other.scores.tobytes() == one.scores.tobytes()
    assert together[2].scores.tolist() == [0, 0, 0]


def test_what_is_given_up_leaves_the_evaluator_usable(sources: OpenSources, pool: Pool) -> None:
    jobs = [Job(one_source(pool, name), task(*SUMS)) for name in NAMES]
    with Evaluator(sources, SETTINGS) as evaluator:
        results = evaluator.evaluate(jobs)
        first, found = next(results)
        results.close()
        assert evaluator._engine.models() == []
        again = evaluate_one(evaluator, jobs[first].manifest, jobs[first].task)
    assert (again.outputs, again.scores.tolist()) == (found.outputs, found.scores.tolist())


def test_equal_jobs_are_computed_once(sources: OpenSources, pool: Pool, store: Store) -> None:
    job = Job(one_source(pool, "math"), task(*SUMS))
    other = Job(one_source(pool, "ja"), job.task)
    with Evaluator(sources, SETTINGS) as evaluator:
        executor = RememberingExecutor(store, evaluator)
        found = dict(executor.evaluate([job, other, job]))
    assert sorted(found) == [0, 1, 2]
    assert found[0] is found[2]
    assert store.evaluation(found[1].digest, found[1].task) is not None


def test_a_task_that_cannot_be_asked_is_found_before_the_search(
    sources: OpenSources, pool: Pool
) -> None:
    manifest = one_source(pool, "math")
    check_tasks(sources, manifest, [task(*SUMS), task(*SUMS, chat=True)])
    broken = manifest.model_copy(update={"chat_template": "{% if %}"})
    with pytest.raises(InputError, match="chat template"):
        check_tasks(sources, broken, [task(*SUMS, chat=True)])
