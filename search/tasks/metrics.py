"""From a reply to a score in [0, 1]; higher is better."""

import json
import math
import re
import unicodedata
from collections.abc import Callable

from search.tasks.item import Item, Protocol, TaskError
from search.tasks.language import is_language
from search.tasks.rouge import rouge_l

_PAPER_NUMBER = re.compile(r"\d*\.?\d+")
_STRICT_NUMBER = re.compile(r"(?<![\d.])-?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|-?\.\d+")
_MINUS_SIGNS = str.maketrans({"\N{MINUS SIGN}": "-", "\N{FULLWIDTH HYPHEN-MINUS}": "-"})


def score_reply(
    item: Item, reply: str, *, protocol: Protocol = "strict", require_language: bool = False
) -> float:
    """The score of a generated reply. Raises TaskError for `choice`, which has no reply."""
    if item.metric not in _SCORES:
        raise TaskError(f"metric '{item.metric}' is not scored on a reply")
    if require_language and item.language and not is_language(reply, item.language):
        return 0.0
    return _SCORES[item.metric](item, reply, protocol)


def read_number(text: str, protocol: Protocol = "strict") -> float | None:
    """The last number of a text, None without one.

    `paper`: the last match of the paper's pattern, which reads "1,234" as 234 and "-5" as 5.
    `strict`: thousands separators, signs and full-width digits are read; the minus of "10-5" is
    an operator, not a sign.
    """
    if protocol == "paper":
        found = _PAPER_NUMBER.findall(text)
        return float(found[-1]) if found else None
    plain = unicodedata.normalize("NFKC", text).translate(_MINUS_SIGNS)
    matches = list(_STRICT_NUMBER.finditer(plain))
    if not matches:
        return None
    number = matches[-1].group().replace(",", "")
    start = matches[-1].start()
    if number.startswith("-") and start and (plain[start - 1].isalnum() or plain[start - 1] == ")"):
        number = number[1:]
    return float(number)


def check_answer(item: Item) -> str | None:
    """What is wrong with the item's answer for its metric, None if nothing is."""
    if item.metric == "exact_number" and read_number(item.answer) is None:
        return f"answer {item.answer!r} holds no number"
    if item.metric == "regex":
        try:
            re.compile(item.answer)
        except re.error as error:
            return f"answer {item.answer!r} is not a regular expression: {error}"
    if item.metric == "choice" and not _is_index(item.answer, len(item.choices)):
        return f"answer {item.answer!r} must be the index of one of {len(item.choices)} choices"
    if item.metric == "json_schema":
        return _schema_problem(item.answer)
    return None


def choose(log_likelihoods: list[float], answer: str) -> float:
    """1 if the choice with the highest log-likelihood is the answer; the first of equals wins."""
    best = max(range(len(log_likelihoods)), key=lambda i: (log_likelihoods[i], -i))
    return float(best == int(answer))


def _score_number(item: Item, reply: str, protocol: Protocol) -> float:
    expected, found = read_number(item.answer), read_number(reply, protocol)
    return float(found is not None and math.isfinite(found) and found == expected)


def _score_regex(item: Item, reply: str, protocol: Protocol) -> float:
    del protocol
    return float(re.search(item.answer, reply) is not None)


def _score_rouge(item: Item, reply: str, protocol: Protocol) -> float:
    del protocol
    return rouge_l(reply, item.answer)


def _score_schema(item: Item, reply: str, protocol: Protocol) -> float:
    from jsonschema import Draft202012Validator

    del protocol
    try:
        value = json.loads(reply)
    except (json.JSONDecodeError, RecursionError):
        return 0.0
    return float(Draft202012Validator(json.loads(item.answer)).is_valid(value))


def _schema_problem(text: str) -> str | None:
    from jsonschema import Draft202012Validator, SchemaError

    try:
        Draft202012Validator.check_schema(json.loads(text))
    except (json.JSONDecodeError, SchemaError) as error:
        return f"answer is not a JSON Schema: {str(error).splitlines()[0]}"
    return None


def _is_index(text: str, count: int) -> bool:
    return text.isascii() and text.isdecimal() and int(text) < count


_SCORES: dict[str, Callable[[Item, str, Protocol], float]] = {
    "exact_number": _score_number,
    "regex": _score_regex,
    "rouge_l": _score_rouge,
    "json_schema": _score_schema,
}
