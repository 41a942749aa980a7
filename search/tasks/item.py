"""Items and tasks as plain data; a task's digest names exactly what was asked and how."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Literal, get_args

from evoserve.errors import InputError

Metric = Literal["exact_number", "regex", "choice", "rouge_l", "json_schema", "lm_eval"]
Split = Literal["train", "search", "validation", "test"]
Protocol = Literal["paper", "strict"]
METRICS: tuple[str, ...] = tuple(name for name in get_args(Metric) if name != "lm_eval")
SPLITS: tuple[str, ...] = get_args(Split)


class TaskError(InputError):
    """A task file, an item or a use of a split is wrong."""


@dataclass(frozen=True)
class Item:
    """One question.

    prompt: the text to complete, or the user's message when the task is chat.
    answer: a number (exact_number), a pattern (regex), the reference (rouge_l), the index of the
        right one of `choices` (choice), a JSON Schema as text (json_schema), or the document with
        its number and the choices' contexts where these differ, as JSON (lm_eval).
    language: what the reply must be written in, as an ISO 639-1 code; None does not matter.
    """

    prompt: str
    answer: str
    metric: Metric
    language: str | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Generation:
    """How replies are made: greedy, up to `max_new_tokens`, cut before the first stop string.

    template: text around the prompt, with `{input}`; chat: the model's own chat template instead.
    """

    max_new_tokens: int = 256
    stop: tuple[str, ...] = ()
    template: str = "{input}"
    chat: bool = False


@dataclass(frozen=True)
class LmEvalOrigin:
    """The task of lm-evaluation-harness that items come from and are scored by.

    metric and filter: of the harness's results. terms: its version and the task's config, as JSON;
    docs: SHA-256 over all documents; include_path: the folder of its YAML, None for its own tasks.
    """

    name: str
    metric: str
    filter: str
    terms: str
    docs: str
    include_path: str | None


@dataclass(frozen=True)
class Task:
    """A named set of items of one split, how replies are made and how they are read.

    protocol: `paper` reads numbers as the paper's script did, `strict` reads signs and thousands
    separators right. require_language: a reply in another language than the item's scores 0.
    lm_eval: set for items of the metric `lm_eval`, and for these alone.
    """

    name: str
    split: Split
    items: tuple[Item, ...]
    generation: Generation = field(default_factory=Generation)
    protocol: Protocol = "strict"
    require_language: bool = False
    lm_eval: LmEvalOrigin | None = None

    @property
    def metric(self) -> str:
        """The items' metric, `mixed` if they differ; lm-eval's own name for its metric."""
        if self.lm_eval is not None:
            return self.lm_eval.metric
        found = {item.metric for item in self.items}
        return found.pop() if len(found) == 1 else "mixed"

    @property
    def digest(self) -> str:
        """SHA-256 over everything that determines prompts and scores (the name does not)."""
        fields = asdict(self)
        origin = self.lm_eval
        del fields["name"], fields["lm_eval"]
        if origin is not None:
            # Neither where its files lie nor what other items it has.
            fields["lm_eval"] = [origin.metric, origin.filter, origin.terms]
        text = json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        return "sha256:" + hashlib.sha256(text.encode()).hexdigest()

    def subset(self, indices: Sequence[int]) -> "Task":
        """The same task with only these items, in this order."""
        return replace(self, items=tuple(self.items[i] for i in indices))
