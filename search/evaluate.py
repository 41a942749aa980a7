"""Manifest and task in, per-item scores out: candidates are built in memory and never written."""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Protocol

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
from search.opened import OpenSources
from search.replies import Asker
from search.store import Evaluation, Store
from search.tasks.item import Item, Task
from search.tasks.metrics import choose, score_reply

_LOG = logging.getLogger(__name__)
_MAX_QUEUE = 1_000_000
_DEFAULT_PLACE = ("cpu", "torch.float32")


class Judge(Protocol):
    """What the loop needs: the scores of a recipe on a task, known or computed."""

    def evaluate(self, manifest: Manifest, task: Task) -> Evaluation:
        """Raises EngineError only: whatever is wrong with a candidate is a score of 0."""
        ...


class Evaluator(AbstractContextManager["Evaluator"]):
    """Builds candidates on one engine over sources that are opened once; a `Judge`.

    Not shared between threads. Layers of `resident` recipes stay built, so that paths over them
    build nothing.
    """

    def __init__(
        self,
        sources: OpenSources,
        store: Store,
        settings: Settings | None = None,
        resident: Sequence[Manifest] = (),
    ) -> None:
        """Builds the resident recipes. Raises InputError subclasses and ConfigError."""
        chosen = (settings or Settings()).model_copy(update={"max_queue": _MAX_QUEUE})
        device = resolve_device(chosen.device)
        self._place = (device, str(resolve_dtype(chosen.dtype, device)))
        self._sources = sources
        self._store = store
        self._tokenizers: dict[tuple[Path, tuple[AddedToken, ...]], Tokenizer] = {}
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

    def evaluate(self, manifest: Manifest, task: Task) -> Evaluation:
        """Per-item scores; those that the store knows are not computed again.

        A candidate that cannot be built or run (weights or logits that are not finite, models that
        do not fit, too little memory) scores 0 on every item, with a warning that says why.
        Raises EngineError if the engine itself has failed.
        """
        key = self.task_key(manifest, task)
        known = self._store.evaluation(digest(manifest), key)
        if known is not None:
            return known
        start = time.monotonic()
        keep = True
        try:
            scores, outputs = self._runner.run(self._score(manifest, task))
        except (InputError, CapacityError, MemoryError, RuntimeError) as error:
            self._check_alive()
            _LOG.warning("candidate %s scores 0: %s", digest(manifest)[7:19], error)
            scores, outputs = [0.0] * len(task.items), _outputs_digest([f"failed: {error}"])
            # Memory may be short by chance; what is wrong with the recipe stays wrong.
            keep = isinstance(error, InputError | CapacityError)
        values: NDArray[np.float64] = np.array(scores, dtype=np.float64)
        seconds = time.monotonic() - start
        evaluation = Evaluation(digest(manifest), key, values, outputs, seconds)
        if keep:
            self._store.save_evaluation(evaluation)
        return evaluation

    def check(self, manifest: Manifest, tasks: Sequence[Task]) -> None:
        """Raises what is wrong with sources or tasks for any candidate, before a search begins."""
        recipe = self._sources.recipe(manifest)
        tokenizer = self._tokenizer(resolve_vocabulary(recipe))
        for task in tasks:
            generation = task.generation
            asker = Asker(self._engine, "", tokenizer, generation, manifest.chat_template)
            asker.prompt(task.items[0])

    def task_key(self, manifest: Manifest, task: Task) -> str:
        """The task's digest; more than that where a device, a dtype or a template matters too."""
        extra: list[str] = [] if self._place == _DEFAULT_PLACE else list(self._place)
        if task.generation.chat and manifest.chat_template is not None:
            extra.append(hashlib.sha256(manifest.chat_template.encode()).hexdigest())
        return "+".join([task.digest, *extra])

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

    async def _score(self, manifest: Manifest, task: Task) -> tuple[list[float], str]:
        recipe = self._sources.recipe(manifest)
        await self._engine.load(recipe)
        try:
            return await self._ask(recipe, task)
        finally:
            await self._engine.unload(recipe.model_id, drain=False)

    async def _ask(self, recipe: Recipe, task: Task) -> tuple[list[float], str]:
        tokenizer = self._tokenizer(resolve_vocabulary(recipe))
        template = recipe.manifest.chat_template
        asker = Asker(self._engine, recipe.model_id, tokenizer, task.generation, template)
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

    def _tokenizer(self, vocabulary: Vocabulary) -> Tokenizer:
        key = (vocabulary.folder, vocabulary.added)
        if key not in self._tokenizers:
            self._tokenizers[key] = vocabulary.load_tokenizer()
        return self._tokenizers[key]

    def _check_alive(self) -> None:
        if self._engine.stats().stalled_s == float("inf"):
            raise EngineError("the engine's thread died; start again, the run goes on")


def _score_text(item: Item, reply: str, task: Task) -> float:
    return score_reply(item, reply, protocol=task.protocol, require_language=task.require_language)


def _outputs_digest(outputs: Sequence[str]) -> str:
    """SHA-256 over the replies (the chosen index for a choice), in the task's order."""
    text = json.dumps(list(outputs), ensure_ascii=False, separators=(",", ":"))
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
