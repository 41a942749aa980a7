"""The sequences of one API request: submitted together, merged as they come, freed together."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TypeVar

from evoserve.api.choice import Call, ChoiceText, Piece
from evoserve.api.metrics import SequenceTimer
from evoserve.api.registry import ServedRecipe
from evoserve.api.schemas import SamplingBody, Usage
from evoserve.api.service import Service
from evoserve.engine.protocol import (
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
)
from evoserve.errors import ContextLengthError, EngineError

_Value = TypeVar("_Value")


def choose_max_tokens(
    served: ServedRecipe, num_prompt: int, wanted: int | None, fallback: int | None, param: str
) -> int:
    """How many tokens to generate after `num_prompt` prompt tokens.

    `wanted` None: the recipe's default, else `fallback`, else the room left in the context.
    Raises ContextLengthError, which names `param`, if prompt and completion do not fit.
    """
    room = served.max_model_len - num_prompt
    if wanted is None:
        default = _first(served.generation.max_tokens, fallback, room)
        wanted = max(1, min(default, room))
    if wanted > room:
        raise ContextLengthError(
            f"This model's maximum context length is {served.max_model_len} tokens, but "
            f"{num_prompt} are in '{param}' and {wanted} in the completion; reduce one of them.",
            param=param,
        )
    return wanted


def build_params(body: SamplingBody, served: ServedRecipe, max_tokens: int) -> SamplingParams:
    """The request's wishes over the recipe's defaults over OpenAI's."""
    defaults = served.generation
    ends = frozenset() if body.ignore_eos else served.tokenizer.eos_token_ids
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=body.min_tokens or 0,
        temperature=_first(body.temperature, defaults.temperature, 1.0),
        top_p=_first(body.top_p, defaults.top_p, 1.0),
        top_k=max(0, _first(body.top_k, defaults.top_k, 0)),
        min_p=_first(body.min_p, defaults.min_p, 0.0),
        repetition_penalty=_first(body.repetition_penalty, defaults.repetition_penalty, 1.0),
        presence_penalty=body.presence_penalty or 0.0,
        frequency_penalty=body.frequency_penalty or 0.0,
        logit_bias=body.logit_bias or {},
        seed=body.seed,
        stop_token_ids=ends.union(body.stop_token_ids or ()),
        ignore_eos=bool(body.ignore_eos),
    )


class Generation:
    """The running sequences of one call. `close` must be called, whatever happens."""

    def __init__(self, service: Service, call: Call) -> None:
        """Submits all sequences, or none. Raises what `Engine.submit` raises."""
        self._engine = service.engine
        self._metrics = service.metrics
        self._call = call
        self._queue: asyncio.Queue[Piece | Exception | None] = asyncio.Queue()
        self._num_generated = 0
        self._num_cached = [0] * len(call.jobs)
        self._tasks: list[asyncio.Task[None]] = []
        try:
            streams = [self._submit(index) for index in range(len(call.jobs) * call.n)]
        except BaseException:
            self.close()
            raise
        self._tasks = [
            asyncio.create_task(self._follow(index, stream)) for index, stream in enumerate(streams)
        ]

    async def batches(self, idle_s: float | None = None) -> AsyncIterator[list[Piece]]:
        """Pieces that came since the last batch; an empty list after `idle_s` seconds of silence.

        Raises CapacityError or EngineError for a sequence that cannot be ended.
        """
        num_open = len(self._tasks)
        while num_open:
            try:
                async with asyncio.timeout(idle_s):
                    items = [await self._queue.get()]
            except TimeoutError:
                yield []
                continue
            while not self._queue.empty():
                items.append(self._queue.get_nowait())
            pieces = [item for item in items if isinstance(item, Piece)]
            if pieces:
                yield pieces
            for item in items:
                if isinstance(item, Exception):
                    raise item
            num_open -= items.count(None)

    def usage(self) -> Usage:
        """Tokens so far."""
        num_prompt = sum(len(job.token_ids) for job in self._call.jobs)
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": self._num_generated,
            "total_tokens": num_prompt + self._num_generated,
            "prompt_tokens_details": {"cached_tokens": sum(self._num_cached)},
        }

    def close(self) -> None:
        """Stop what still runs and free its blocks."""
        for task in self._tasks:
            task.cancel()
        for index in range(len(self._call.jobs) * self._call.n):
            self._engine.abort(self._request_id(index))

    def _submit(self, index: int) -> AsyncIterator[TokenEvent]:
        job = self._call.jobs[index // self._call.n]
        params = job.params
        if params.seed is not None:
            params = replace(params, seed=(params.seed + index) % 2**63)
        model_id = self._call.served.model_id
        return self._engine.submit(
            GenerationRequest(self._request_id(index), model_id, job.token_ids, params)
        )

    async def _follow(self, index: int, stream: AsyncIterator[TokenEvent]) -> None:
        job = self._call.jobs[index // self._call.n]
        timer = SequenceTimer(self._metrics, self._call.served.model_id, len(job.token_ids))
        text = ChoiceText(self._call, job, index)
        reason = FinishReason.ABORT.value
        try:
            async for event in stream:
                timer.token(event)
                self._count(index, event)
                piece = text.push(event)
                if piece is not None:
                    self._queue.put_nowait(piece)
                if piece is not None and piece.finish_reason is not None:
                    reason = piece.finish_reason
                    break
            else:
                raise EngineError(f"the stream of {self._request_id(index)} ended without a reason")
        except Exception as error:  # it belongs to whoever reads the pieces
            reason = FinishReason.ERROR.value
            self._queue.put_nowait(error)
        finally:
            self._engine.abort(self._request_id(index))
            timer.end(reason)
            self._queue.put_nowait(None)

    def _count(self, index: int, event: TokenEvent) -> None:
        self._num_generated += event.token_id is not None
        job, choice = divmod(index, self._call.n)
        if choice == 0:
            self._num_cached[job] = max(self._num_cached[job], event.num_cached_tokens)

    def _request_id(self, index: int) -> str:
        return f"{self._call.id}-{index}"


def _first(*values: _Value | None) -> _Value:
    return next(value for value in values if value is not None)
