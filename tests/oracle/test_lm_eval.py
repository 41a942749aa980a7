"""Tasks of lm-evaluation-harness score as its own `simple_evaluate` scores them, item by item."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lm_eval_lab as lab
import numpy as np
import pytest

from evoserve.config import Settings
from evoserve.manifest.parts import SourceSpec
from evoserve.sources.catalogue import load_catalogue
from evoserve.sources.locate import SourceLocator
from evoserve.sources.vocabulary import resolve_vocabulary
from search.evaluate import Evaluator
from search.executors.protocol import evaluate_one
from search.genome.baselines import one_source
from search.genome.pool import Pool
from search.opened import open_sources
from search.replies import Asker
from search.tasks.item import Task
from search.tasks.lm_eval import load_lm_eval

ROOT = Path(__file__).parents[2]
CHAT = "<|user|>{{question}}<|end|><|assistant|>"
SHOTS = {"training_split": "train", "fewshot_split": "train", "num_fewshot": 2}
EITHER = "{{ [question + ' ' + choices[0], question + ' ' + choices[1]] }}"
TASKS: dict[str, dict[str, Any]] = {
    "choice": {},
    "choice_blank": {"doc_to_text": "Q: {{question}}\nA: ", "target_delimiter": ""},
    "choice_chat": {"doc_to_text": CHAT, "target_delimiter": ""},
    "choice_shots": SHOTS,
    "choice_own_shots": {"fewshot_split": "validation", "num_fewshot": 2},
    "choice_empty": {"doc_to_text": "", "target_delimiter": ""},
    "choice_mutual": {"metric_list": [{**lab.ACC, "metric": "acc_mutual_info"}, lab.ACC]},
    "choice_inputs": {
        "doc_to_text": "{{ gold % 2 }}",
        "doc_to_choice": EITHER,
        "doc_to_target": "答えは{{answer}}",
    },
    "likelihood": {
        "output_type": "loglikelihood",
        "doc_to_text": CHAT,
        "doc_to_choice": None,
        "doc_to_target": "はじめは1",
        "target_delimiter": "",
        "metric_list": [lab.ACC],
    },
    "written": lab.written(),
    "written_shots": {**lab.written(), **SHOTS},
    "written_stop": lab.written(generation_kwargs={**lab.GREEDY, "until": "="}),
}
METRICS = {
    "choice_mutual": ("acc_mutual_info,none", "acc,none"),
    "likelihood": ("acc,none",),
    **dict.fromkeys(
        ("written", "written_shots", "written_stop"),
        ("exact_match,last-number", "exact_match,whole"),
    ),
}
CASES = [(name, key) for name in TASKS for key in METRICS.get(name, ("acc,none", "acc_norm,none"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("lm_eval_tasks")
    files = lab.write_docs(made)
    for name, changes in TASKS.items():
        lab.write_task(made, name, files, **changes)
    return made


@pytest.fixture(scope="module")
def samples(folder: Path) -> dict[str, Any]:
    """Everything that lm-eval and its own transformers model say about all tasks."""
    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    results = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(ROOT / "models/mini/math"), "dtype": "float32"},
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        device="cpu",
        batch_size=1,
        bootstrap_iters=0,
    )
    found: dict[str, Any] = results["samples"]
    return found


@pytest.fixture(scope="module")
def evaluator() -> Iterator[Evaluator]:
    locator = SourceLocator(load_catalogue(ROOT / "models/catalogue.toml"))
    sources = open_sources({"math": SourceSpec(model="mini/math")}, locator)
    with Evaluator(sources, Settings(threads=1, max_model_len=1024)) as opened:
        yield opened


def load(folder: Path, name: str, metric: str | None = None) -> Task:
    return load_lm_eval(name, str(folder), split="search", metric=metric)


@pytest.mark.parametrize(("name", "metric"), CASES)
def test_every_item_scores_as_in_lm_eval(
    name: str, metric: str, folder: Path, samples: dict[str, Any], evaluator: Evaluator
) -> None:
    manifest = one_source(Pool("t", evaluator._sources.specs, {"math": 6}), "math")
    ours = evaluate_one(evaluator, manifest, load(folder, name, metric)).scores.tolist()
    assert ours == lab.values(samples[name], *metric.split(","))
    assert len(ours) == lab.COUNT


def test_the_tasks_are_neither_all_right_nor_all_wrong(samples: dict[str, Any]) -> None:
    means = {
        case: float(np.mean(lab.values(samples[case[0]], *case[1].split(",")))) for case in CASES
    }
    assert sum(0 < mean < 1 for mean in means.values()) >= len(CASES) // 2, means


@pytest.mark.parametrize("name", TASKS)
def test_every_answer_is_that_of_lm_eval(
    name: str, folder: Path, samples: dict[str, Any], evaluator: Evaluator
) -> None:
    task = load(folder, name)
    first = samples[name][0]["filter"]
    theirs = [row["resps"] for row in samples[name] if row["filter"] == first]
    sources = evaluator._sources
    recipe = sources.recipe(one_source(Pool("t", sources.specs, {"math": 6}), "math"))

    async def ask() -> Any:
        await evaluator._engine.load(recipe)
        tokenizer = evaluator._tokenizer(resolve_vocabulary(recipe))
        asker = Asker(evaluator._engine, recipe.model_id, tokenizer, task.generation)
        try:
            if task.items[0].choices:
                return await asker.continuations(task.items)
            return await asker.replies(task.items)
        finally:
            await evaluator._engine.unload(recipe.model_id, drain=False)

    ours = evaluator._runner.run(ask())
    if not task.items[0].choices:
        assert ours == [responses[0][0] for responses in theirs]
        return
    for mine, responses in zip(ours, theirs, strict=True):
        likelihoods, greedy = zip(*(response[0] for response in responses), strict=True)
        np.testing.assert_allclose([value for value, _ in mine], likelihoods, atol=1e-3)
        assert tuple(flag for _, flag in mine) == greedy
