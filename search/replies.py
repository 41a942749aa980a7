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
    TokenLogprobs,
)
from evoserve.errors import InputError
from evoserve.text_stream import StopChecker
from evoserve.tokenizer import Tokenizer
from search.tasks.item import Generation, Item, TaskError
from search.tasks.lm_eval import continuations

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

    async def continuations(self, items: Sequence[Item]) -> list[list[tuple[float, bool]]]:
        """Per lm-eval item, of each continuation: its log-likelihood, and whether it is greedy.

        Greedy: every token is the most likely one. Raises as `replies` does.
        """
        return await _together([self._continuations(n, item) for n, item in enumerate(items)])

    def _prompt(self, item: Item) -> tuple[str, bool]:
        return render_prompt(self._tokenizer, self._generation, item, self._chat_template)

    async def _reply(self, number: int, item: Item) -> str:
        text, is_plain = self._prompt(item)
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
        text, is_plain = self._prompt(item)
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

    async def _continuations(self, number: int, item: Item) -> list[tuple[float, bool]]:
        pairs = [split_pair(self._tokenizer, *pair) for pair in continuations(item)]
        return await _together(
            [
                self._continuation(f"{self._name}l{number}.{n}", context, continuation)
                for n, (context, continuation) in enumerate(pairs)
            ]
        )

    async def _continuation(
        self, request_id: str, context: Sequence[int], continuation: Sequence[int]
    ) -> tuple[float, bool]:
        scored = await self._scored(request_id, [*context, *continuation], len(context), num_top=1)
        is_greedy = all(token.top[0][0] == token.token_id for token in scored)
        return sum(token.logprob for token in scored), is_greedy

    async def _score(self, request_id: str, start: Sequence[int], whole: Sequence[int]) -> float:
        """Sum over the tokens in which prompt plus choice differs from the prompt."""
        first = _common_length(start, whole)
        scored = await self._scored(request_id, whole, first, num_top=0)
        return sum(token.logprob for token in scored)

    async def _scored(
        self, request_id: str, ids: Sequence[int], first: int, *, num_top: int
    ) -> list[TokenLogprobs]:
        """The log-probabilities of the tokens from `first` on, each beside the `num_top` best."""
        params = SamplingParams(max_tokens=0, temperature=0.0, prompt_logprobs=num_top)
        request = GenerationRequest(request_id, self._model_id, ids, params)
        found: list[TokenLogprobs] = []
        async for event in self._engine.submit(request):
            _check_event(event)
            scored = event.prompt_logprobs or ()
            found += [token for token in scored[first:] if token is not None]
        return found


def render_prompt(
    tokenizer: Tokenizer, generation: Generation, item: Item, chat_template: str | None
) -> tuple[str, bool]:
    """(the whole prompt, whether the tokenizer still has to add its special tokens).

    Raises InputError subclasses for a template that cannot be rendered.
    """
    if item.metric == "lm_eval":
        return item.prompt, not _is_prefixed(tokenizer, item.prompt)
    text = generation.template.replace("{input}", item.prompt)
    if not generation.chat:
        return text, True
    messages = [{"role": "user", "content": text}]
    return tokenizer.render_chat(messages, template=chat_template), False


def split_pair(
    tokenizer: Tokenizer, context: str, continuation: str
) -> tuple[list[int], list[int]]:
    """The tokens of both, cut as lm-eval 0.4.13 does (`TemplateLM._encode_pair`).

    Blanks that end the context move to the continuation; what merges over the border belongs to
    the context, as far as that has tokens alone. Raises TaskError if nothing is left to score.
    """
    if context:
        blanks = len(context) - len(context.rstrip())
        moved, whole = context[len(context) - blanks :], context + continuation
        start = _encode_plain(tokenizer, context[: len(context) - blanks])
        rest = _encode_plain(tokenizer, whole)[len(start) :]
    else:
        moved, prefix = "", tokenizer.prefix_token_id
        rest = tokenizer.encode(continuation, add_special_tokens=False)
        if prefix is None or rest[:1] == [prefix]:
            start, rest = rest[:1], rest[1:]
        else:
            start = [prefix]
    if not start or not rest:
        raise TaskError(f"continuation {moved + continuation!r:.80} has no tokens of its own")
    return start, rest


def _encode_plain(tokenizer: Tokenizer, text: str) -> list[int]:
    return tokenizer.encode(text, add_special_tokens=not _is_prefixed(tokenizer, text))


def _is_prefixed(tokenizer: Tokenizer, text: str) -> bool:
    """Does the text write the first token itself, so that the tokenizer need not?"""
    prefix = tokenizer.prefix_token_id
    start = "" if prefix is None else tokenizer.decode([prefix], skip_special_tokens=False)
    return bool(start) and text.startswith(start)


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
