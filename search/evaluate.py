"""The executor in this process: candidates are built in memory, asked, and never written."""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from evoserve.config import Settings
from evoserve.engine.factory import PathModelFactory, ServableModel, resolve_device, resolve_dtype
from evoserve.engine.torch_engine import TorchEngine
from evoserve.errors import CapacityError, EngineError, InputError
from evoserve.manifest.canonical import digest
from evoserve.manifest.schema import Manifest
from evoserve.sources.recipe import Recipe
from evoserve.sources.vocabulary import Vocabulary, resolve_vocabulary
from evoserve.tokenizer import AddedToken, Tokenizer
from search.executors.protocol import Job, Results, task_key
from search.opened import OpenSources
from search.replies import Asker, render_prompt
from search.store import Evaluation
from search.tasks.item import Item, LmEvalOrigin, Task
from search.tasks.lm_eval import open_scorer
from search.tasks.metrics import choose, score_reply

_LOG = logging.getLogger(__name__)
_MAX_QUEUE = 1_000_000
_FAILURES = (InputError, CapacityError, MemoryError, RuntimeError)


@dataclass(frozen=True)
class _Room:
    """Bounds what is in memory: candidates built, and those of them that generate."""

    built: asyncio.Semaphore
    asking: asyncio.Semaphore


class Evaluator(AbstractContextManager["Evaluator"]):
    """Builds candidates on one engine over sources that are opened once; an `Executor`.

    Not shared between threads. Layers of `resident` recipes stay built, so that paths over them
    build nothing.
    """

    def __init__(
        self,
        sources: OpenSources,
        settings: Settings | None = None,
        resident: Sequence[Manifest] = (),
        *,
        in_flight: int = 2,
    ) -> None:
        """Builds the resident recipes. Raises InputError subclasses and ConfigError.

        in_flight: candidates in memory at once; the next one is built while the others generate.
        """
        chosen = (settings or Settings()).model_copy(update={"max_queue": _MAX_QUEUE})
        device = resolve_device(chosen.device)
        self._place = f"{device}+{resolve_dtype(chosen.dtype, device)}"
        self._sources = sources
        self._in_flight = in_flight
        self._tokenizers: dict[tuple[Path, tuple[AddedToken, ...]], Tokenizer] = {}
        self._num_askers = 0
        factory = PathModelFactory(chosen)
        self._engine = TorchEngine(chosen, factory)
        self._runner = asyncio.Runner()
        self._resident: list[ServableModel] = []
        try:
            for manifest in resident:
                self._resident.append(factory.build(sources.recipe(manifest)))
        except BaseException:
            self.close()
            raise

    @property
    def place(self) -> str:
        """Device and dtype that candidates run in."""
        return self._place

    def evaluate(self, jobs: Sequence[Job]) -> Results:
        """Per-item scores; a recipe that several jobs name is built once for all of them.

        A candidate that cannot be built or run (weights or logits that are not finite, models that
        do not fit, too little memory) scores 0 on every item, with a warning that says why.
        Raises EngineError if the engine itself has failed.
        """
        candidates: dict[str, list[int]] = {}
        for index, job in enumerate(jobs):
            candidates.setdefault(digest(job.manifest), []).append(index)
        loop = self._runner.get_loop()
        room = _Room(
            asyncio.Semaphore(self._in_flight), asyncio.Semaphore(max(1, self._in_flight - 1))
        )
        pending = {
            loop.create_task(self._candidate([jobs[index] for index in indices], room)): indices
            for indices in candidates.values()
        }
        try:
            while pending:
                for task in self._runner.run(_first(list(pending))):
                    for index, evaluation in zip(pending.pop(task), task.result(), strict=True):
                        yield index, evaluation
        finally:
            if pending:
                self._runner.run(_cancel(list(pending)))

    def close(self) -> None:
        """Free everything; the evaluator cannot be used afterwards."""
        while self._resident:
            self._resident.pop().lease.release()
        self._runner.run(self._engine.close())
        self._runner.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    async def _candidate(self, jobs: Sequence[Job], room: _Room) -> list[Evaluation]:
        """The evaluations of jobs that share one recipe."""
        manifest = jobs[0].manifest
        async with room.built:
            start = time.monotonic()
            try:
                recipe = self._sources.recipe(manifest)
                await self._engine.load(recipe)
            except _FAILURES as error:
                return [self._failed(job, error, start) for job in jobs]
            try:
                seconds = time.monotonic() - start
                async with room.asking:
                    return [await self._job(recipe, job, seconds / len(jobs)) for job in jobs]
            finally:
                await self._engine.unload(recipe.model_id, drain=False)

    async def _job(self, recipe: Recipe, job: Job, build_s: float) -> Evaluation:
        start = time.monotonic() - build_s
        try:
            scores, outputs = await self._ask(recipe, job.task)
        except _FAILURES as error:
            return self._failed(job, error, start)
        values: NDArray[np.float64] = np.array(scores, dtype=np.float64)
        key = task_key(job.manifest, job.task, self._place)
        return Evaluation(digest(job.manifest), key, values, outputs, time.monotonic() - start)

    def _failed(self, job: Job, error: Exception, start: float) -> Evaluation:
        if self._engine.stats().stalled_s == float("inf"):
            raise EngineError("the engine's thread died; start again, the run goes on") from error
        _LOG.warning("candidate %s scores 0: %s", digest(job.manifest)[7:19], error)
        return Evaluation(
            digest(job.manifest),
            task_key(job.manifest, job.task, self._place),
            np.zeros(len(job.task.items)),
            _outputs_digest([f"failed: {error}"]),
            time.monotonic() - start,
            # Memory may be short by chance; what is wrong with the recipe stays wrong.
            is_lasting=isinstance(error, InputError | CapacityError),
        )

    async def _ask(self, recipe: Recipe, task: Task) -> tuple[list[float], str]:
        asker = self._asker(recipe, task)
        if task.lm_eval is not None:
            return await _ask_lm_eval(asker, task.items, task.lm_eval)
        written = [item for item in task.items if item.metric != "choice"]
        chosen = [item for item in task.items if item.metric == "choice"]
        replies = iter(await asker.replies(written))
        likelihoods = iter(await asker.log_likelihoods(chosen))
        scores: list[float] = []
        outputs: list[str] = []
        for item in task.items:
            if item.metric == "choice":
                values = next(likelihoods)
                scores.append(choose(values, item.answer))
                outputs.append(str(max(range(len(values)), key=lambda i: (values[i], -i))))
            else:
                outputs.append(next(replies))
                scores.append(_score_text(item, outputs[-1], task))
        return scores, _outputs_digest(outputs)

    def _asker(self, recipe: Recipe, task: Task) -> Asker:
        self._num_askers += 1
        return Asker(
            self._engine,
            recipe.model_id,
            self._tokenizer(resolve_vocabulary(recipe)),
            task.generation,
            recipe.manifest.chat_template,
            name=f"{self._num_askers}.",
        )

    def _tokenizer(self, vocabulary: Vocabulary) -> Tokenizer:
        key = (vocabulary.folder, vocabulary.added)
        if key not in self._tokenizers:
            self._tokenizers[key] = vocabulary.load_tokenizer()
        return self._tokenizers[key]


def check_tasks(sources: OpenSources, manifest: Manifest, tasks: Sequence[Task]) -> None:
    """Raises what is wrong with sources or tasks for any candidate, before a search begins."""
    tokenizer = resolve_vocabulary(sources.recipe(manifest)).load_tokenizer()
    for task in tasks:
        render_prompt(tokenizer, task.generation, task.items[0], manifest.chat_template)


async def _first(
    tasks: Sequence[asyncio.Task[list[Evaluation]]],
) -> list[asyncio.Task[list[Evaluation]]]:
    """Those that are done, at least one, in the order given."""
    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    return [task for task in tasks if task in done]


async def _cancel(tasks: Sequence[asyncio.Task[list[Evaluation]]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _ask_lm_eval(
    asker: Asker, items: Sequence[Item], origin: LmEvalOrigin
) -> tuple[list[float], str]:
    """Scores, and the digest of the replies or of best index and greediness of continuations."""
    scorer = open_scorer(origin)
    if not items[0].choices:
        replies = await asker.replies(items)
        scores = [scorer.score(item, [reply]) for item, reply in zip(items, replies, strict=True)]
        return scores, _outputs_digest(replies)
    found = await asker.continuations(items)
    scores = [scorer.score(item, each) for item, each in zip(items, found, strict=True)]
    best = [max(range(len(each)), key=lambda i: (each[i][0], -i)) for each in found]
    greedy = [[is_greedy for _, is_greedy in each] for each in found]
    return scores, _outputs_digest([json.dumps(pair) for pair in zip(best, greedy, strict=True)])


def _score_text(item: Item, reply: str, task: Task) -> float:
    return score_reply(item, reply, protocol=task.protocol, require_language=task.require_language)


def _outputs_digest(outputs: Sequence[str]) -> str:
    """SHA-256 over the replies (the chosen index for a choice), in the task's order."""
    text = json.dumps(list(outputs), ensure_ascii=False, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
