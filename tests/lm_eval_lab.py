"""Small lm-eval tasks in a folder: YAML over JSON lines, for the mini zoo."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from models.mini.train.data import build_items

COUNT = 14
ACC = {"metric": "acc", "aggregation": "mean", "higher_is_better": True}
ACC_NORM = {**ACC, "metric": "acc_norm"}
EXACT = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
NUMBER = {"function": "regex", "regex_pattern": r"(-?\d+)", "group_select": -1}
FILTERS = [
    {"name": "last-number", "filter": [NUMBER, {"function": "take_first"}]},
    {"name": "whole", "filter": [{"function": "take_first"}]},
]
GREEDY = {"until": ["\n\n"], "do_sample": False, "max_gen_toks": 80}


def write_docs(folder: Path, language: str = "ja", count: int = COUNT) -> dict[str, str]:
    """Questions with four answers of different lengths; the files by split."""
    files = {}
    for split, source in (("train", "train"), ("validation", "search")):
        lines = [
            json.dumps(_doc(number, item["prompt"], int(str(item["answer"]))), ensure_ascii=False)
            for number, item in enumerate(build_items(source, language, count))
        ]
        file = folder / f"{split}.jsonl"
        file.write_text("\n".join(lines), encoding="utf-8")
        files[split] = str(file)
    return files


def write_task(folder: Path, name: str, files: dict[str, str], **changes: Any) -> None:
    """A YAML file: multiple choice over the validation split, but for what `changes` says."""
    fields: dict[str, Any] = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files, "cache_dir": str(folder / "cache")},
        "validation_split": "validation",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [ACC, ACC_NORM],
        **changes,
    }
    kept = {key: value for key, value in fields.items() if value is not None}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(kept, allow_unicode=True))


def written(**changes: Any) -> dict[str, Any]:
    """What makes a task generate: chat form, the last number of the reply is the answer."""
    return {
        "output_type": "generate_until",
        "doc_to_text": "<|user|>{{question}}<|end|><|assistant|>",
        "doc_to_choice": None,
        "doc_to_target": "{{answer}}",
        "generation_kwargs": GREEDY,
        "filter_list": FILTERS,
        "metric_list": [EXACT],
        **changes,
    }


def values(samples: Sequence[dict[str, Any]], metric: str, filter_name: str) -> list[float]:
    """Of lm-eval's logged samples, one metric of one filter in the documents' order."""
    rows = sorted((s for s in samples if s["filter"] == filter_name), key=lambda s: s["doc_id"])
    return [float(row[metric]) for row in rows]


def _doc(number: int, question: str, answer: int) -> dict[str, Any]:
    wrong = (answer + 1, answer * 10 + 3, 7)
    choices = [str(answer), f"{wrong[0]} です", str(wrong[1]), f"{wrong[2]}"]
    turn = number % len(choices)
    return {
        "question": question,
        "answer": str(answer),
        "gold": turn,
        "choices": choices[-turn:] + choices[:-turn] if turn else choices,
    }
