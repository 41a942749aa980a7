"""The sequences of one API request: submitted together, merged as they come, freed together."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TypeVar

from evoserve.api.choice import Call, ChoiceText, Piece
from evoserve.api.drain import STOPPING
from evoserve.api.limits import check_size
from evoserve.api.record import current_record
from evoserve.api.registry import ServedRecipe
from evoserve.api.schemas import SamplingBody, Usage
from evoserve.api.sequence_metrics import PromptMeter, SequenceTimer
from evoserve.api.service import Service
from evoserve.engine.protocol import (
    FinishReason,
    GenerationRequest,
    SamplingParams,
    TokenEvent,
    TokenGrammar,
)
from evoserve.engine.stream import Inbox
from evoserve.errors import CapacityError, ContextLengthError, EngineError, RequestError

# What waits for a reader, as Python keeps it: about so much for a piece, a scored token, a top one.
PIECE_BYTES, TOKEN_BYTES, TOP_BYTES = 256, 384, 128

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


def constrain(params: SamplingParams, grammar: TokenGrammar | None) -> SamplingParams:
    """`params` with the grammar. Raises RequestError for wishes that contradict one."""
    if grammar is None:
        return params
    for name, is_set in (("ignore_eos", params.ignore_eos), ("min_tokens", params.min_tokens)):
        if is_set:
            message = f"'{name}' is not supported with a structured answer, which ends by itself."
            raise RequestError(message, param=name, code="unsupported_parameter")
    return replace(params, grammar=grammar)


class Generation:
    """The running sequences of one call. `close` must be called, whatever happens."""

    def __init__(self, service: Service, call: Call) -> None:
        """Submits all sequences, or none. Raises what `Engine.submit` raises."""
        check_size(service.settings, call)
        num_prompt = sum(len(job.token_ids) for job in call.jobs)
        self._record = current_record()
        self._record.recipe, self._record.num_prompt_tokens = call.served.model_id, num_prompt
        service.rates.take_prompt(self._record, num_prompt)
        self._rates = service.rates
        self._engine = service.engine
        self._call = call
        self._drain = service.drain
        self._inbox: Inbox[Piece] = Inbox()
        self._num_unread_bytes = 0
        self._max_unread_bytes = service.settings.max_unread_bytes
        self._error: Exception | None = None
        self._is_silent = self._is_waiting = False
        self._loop = asyncio.get_running_loop()
        self._last_s = self._loop.time()
        self._clock: asyncio.TimerHandle | None = None
        self._num_generated = self._num_charged = 0
        self._num_cached = [0] * len(call.jobs)
        self._tasks: list[asyncio.Task[None]] = []
        self._num_open = len(call.jobs) * call.n
        requests = [self._request(index) for index in range(self._num_open)]
        try:
            streams = [self._engine.submit(request) for request in requests]
        except BaseException:
            self.close()
            raise
        metrics = service.metrics.sequences
        meters = [PromptMeter(metrics, call.served.model_id, call.n) for _ in call.jobs]
        for index, (request, stream) in enumerate(zip(requests, streams, strict=True)):
            timer = SequenceTimer(metrics, request, meters[index // call.n])
            self._tasks.append(asyncio.create_task(self._follow(index, stream, timer)))
        self._drain.add_cut(self._stop)

    async def batches(self, idle_s: float | None = None) -> AsyncIterator[list[Piece]]:
        """Pieces that came since the last batch; an empty list after `idle_s` seconds of silence.

        Raises CapacityError or EngineError for a sequence that cannot be ended.
        """
        if idle_s is not None:
            self._watch_silence(idle_s)
        while True:
            pieces = self._take()
            if pieces or self._is_silent:
                self._is_silent = False
                yield pieces
            elif self._error is not None:
                raise self._error
            elif not self._num_open:
                return
            else:
                self._is_waiting = True
                await self._inbox.wait()
                self._is_waiting = False

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
        self._drain.remove_cut(self._stop)
        if self._clock is not None:
            self._clock.cancel()
        self._end_sequences()
        self._rates.add_generated(self._record, self._num_generated - self._num_charged)
        self._num_charged = self._record.num_generated_tokens = self._num_generated

    def _request(self, index: int) -> GenerationRequest:
        job = self._call.jobs[index // self._call.n]
        params = job.params
        if params.seed is not None:
            params = replace(params, seed=(params.seed + index) % 2**63)
        model_id = self._call.served.model_id
        return GenerationRequest(self._request_id(index), model_id, job.token_ids, params)

    async def _follow(
        self, index: int, stream: AsyncIterator[TokenEvent], timer: SequenceTimer
    ) -> None:
        job = self._call.jobs[index // self._call.n]
        text = ChoiceText(self._call, job, index)
        reason = FinishReason.ABORT.value
        try:
            async for event in stream:
                timer.token(event)
                self._count(index, event)
                piece = text.push(event)
                if piece is None:
                    continue
                self._put(piece)
                if piece.finish_reason is not None:
                    reason = piece.finish_reason
                    break
            else:
                raise EngineError(f"the stream of {self._request_id(index)} ended without a reason")
        except Exception as error:  # it belongs to whoever reads the pieces
            reason = FinishReason.ERROR.value
            self._error = self._error or error
        finally:
            self._engine.abort(self._request_id(index))
            timer.end(reason)
            self._num_open -= 1
            self._inbox.wake()

    def _take(self) -> list[Piece]:
        self._num_unread_bytes = 0
        return self._inbox.take()

    def _put(self, piece: Piece) -> None:
        """Hand a piece to the reader, who is given up if it is busy and too much waits for it."""
        self._inbox.put(piece)
        self._last_s = self._loop.time()
        self._num_unread_bytes += _num_bytes(piece)
        if self._num_unread_bytes > self._max_unread_bytes and not self._is_waiting:
            self._take()
            limit = self._max_unread_bytes
            self._cut(f"more than {limit} bytes of the answer wait to be read; read it faster")

    def _stop(self) -> None:
        self._cut(STOPPING)

    def _cut(self, reason: str) -> None:
        """End all sequences; the reader gets what is there, then the error."""
        self._error = self._error or CapacityError(reason)
        self._end_sequences()
        self._inbox.wake()

    def _end_sequences(self) -> None:
        for task in self._tasks:
            task.cancel()
        for index in range(len(self._call.jobs) * self._call.n):
            self._engine.abort(self._request_id(index))

    def _watch_silence(self, idle_s: float) -> None:
        """Report `idle_s` seconds without a piece; one timer, however many pieces come."""
        now_s = self._loop.time()
        if now_s >= self._last_s + idle_s:
            self._last_s = now_s
            self._is_silent = True
            self._inbox.wake()
        self._clock = self._loop.call_at(self._last_s + idle_s, self._watch_silence, idle_s)

    def _count(self, index: int, event: TokenEvent) -> None:
        self._num_generated += event.token_id is not None
        if event.num_cached_tokens and index % self._call.n == 0:
            job = index // self._call.n
            self._num_cached[job] = max(self._num_cached[job], event.num_cached_tokens)

    def _request_id(self, index: int) -> str:
        return f"{self._call.id}-{index}"


def _num_bytes(piece: Piece) -> int:
    tops = sum(len(token.top) for token in piece.tokens)
    text = len(piece.text) + sum(len(call.arguments) for call in piece.calls)
    return PIECE_BYTES + text + TOKEN_BYTES * len(piece.tokens) + TOP_BYTES * tops


def _first(*values: _Value | None) -> _Value:
    return next(value for value in values if value is not None)
