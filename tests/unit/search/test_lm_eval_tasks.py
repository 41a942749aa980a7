"""lm-eval tasks: what is refused, what the digest covers, and where scoring can go wrong."""

import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import lm_eval_lab as lab
import pytest
from search_cases import ROOT, small

from evoserve.errors import ConfigError, EngineError
from search.config import parse_config
from search.setup import build_tasks
from search.tasks.item import Item, Task, TaskError
from search.tasks.lm_eval import LmEvalScorer, continuations, load_lm_eval, open_scorer
from search.tasks.parse import parse_item


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    lab.write_task(tmp_path, "quiz", lab.write_docs(tmp_path, count=5))
    return tmp_path


def files(folder: Path) -> dict[str, str]:
    return {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")}


def load(folder: Path, metric: str | None = None, **changes: Any) -> Task:
    if changes:
        lab.write_task(folder, "quiz", files(folder), **changes)
    return load_lm_eval("quiz", str(folder), split="search", metric=metric)


def metric(name: str, **changes: Any) -> dict[str, Any]:
    return {"metric_list": [{**lab.ACC, "metric": name, **changes}]}


def write_own(folder: Path, body: str) -> None:
    """A task scored by a function beside its YAML."""
    (folder / "own.py").write_text(body)
    lab.write_task(folder, "quiz", files(folder), **lab.written(**metric("mine")))
    file = folder / "quiz.yaml"
    file.write_text(file.read_text() + "process_results: !function own.score\n")


def test_items_hold_requests_and_document(folder: Path) -> None:
    task = load(folder)
    item = task.items[2]
    assert (task.metric, task.split, len(task.items)) == ("acc", "search", 5)
    assert item.choices == tuple(
        f" {choice}" for choice in json.loads(item.answer)["doc"]["choices"]
    )
    assert continuations(item) == [(item.prompt, choice) for choice in item.choices]
    assert pickle.loads(pickle.dumps(task)) == task


def test_generation_is_the_yaml_s(folder: Path) -> None:
    task = load(folder, **lab.written(generation_kwargs={"until": ["x", ""], "max_tokens": 7}))
    assert (task.generation.stop, task.generation.max_new_tokens) == (("x",), 7)
    assert load(folder, **lab.written(generation_kwargs=None)).generation.max_new_tokens == 256


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"output_type": "loglikelihood_rolling", **metric("acc")}, "loglikelihood_rolling"),
        ({"repeats": 3}, "repeats every item 3 times"),
        ({"unsafe_code": True}, "unsafe_code"),
        ({"doc_to_image": "question"}, "images"),
        (lab.written(generation_kwargs={"until": [], "do_sample": True}), "samples its replies"),
        (lab.written(generation_kwargs={"until": [], "temperature": 0.7}), "samples its replies"),
        (lab.written(generation_kwargs={"until": [], "num_beams": 4}), "num_beams"),
        (metric("f1", aggregation="f1"), "no number per item"),
        (metric("acc", aggregation="median"), "no mean over items"),
        (metric("acc", higher_is_better=False), "lower is better"),
        ({"doc_to_choice": ["a", ""]}, "IndexError"),
        ({"doc_to_text": "{{ unclosed"}, "TemplateSyntaxError"),
        ({"validation_split": "absent"}, "absent"),
    ],
)
def test_what_cannot_be_asked_or_scored_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(TaskError, match=message):
        load(folder, **changes)


def test_unknown_names_are_refused(folder: Path) -> None:
    with pytest.raises(TaskError, match="no lm-eval task 'other' in"):
        load_lm_eval("other", str(folder), split="search")
    with pytest.raises(TaskError, match="is not a folder"):
        load_lm_eval("quiz", str(folder / "absent"), split="search")
    with pytest.raises(TaskError, match="no metric 'f2'; it has: acc, acc_norm"):
        load(folder, metric="f2")
    with pytest.raises(TaskError, match="no filter 'flexible'; it has: none"):
        load(folder, metric="acc,flexible")


def test_a_group_is_not_a_task(folder: Path) -> None:
    lab.write_task(folder, "other", files(folder))
    (folder / "both.yaml").write_text("group: both\ntask: [quiz, other]\n")
    with pytest.raises(TaskError, match="group of 2"):
        load_lm_eval("both", str(folder), split="search")


def test_a_test_split_stays_one(folder: Path) -> None:
    task = load(folder, test_split="validation", validation_split=None)
    assert task.split == "test"


def test_the_digest_covers_config_metric_and_data_but_no_place(
    folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    task = load(folder)
    moved = tmp_path_factory.mktemp("moved")
    lab.write_task(moved, "quiz", lab.write_docs(moved, count=5))
    assert load_lm_eval("quiz", str(moved), split="search").digest == task.digest
    others = [
        load(folder, "acc_norm").digest,
        load(folder, description="Think. ").digest,
        load(folder, metric_list=[lab.ACC]).digest,
    ]
    lab.write_task(folder, "quiz", lab.write_docs(folder, "en", count=5))
    others.append(load(folder).digest)
    assert len({task.digest, *others}) == 5


def test_the_digest_covers_the_task_s_code(folder: Path) -> None:
    body = "def score(doc, results):\n    return {{'mine': {}}}\n"
    digests = []
    for value in ("0.5", "0.25"):
        write_own(folder, body.format(value))
        digests.append(load(folder).digest)
    assert digests[0] != digests[1]


def test_digests_of_other_tasks_are_as_before() -> None:
    task = Task("t", "search", (Item("1+1=", "2", "exact_number"),))
    assert task.digest == "sha256:6b98439e52c79609b8bd5ea5a62cf108a694fab1ce1f0087bb7912cf98331637"


def test_graded_scores_and_those_out_of_range(folder: Path) -> None:
    write_own(folder, "def score(doc, results):\n    return {'mine': results[0].count('9') / 4}\n")
    task = load(folder)
    assert task.lm_eval is not None
    scorer = open_scorer(task.lm_eval)
    assert scorer.score(task.items[0], ["1 and 999"]) == 0.75
    with pytest.raises(TaskError, match=r"gave 1.25, scores must be in \[0, 1\]"):
        scorer.score(task.items[0], ["99999"])


def test_code_that_fails_on_a_reply_is_the_candidate_s_fault(folder: Path) -> None:
    write_own(folder, "def score(doc, results):\n    return {'mine': 1 / (results[0] != '7')}\n")
    task = load(folder)
    assert task.lm_eval is not None
    with pytest.raises(TaskError, match="ZeroDivisionError"):
        open_scorer(task.lm_eval).score(task.items[0], ["7"])


def test_a_task_that_changed_since_the_search_began_ends_it(folder: Path) -> None:
    task = load(folder)
    assert task.lm_eval is not None
    assert isinstance(open_scorer(task.lm_eval), LmEvalScorer)
    file = folder / "validation.jsonl"
    file.write_text("\n".join(reversed(file.read_text().splitlines())))
    fresh = replace(task.lm_eval, include_path=str(folder) + "/")
    with pytest.raises(EngineError, match="another one here"):
        open_scorer(fresh)
    with pytest.raises(EngineError, match="is not a folder"):
        open_scorer(replace(task.lm_eval, include_path=str(folder / "gone")))


def test_global_randomness_is_left_alone(folder: Path) -> None:
    import random

    import numpy as np

    random.seed(5)
    np.random.seed(5)
    load(folder)
    drawn = random.random(), np.random.random()
    random.seed(5)
    np.random.seed(5)
    assert drawn == (random.random(), np.random.random())


def test_a_config_names_tasks_as_lm_eval_does(folder: Path) -> None:
    table = {"name": "q", "lm_eval": "quiz", "include_path": ".", "split": "search"}
    document = small(tasks=[{**table, "items": [1, 4], "metric": "acc_norm"}])
    document["objectives"] = [{"task": "q"}]
    task = build_tasks(parse_config(document), folder).counted[0]
    assert (task.name, task.metric, len(task.items)) == ("q", "acc_norm", 3)
    assert task.items == load(folder).items[1:4]
    lab.write_task(folder, "quiz", files(folder), test_split="validation", validation_split=None)
    with pytest.raises(TaskError, match="'q' is a test set"):
        build_tasks(parse_config(document), folder)
    assert build_tasks(parse_config(document), folder, force=True).counted[0].split == "test"


def test_nothing_is_chosen_by_a_test_split_of_the_yaml(folder: Path) -> None:
    lab.write_task(folder, "quiz", files(folder), test_split="validation", validation_split=None)
    table = {"name": "q", "lm_eval": "quiz", "include_path": ".", "split": "validation"}
    document = small(validation={"task": "q"})
    document["tasks"].append(table)
    with pytest.raises(TaskError, match="'q' is a test set"):
        build_tasks(parse_config(document), folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"chat": True}, "chat is not for lm_eval"),
        ({"builtin": "mini"}, "builtin is not for lm_eval"),
        ({"split": None}, "needs a split"),
        ({"lm_eval": None, "file": "a.jsonl"}, "belong to lm_eval"),
    ],
)
def test_keys_of_other_tasks_are_refused(changes: dict[str, Any], message: str) -> None:
    table = {"name": "q", "lm_eval": "quiz", "metric": "acc", "split": "search", **changes}
    document = small(tasks=[table], objectives=[{"task": "q"}])
    with pytest.raises(ConfigError, match=message):
        parse_config(document)


def test_items_of_a_file_cannot_name_the_metric() -> None:
    with pytest.raises(TaskError, match="'lm_eval' is not one of"):
        parse_item({"prompt": "a", "answer": "1", "metric": "lm_eval"}, "here")


def test_without_the_extra_one_line_says_so(folder: Path) -> None:
    program = (
        "import sys; sys.modules['lm_eval'] = None\n"
        "from search.tasks.lm_eval import load_lm_eval\n"
        "from evoserve.errors import ConfigError\n"
        "try: load_lm_eval('quiz', None, split='search')\n"
        "except ConfigError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "pip install 'evoserve[lm-eval]'" in done.stdout


def test_searching_without_such_a_task_does_not_import_lm_eval() -> None:
    program = "import sys, search.setup, search.evaluate; sys.exit('lm_eval' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
