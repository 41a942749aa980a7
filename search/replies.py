"""A task's items through an engine: greedy replies, and log-likelihoods of choices."""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from evoserve.engine.protocol import (
    Engine,
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
)
from evoserve.errors import InputError
from evoserve.text_stream import StopChecker
from evoserve.tokenizer import Tokenizer
from search.tasks.item import Generation, Item

_Value = TypeVar("_Value")


class SequenceFailed(InputError):
    """The engine ended a sequence with an error, such as logits that are not finite."""


class Asker:
    """Asks one loaded recipe; a prompt is tokenized once however often it is asked."""

    def __init__(
        self,
        engine: Engine,
        model_id: str,
        tokenizer: Tokenizer,
        generation: Generation,
        chat_template: str | None = None,
        *,
        name: str = "",
    ) -> None:
        """chat_template: the recipe's own, else the tokenizer's is used for chat tasks.

        name: tells this asker's requests from those of others on the same engine.
        """
        self._engine = engine
        self._model_id = model_id
        self._tokenizer = tokenizer
        self._generation = generation
        self._chat_template = chat_template
        self._name = name

    async def replies(self, items: Sequence[Item]) -> list[str]:
        """The greedy reply to every item, all of them batched, cut before the first stop string.

        Raises ContextLengthError, RequestError and SequenceFailed.
        """
        return await _together([self._reply(n, item) for n, item in enumerate(items)])

    async def log_likelihoods(self, items: Sequence[Item]) -> list[list[float]]:
        """Per item, the log-likelihood of each of its choices after the prompt."""
        return await _together([self._choices(n, item) for n, item in enumerate(items)])

    def prompt(self, item: Item) -> tuple[str, bool]:
        """(the whole prompt, whether the tokenizer still has to add its special tokens)."""
        return render_prompt(self._tokenizer, self._generation, item, self._chat_template)

    async def _reply(self, number: int, item: Item) -> str:
        text, is_plain = self.prompt(item)
        ids = self._tokenizer.encode(text, add_special_tokens=is_plain)
        params = SamplingParams(max_tokens=self._generation.max_new_tokens, temperature=0.0)
        stream = self._engine.submit(
            GenerationRequest(f"{self._name}r{number}", self._model_id, ids, params)
        )
        detokenizer = self._tokenizer.detokenizer()
        stops = StopChecker(self._generation.stop)
        reply = ""
        async for event in stream:
            _check_event(event)
            raw = ""
            if event.token_id is not None and event.finish_reason != FinishReason.STOP:
                raw = detokenizer.push(event.token_id)
            if event.finish_reason is not None:
                raw += detokenizer.flush()
            sent, is_stopped = stops.push(raw)
            reply += sent
            if is_stopped:
                await _leave(stream)
                return reply
        return reply + stops.flush()

    async def _choices(self, number: int, item: Item) -> list[float]:
        text, is_plain = self.prompt(item)
        start = self._tokenizer.encode(text, add_special_tokens=is_plain)
        wholes = [
            self._tokenizer.encode(text + choice, add_special_tokens=is_plain)
            for choice in item.choices
        ]
        return await _together(
            [
                self._score(f"{self._name}c{number}.{n}", start, whole)
                for n, whole in enumerate(wholes)
            ]
        )

    async def _score(self, request_id: str, start: Sequence[int], whole: Sequence[int]) -> float:
        """Sum over the tokens in which prompt plus choice differs from the prompt."""
        params = SamplingParams(max_tokens=0, temperature=0.0, prompt_logprobs=0)
        request = GenerationRequest(request_id, self._model_id, whole, params)
        first = _common_length(start, whole)
        total = 0.0
        async for event in self._engine.submit(request):
            _check_event(event)
            scored = event.prompt_logprobs or ()
            total += sum(token.logprob for token in scored[first:] if token is not None)
        return total


def render_prompt(
    tokenizer: Tokenizer, generation: Generation, item: Item, chat_template: str | None
) -> tuple[str, bool]:
    """(the whole prompt, whether the tokenizer still has to add its special tokens).

    Raises InputError subclasses for a template that cannot be rendered.
    """
    text = generation.template.replace("{input}", item.prompt)
    if not generation.chat:
        return text, True
    messages = [{"role": "user", "content": text}]
    return tokenizer.render_chat(messages, template=chat_template), False


async def _leave(stream: object) -> None:
    close = getattr(stream, "aclose", None)
    if close is not None:
        await close()


async def _together(work: Sequence[Coroutine[Any, Any, _Value]]) -> list[_Value]:
    """All at once; the first error ends the others and waits until they have left."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _check_event(event: TokenEvent) -> None:
    if event.finish_reason in (FinishReason.ERROR, FinishReason.ABORT):
        raise SequenceFailed(event.error or "the sequence was aborted")


def _common_length(a: Sequence[int], b: Sequence[int]) -> int:
    for index, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return index
    return min(len(a), len(b))
