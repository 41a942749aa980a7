"""Word problems with worked solutions, split by held-out templates and held-out numbers.

A problem is sampled once and rendered in either language. Its split is decided by two hashes,
of the pair (start template, first event template) and of the tuple of its numbers; both must
fall into the split, so a test item has a pair and numbers that no training text contains.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypedDict

from models.mini.train.lexicon import (
    ASK_LANGUAGE,
    EVENTS,
    ITEMS,
    NAMES,
    QUESTIONS,
    STARTS,
    Language,
    join,
)

Split = Literal["train", "search", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "search", "validation", "test")
MAX_NUMBER = 99
MAX_FACTOR = 9
_SALT = "mini-zoo 24:"  # chosen so that each split has pairs of every operation
_BUCKETS = 20
_FIRST_HELD_OUT = 14  # buckets 0-13 train, then two buckets for each held-out split


class TaskItem(TypedDict):
    """One line of a task file."""

    prompt: str
    answer: str
    metric: Literal["exact_number"]
    language: Language


@dataclass(frozen=True)
class Event:
    """One step: which kind, which of its phrasings, and the operand."""

    kind: int
    phrasing: int
    operand: int


@dataclass(frozen=True)
class Problem:
    """A word problem free of language; indices point into the lexicon."""

    name: int
    item: int
    start: int
    start_value: int
    events: tuple[Event, ...]
    question: int


@dataclass(frozen=True)
class Profile:
    """Which problems to draw.

    `steps` are the relative weights of 1, 2 and 3 steps; a problem of two or more steps uses
    every operation in `required`.
    """

    steps: tuple[float, float, float]
    ops: str
    required: str = ""


# The two English experts share addition and nothing else; every target problem of more than
# one step needs an operation of each, so no source can solve it alone, in whatever language.
PROFILES: dict[str, Profile] = {
    "story": Profile((0.35, 0.40, 0.25), "+-×"),
    "math": Profile((0.25, 0.40, 0.35), "+-"),
    "math2": Profile((0.25, 0.40, 0.35), "×+"),
    "ja": Profile((1.0, 0.0, 0.0), "+-×"),
    "ja_plus": Profile((0.0, 0.6, 0.4), "+"),
    "target": Profile((0.10, 0.75, 0.15), "+-×", "×-"),
}


def build_items(split: Split, language: Language, count: int, seed: int = 0) -> list[TaskItem]:
    """`count` distinct target problems of a split, in a fixed order for a given seed.

    A shorter list is a prefix of a longer one. Each prompt ends with a request for a reply in
    the language of the problem.
    """
    rng = random.Random(f"{split}/{language}/{seed}")
    seen: set[str] = set()
    found: list[TaskItem] = []
    while len(found) < count:
        problem = sample_problem(rng, split, PROFILES["target"])
        ask = ASK_LANGUAGE[language][language][0]
        prompt = join(language, render_problem(problem, language), ask)
        if prompt in seen:
            continue
        seen.add(prompt)
        answer = str(values_of(problem)[-1])
        found.append(
            TaskItem(prompt=prompt, answer=answer, metric="exact_number", language=language)
        )
    return found


def sample_problem(rng: random.Random, split: Split, profile: Profile) -> Problem:
    """One problem of the split; its numbers stay within 1..99 at every step."""
    ops = _sample_ops(rng, profile)
    start, first = _sample_pair(rng, split, ops[0])
    kinds = [first, *(_sample_kind(rng, op) for op in ops[1:])]
    start_value, operands = _sample_numbers(rng, split, ops)
    events = tuple(Event(k, p, n) for (k, p), n in zip(kinds, operands, strict=True))
    return Problem(
        name=rng.randrange(len(NAMES)),
        item=rng.randrange(len(ITEMS)),
        start=start,
        start_value=start_value,
        events=events,
        question=rng.randrange(len(QUESTIONS)),
    )


def pair_of(problem: Problem) -> tuple[int, int, int]:
    """The held-out key of the templates: start, and kind and phrasing of the first event."""
    first = problem.events[0]
    return problem.start, first.kind, first.phrasing


def numbers_of(problem: Problem) -> tuple[int, ...]:
    """The held-out key of the numbers: the start value and every operand in order."""
    return (problem.start_value, *(event.operand for event in problem.events))


def split_of(key: Sequence[int]) -> Split:
    """The split that a held-out key belongs to: 70 / 10 / 10 / 10 percent by SHA-256."""
    text = _SALT + ",".join(str(part) for part in key)
    bucket = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") % _BUCKETS
    return SPLITS[0] if bucket < _FIRST_HELD_OUT else SPLITS[1 + (bucket - _FIRST_HELD_OUT) // 2]


def values_of(problem: Problem) -> list[int]:
    """The count after the start and after every event."""
    values = [problem.start_value]
    for event in problem.events:
        values.append(apply_op(EVENTS[event.kind].op, values[-1], event.operand))
    return values


def apply_op(op: str, left: int, right: int) -> int:
    """`left op right` for +, - and ×."""
    if op == "+":
        return left + right
    return left - right if op == "-" else left * right


def render_story(problem: Problem, language: Language) -> str:
    """The start and the events, without a question."""
    start = _fill(STARTS[problem.start].text(language), problem, problem.start_value, language)
    events = [
        _fill(EVENTS[e.kind].phrasings[e.phrasing].text(language), problem, e.operand, language)
        for e in problem.events
    ]
    return join(language, start, *events)


def render_problem(problem: Problem, language: Language) -> str:
    """The story and its question."""
    question = _fill(QUESTIONS[problem.question].text(language), problem, 0, language)
    return join(language, render_story(problem, language), question)


def render_labels(problem: Problem, language: Language) -> str:
    """What happens in order, named but not calculated; the skeleton of the solution."""
    stop = "." if language == "en" else "。"
    labels = [EVENTS[event.kind].label.text(language) + stop for event in problem.events]
    return join(language, "At first." if language == "en" else "はじめ。", *labels)


def render_solution(problem: Problem, language: Language) -> str:
    """The worked solution: the same parts in the same order in both languages."""
    values = values_of(problem)
    unit, stop = ("", ".") if language == "en" else (ITEMS[problem.item].counter, "。")
    first = "At first " if language == "en" else "はじめは"
    parts = [f"{first}{values[0]}{unit}{stop}"]
    for event, left, right in zip(problem.events, values, values[1:], strict=False):
        kind = EVENTS[event.kind]
        equation = f"{left}{kind.op}{event.operand}={right}"
        parts.append(f"{kind.label.text(language)}:{equation}{unit}{stop}")
    last = f"The answer is {values[-1]}." if language == "en" else f"答えは{values[-1]}{unit}です。"
    return join(language, *parts, last)


def _sample_ops(rng: random.Random, profile: Profile) -> list[str]:
    num_steps = rng.choices((1, 2, 3), profile.steps)[0]
    while True:
        ops = [rng.choice(profile.ops) for _ in range(num_steps)]
        if num_steps == 1 or set(profile.required) <= set(ops):
            return ops


def _sample_kind(rng: random.Random, op: str) -> tuple[int, int]:
    kind = rng.choice([index for index, event in enumerate(EVENTS) if event.op == op])
    return kind, rng.randrange(len(EVENTS[kind].phrasings))


def _sample_pair(rng: random.Random, split: Split, op: str) -> tuple[int, tuple[int, int]]:
    while True:
        start, first = rng.randrange(len(STARTS)), _sample_kind(rng, op)
        if split_of((start, *first)) == split:
            return start, first


def _sample_numbers(
    rng: random.Random, split: Split, ops: Sequence[str]
) -> tuple[int, tuple[int, ...]]:
    while True:
        start = rng.randint(2, 60)
        operands = _sample_operands(rng, start, ops)
        if operands is not None and split_of((start, *operands)) == split:
            return start, operands


def _sample_operands(rng: random.Random, value: int, ops: Sequence[str]) -> tuple[int, ...] | None:
    operands: list[int] = []
    for op in ops:
        low = 1 if op == "-" else 2
        high = {"+": min(40, MAX_NUMBER - value), "-": value - 1}.get(
            op, min(MAX_FACTOR, MAX_NUMBER // value)
        )
        if high < low:
            return None
        operands.append(rng.randint(low, high))
        value = apply_op(op, value, operands[-1])
    return tuple(operands)


def _fill(template: str, problem: Problem, number: int, language: Language) -> str:
    item = ITEMS[problem.item]
    return template.format(
        name=NAMES[problem.name].text(language),
        item=item.en if language == "en" else item.ja,
        c=item.counter,
        n=number,
    )
