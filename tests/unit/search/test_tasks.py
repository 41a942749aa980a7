"""Tasks: reading numbers, scoring replies, loading files, keeping splits apart."""

import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rouge_score import rouge_scorer

from search.tasks.interval import format_accuracy, interval95
from search.tasks.item import Item, Task, TaskError
from search.tasks.load import check_disjoint, check_searchable, load_items, load_mgsm
from search.tasks.metrics import choose, read_number, score_reply
from search.tasks.parse import parse_item
from search.tasks.rouge import rouge_l

MGSM_JA = Path(__file__).parents[4] / "shared" / "data" / "mgsm_ja.tsv"


@pytest.mark.parametrize(
    ("text", "paper", "strict"),
    [
        ("it is 1,234", 234, 1234),
        ("a loss of -5", 5, -5),
        ("10-5", 5, 5),
        ("(2+3)-5", 5, 5),
        ("\N{MINUS SIGN}5", 5, -5),
        ("12,34", 34, 34),
        ("１２３こ", 123, 123),
        ("3.50.", 3.5, 3.5),
        (".5", 0.5, 0.5),
        ("1,234,567.5 yen", 567.5, 1234567.5),
        ("答えは33こです", 33, 33),
        ("none", None, None),
    ],
)
def test_last_number(text: str, paper: float | None, strict: float | None) -> None:
    assert read_number(text, "paper") == paper
    assert read_number(text, "strict") == strict


@given(st.integers(-(10**9), 10**9), st.text(alphabet="abc かな.", max_size=5))
def test_strict_reads_any_formatted_integer(number: int, before: str) -> None:
    assert read_number(f"{before} ={number:,}") == number


def test_replies_are_scored_by_metric() -> None:
    number = Item("2+3?", "5", "exact_number")
    assert score_reply(number, "2+3=5") == 1
    assert score_reply(number, "2+3=6") == 0
    assert score_reply(number, "") == 0
    assert score_reply(Item("x", "^a+$", "regex"), "aaa") == 1
    assert score_reply(Item("x", "^a+$", "regex"), "aab") == 0
    schema = Item("x", '{"type": "object", "required": ["a"]}', "json_schema")
    assert score_reply(schema, '{"a": 1}') == 1
    assert score_reply(schema, '{"b": 1}') == 0
    assert score_reply(schema, "{") == 0


def test_reply_in_the_wrong_language_scores_nothing() -> None:
    item = Item("3+3?", "6", "exact_number", language="ja")
    assert score_reply(item, "答えは6こです。", require_language=True) == 1
    assert score_reply(item, "The answer is 6 apples.", require_language=True) == 0
    assert score_reply(item, "The answer is 6 apples.") == 1


def test_choice_takes_the_first_of_the_best() -> None:
    assert choose([-3.0, -1.0, -1.0], "1") == 1
    assert choose([-3.0, -1.0, -1.0], "2") == 0


@given(
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=12),
    st.lists(st.sampled_from("abcd"), min_size=1, max_size=12),
)
def test_rouge_l_is_that_of_the_reference_library(reply: list[str], reference: list[str]) -> None:
    class Blanks:
        def tokenize(self, text: str) -> list[str]:
            return text.split()

    scorer = rouge_scorer.RougeScorer(["rougeL"], tokenizer=Blanks())
    ours = rouge_l(" ".join(reply), " ".join(reference))
    theirs = scorer.score(" ".join(reference), " ".join(reply))["rougeL"].fmeasure
    assert math.isclose(ours, theirs, abs_tol=1e-12)


def test_rouge_l_of_japanese_is_cut_into_words() -> None:
    assert rouge_l("猫が机の上にいます", "猫が机の上にいます") == 1
    assert 0.5 < rouge_l("猫が机の上にいます", "猫は机の上にいます") < 1
    assert rouge_l("the cat is on the desk", "猫は机の上にいます") == 0


@given(st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=300))
def test_interval_holds_the_mean_and_stays_in_bounds(scores: list[float]) -> None:
    low, high = interval95(scores)
    assert 0 <= low <= sum(scores) / len(scores) <= high <= 1


def test_interval_is_six_points_wide_at_250() -> None:
    low, high = interval95([1.0] * 125 + [0.0] * 125)
    assert (high - low) / 2 == pytest.approx(0.0615, abs=5e-4)
    assert format_accuracy([1.0, 0.0]) == "50.0% [9.5, 90.5] n=2"


def test_interval_covers_the_truth_about_95_times_in_100() -> None:
    generator = random.Random(0)
    hits = 0
    for _ in range(1000):
        low, high = interval95([float(generator.random() < 0.3) for _ in range(200)])
        hits += low <= 0.3 <= high
    assert 930 <= hits <= 970


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"answer": "1"}, "prompt"),
        ({"prompt": "", "answer": "1"}, "prompt"),
        ({"prompt": "x", "answer": None}, "answer"),
        ({"prompt": "x", "answer": True}, "answer"),
        ({"prompt": "x", "answer": "none"}, "holds no number"),
        ({"prompt": "x", "answer": "1", "metric": "bleu"}, "metric 'bleu'"),
        ({"prompt": "x", "answer": "(", "metric": "regex"}, "not a regular expression"),
        ({"prompt": "x", "answer": "2", "metric": "choice", "choices": ["a", "b"]}, "2 choices"),
        ({"prompt": "x", "answer": "{", "metric": "json_schema"}, "JSON Schema"),
        ({"prompt": "x", "answer": "1", "colour": 1}, "unknown field 'colour'"),
        ({"prompt": "x", "answer": "1", "language": 3}, "language"),
        ({"prompt": "x", "answer": "1", "choices": "ab"}, "choices"),
    ],
)
def test_bad_items_are_named(record: dict[str, object], message: str) -> None:
    with pytest.raises(TaskError, match="f:3: .*" + message.replace("(", r"\(")):
        parse_item(record, "f:3")


def test_file_errors_name_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(json.dumps({"prompt": "a", "answer": 1}) + "\n\n[]\n")
    with pytest.raises(TaskError, match=r"items\.jsonl:2: must be a JSON object"):
        load_items(file)
    file.write_text("")
    with pytest.raises(TaskError, match="holds no items"):
        load_items(file)
    with pytest.raises(TaskError, match="No such file"):
        load_items(tmp_path / "absent.jsonl")


def test_items_may_hold_line_separators(tmp_path: Path) -> None:
    file = tmp_path / "items.jsonl"
    file.write_text(json.dumps({"prompt": "a\u2028b", "answer": 1}, ensure_ascii=False) + "\n")
    assert load_items(file)[0].prompt == "a\u2028b"


def test_test_sets_are_never_searched_on() -> None:
    items = (Item("q", "1", "exact_number"),)
    with pytest.raises(TaskError, match="test set"):
        check_searchable(Task("t", "test", items))
    check_searchable(Task("t", "test", items), force=True)
    check_searchable(Task("t", "search", items))
    with pytest.raises(TaskError, match="share the question 'q'"):
        check_disjoint({"search": Task("s", "search", items), "test": Task("t", "test", items)})


def test_digest_follows_what_is_asked_not_the_name() -> None:
    items = (Item("q", "1", "exact_number"), Item("r", "2", "exact_number"))
    task = Task("a", "search", items)
    assert task.digest == Task("b", "search", items).digest
    assert task.digest != Task("a", "search", items, protocol="paper").digest
    assert task.digest != task.subset([1, 0]).digest
    assert task.subset([1]).items == (items[1],)


@pytest.mark.skipif(not MGSM_JA.exists(), reason="MGSM is not on this machine")
def test_mgsm_is_the_paper_s_test() -> None:
    task = load_mgsm(MGSM_JA, "ja")
    assert len(task.items) == 250
    assert task.items[0].answer == "18"
    assert task.split == "test"
    assert task.generation.max_new_tokens == 1024
    prompt = task.generation.template.format(input=task.items[0].prompt)
    assert prompt.endswith("### 応答:")
    assert "\n\n### 指示:\nジャネット" in prompt
