"""Items from JSON objects, checked field by field."""

import json
from collections.abc import Mapping
from typing import cast

from search.tasks.item import METRICS, Item, Metric, TaskError
from search.tasks.metrics import check_answer


def parse_item(record: Mapping[str, object], where: str) -> Item:
    """An item from one JSON object. Raises TaskError that names `where` and the field."""
    known = {"prompt", "answer", "metric", "language", "choices", "id"}
    unknown = sorted(set(record) - known)
    if unknown:
        raise TaskError(f"{where}: unknown field '{unknown[0]}'; known: {', '.join(sorted(known))}")
    prompt, metric = record.get("prompt"), record.get("metric", "exact_number")
    if not isinstance(prompt, str) or not prompt:
        raise TaskError(f"{where}: prompt must be a text that is not empty")
    if metric not in METRICS:
        raise TaskError(f"{where}: metric {metric!r} is not one of {', '.join(METRICS)}")
    language = record.get("language")
    if language is not None and not isinstance(language, str):
        raise TaskError(f"{where}: language {language!r} must be a code such as 'ja'")
    item = Item(
        prompt, _answer(record, where), cast(Metric, metric), language, _choices(record, where)
    )
    problem = check_answer(item)
    if problem:
        raise TaskError(f"{where}: {problem}")
    return item


def _answer(record: Mapping[str, object], where: str) -> str:
    answer = record.get("answer")
    if isinstance(answer, dict):
        return json.dumps(answer)
    if isinstance(answer, str | int | float) and not isinstance(answer, bool):
        return str(answer)
    raise TaskError(f"{where}: answer {answer!r} must be a text or a number")


def _choices(record: Mapping[str, object], where: str) -> tuple[str, ...]:
    choices = record.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(c, str) and c for c in choices):
        raise TaskError(f"{where}: choices must be a list of texts")
    return tuple(choices)
