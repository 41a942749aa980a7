"""Tasks of lm-evaluation-harness: its YAML, prompts, filters and metrics, answered by our engine.

Prompts are built once, when a search begins. Scores need the harness's own task again, which every
process that scores loads for itself (`open_scorer`) and holds against what the search began with.
"""

import io
import json
import random
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from evoserve.errors import ConfigError, EngineError, EvoServeError, InputError
from search.tasks.item import Generation, Item, LmEvalOrigin, Split, Task, TaskError
from search.tasks.lm_eval_terms import describe_terms, digest_docs, dump_plain

Answer = str | tuple[float, bool]

# What `simple_evaluate` seeds before it loads tasks, and their few-shot draws.
_SEEDS = {"random": 0, "numpy": 1234, "fewshot": 1234}
_LIKELIHOOD = ("multiple_choice", "loglikelihood")
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_DEFAULT_LIMIT = 256
_GREEDY = ("until", "do_sample", "temperature", "top_p", "top_k", *_LIMITS)


@dataclass(frozen=True)
class LmEvalScorer:
    """Scores the answers to a task's items as the harness does."""

    origin: LmEvalOrigin
    harness: Any
    docs: Sequence[Any]

    def score(self, item: Item, answers: Sequence[Answer]) -> float:
        """In [0, 1]. answers: the reply, or (log-likelihood, is greedy) of each continuation.

        Raises TaskError for a score that is none, and where the task's own code fails.
        """
        metric = self.origin.metric
        found = self.metrics(item, answers).get(metric)
        if not isinstance(found, bool | int | float | np.number | np.bool_):
            raise TaskError(
                f"metric '{metric}' of '{self.origin.name}' is no number per item but "
                f"{type(found).__name__}: it is made of all items together; name another metric"
            )
        value = float(found)
        if not 0 <= value <= 1:
            raise TaskError(
                f"metric '{metric}' of '{self.origin.name}' gave {value:g}, scores must be in "
                "[0, 1]; name another metric"
            )
        return value

    def metrics(self, item: Item, answers: Sequence[Answer]) -> Mapping[str, object]:
        """All metrics of one item, after the filter. Raises TaskError."""
        from lm_eval.api.instance import Instance

        index = json.loads(item.answer)["doc_id"]
        with _reported(self.origin.name):
            doc = self.docs[index]
            where = (self.origin.name, index, 1)
            asked = [
                Instance(self.harness.OUTPUT_TYPE, doc, (), number, where, [answer])
                for number, answer in enumerate(answers)
            ]
            _filters(self.harness)[self.origin.filter].apply(asked)
            filtered = [each.filtered_resps[self.origin.filter] for each in asked]
            found: Mapping[str, object] = self.harness.process_results(doc, filtered)
            return found


def load_lm_eval(
    name: str, include_path: str | None, *, split: Split, metric: str | None = None
) -> Task:
    """The task `name` of a folder of YAML files, of the harness's own tasks without a folder.

    metric: `METRIC` or `METRIC,FILTER` as in the harness's results; default: the first of each.
    The split is `test` whatever was asked for if the YAML names a test split, for that is what the
    harness evaluates. Raises TaskError, also for what cannot be asked here, and ConfigError.
    """
    with _seeded(), _reported(name), redirect_stderr(io.StringIO()):
        harness = _open(name, include_path)
        problem = _problem(harness)
        if problem:
            raise TaskError(f"lm-eval task '{name}' {problem}")
        harness.build_all_requests()
        asked: dict[int, list[Any]] = {}
        for instance in harness.instances:
            asked.setdefault(instance.doc_id, []).append(instance)
        items = tuple(_item(name, instances) for instances in asked.values())
        docs = [instances[0].doc for instances in asked.values()]
        terms = describe_terms(harness)
    metric, filter_name = _chosen(harness, name, metric)
    origin = LmEvalOrigin(name, metric, filter_name, terms, digest_docs(docs), include_path)
    _check_metric(LmEvalScorer(origin, harness, docs), items[0])
    return Task(
        name,
        "test" if harness.has_test_docs() else split,
        items,
        _generation(harness),
        lm_eval=origin,
    )


@lru_cache(maxsize=8)
def open_scorer(origin: LmEvalOrigin) -> LmEvalScorer:
    """The scorer of a task in this process.

    Raises EngineError, since no candidate can help it: lm-eval is missing here, or the task's
    files, code or version are not those that the search began with.
    """
    try:
        with _seeded(), _reported(origin.name), redirect_stderr(io.StringIO()):
            harness = _open(origin.name, origin.include_path)
            docs = list(harness.eval_docs)
            same = (describe_terms(harness), digest_docs(docs)) == (origin.terms, origin.docs)
    except InputError as error:
        raise EngineError(f"cannot score here: {error}") from error
    if not same:
        raise EngineError(
            f"lm-eval task '{origin.name}' is another one here than where the search began: "
            "its files, its code or the version of lm-eval differ"
        )
    return LmEvalScorer(origin, harness, docs)


def continuations(item: Item) -> list[tuple[str, str]]:
    """(context, continuation) of each of the item's likelihoods."""
    contexts = json.loads(item.answer).get("contexts") or [item.prompt] * len(item.choices)
    return list(zip(contexts, item.choices, strict=True))


def _open(name: str, include_path: str | None) -> Any:
    """The harness's task, set up as `simple_evaluate` does."""
    try:
        from lm_eval.tasks import TaskManager
        from tqdm import tqdm
    except ImportError:
        raise ConfigError(
            f"the task '{name}' needs lm-evaluation-harness: pip install 'evoserve[lm-eval]'"
        ) from None
    if include_path is not None and not Path(include_path).is_dir():
        raise TaskError(f"include_path {include_path} is not a folder")
    if not hasattr(tqdm, "_lock"):
        # The lock it would make is a semaphore, which outlives a worker that is killed.
        tqdm.set_lock(threading.RLock())
    tasks = TaskManager(include_path=include_path, include_defaults=include_path is None)
    if name not in tasks.all_tasks:
        where = "among lm-eval's tasks" if include_path is None else f"in {include_path}"
        raise TaskError(f"there is no lm-eval task '{name}' {where}")
    found = list(tasks.load([name])["tasks"].values())
    if len(found) != 1:
        raise TaskError(f"'{name}' is a group of {len(found)} lm-eval tasks; name one task")
    harness = found[0]
    if harness.get_config("num_fewshot") is None:
        harness.set_config("num_fewshot", 0)
    harness.set_fewshot_seed(_SEEDS["fewshot"])
    return harness


def _problem(harness: Any) -> str | None:
    """Why the task cannot be asked here, None if it can."""
    from lm_eval.api.task import ConfigurableTask

    kind = harness.OUTPUT_TYPE
    if not isinstance(harness, ConfigurableTask):
        return "is a Python class; only tasks described in YAML are supported"
    if getattr(harness, "MULTIMODAL", False):
        return "asks about images or sound; only text is supported"
    if getattr(harness, "UNSAFE_CODE", False):
        return "runs code that models write (unsafe_code); that is not supported"
    if kind not in (*_LIKELIHOOD, "generate_until"):
        return f"has output_type {kind}; {', '.join(_LIKELIHOOD)} and generate_until are supported"
    if harness.config.repeats > 1:
        return f"repeats every item {harness.config.repeats} times; replies are greedy here"
    if kind == "generate_until":
        return _sampling_problem(harness.config.generation_kwargs)
    return None


def _sampling_problem(given: Mapping[str, Any]) -> str | None:
    unknown = sorted(set(given) - set(_GREEDY))
    if unknown:
        return f"has generation_kwargs.{unknown[0]}; known: {', '.join(_GREEDY)}"
    warm = float(given.get("temperature") or 0.0) > 0 and given.get("do_sample") is None
    if given.get("do_sample") or warm:
        return "samples its replies (generation_kwargs); replies are greedy here"
    return None


def _generation(harness: Any) -> Generation:
    if harness.OUTPUT_TYPE != "generate_until":
        return Generation()
    given = harness.config.generation_kwargs
    until = given.get("until") or []
    stops = [until] if isinstance(until, str) else until
    limits = [int(given[key]) for key in _LIMITS if given.get(key) is not None]
    return Generation([*limits, _DEFAULT_LIMIT][0], tuple(stop for stop in stops if stop))


def _item(name: str, instances: Sequence[Any]) -> Item:
    """The requests about one document; their document is part of the answer."""
    ordered = sorted(instances, key=lambda instance: instance.idx)
    contexts = [instance.args[0] for instance in ordered]
    fields = {"doc_id": ordered[0].doc_id, "doc": ordered[0].doc}
    choices: tuple[str, ...] = ()
    if ordered[0].request_type == "loglikelihood":
        choices = tuple(instance.args[1] for instance in ordered)
        if not all(isinstance(choice, str) and choice for choice in choices):
            raise TaskError(
                f"lm-eval task '{name}', document {ordered[0].doc_id}: every continuation must be "
                f"a text that is not empty, found {choices!r:.200}"
            )
        if len(set(contexts)) > 1:
            fields["contexts"] = contexts
    return Item(contexts[0], dump_plain(fields), "lm_eval", choices=choices)


def _chosen(harness: Any, name: str, metric: str | None) -> tuple[str, str]:
    """Metric and filter, as asked for or the first of each."""
    wanted, _, filter_name = (metric or "").partition(",")
    filters = list(_filters(harness))
    if filter_name and filter_name not in filters:
        raise TaskError(
            f"lm-eval task '{name}' has no filter '{filter_name}'; it has: {', '.join(filters)}"
        )
    return wanted or next(iter(harness.aggregation())), filter_name or filters[0]


def _check_metric(scorer: LmEvalScorer, item: Item) -> None:
    """Raises TaskError unless the mean of the metric over items is what the harness reports.

    One item is scored on a made-up answer: only then it shows what the metric returns.
    """
    harness, origin = scorer.harness, scorer.origin
    made_up: list[Answer] = [(-1.0 - number, False) for number in range(len(item.choices))] or [""]
    found = scorer.metrics(item, made_up)
    if origin.metric not in found:
        raise TaskError(
            f"lm-eval task '{origin.name}' has no metric '{origin.metric}'; it has: "
            f"{', '.join(found)}"
        )
    if harness.higher_is_better().get(origin.metric) is False:
        raise TaskError(
            f"metric '{origin.metric}' of '{origin.name}': lower is better; name another"
        )
    scorer.score(item, made_up)
    from lm_eval.api.registry import get_aggregation

    if harness.aggregation().get(origin.metric) not in (None, get_aggregation("mean")):
        raise TaskError(f"metric '{origin.metric}' of '{origin.name}' is no mean over items")


def _filters(harness: Any) -> dict[str, Any]:
    return {each.name: each for each in harness._filters}


@contextmanager
def _reported(name: str) -> Iterator[None]:
    """Whatever the harness, the YAML or the code it names raises, as a TaskError."""
    try:
        yield
    except EvoServeError:
        raise
    except Exception as error:
        raise TaskError(f"lm-eval task '{name}': {type(error).__name__}: {error}") from error


@contextmanager
def _seeded() -> Iterator[None]:
    """The global generators as `simple_evaluate` seeds them, put back afterwards."""
    state, array_state = random.getstate(), np.random.get_state()
    random.seed(_SEEDS["random"])
    np.random.seed(_SEEDS["numpy"])
    try:
        yield
    finally:
        random.setstate(state)
        np.random.set_state(array_state)
