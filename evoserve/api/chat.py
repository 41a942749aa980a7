"""/v1/chat/completions: from messages to a call, from pieces to OpenAI's words."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from evoserve.api.choice import Call, Job, Piece, ScoredToken, spell
from evoserve.api.generate import build_params, choose_max_tokens
from evoserve.api.schemas import ChatBody, Choice, Message
from evoserve.api.service import Service
from evoserve.api.stream import Wording
from evoserve.errors import RequestError


async def prepare_chat(service: Service, body: ChatBody) -> Call:
    """Check, render and tokenize a request. Raises RequestError and its subclasses."""
    served = service.registry.resolve(body.model)
    text = served.tokenizer.render_chat(
        template_messages(body.messages),
        template=served.chat_template,
        add_generation_prompt=body.add_generation_prompt is not False,
    )
    token_ids = await served.encode(text, add_special_tokens=False)
    max_tokens = choose_max_tokens(
        served, len(token_ids), _wanted_tokens(body), None, param="messages"
    )
    params = build_params(body, served, max_tokens)
    params = replace(params, logprobs=_wanted_logprobs(service, body))
    return Call(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=body.model,
        served=served,
        jobs=(Job(token_ids, params),),
        n=body.n or 1,
        stops=body.stop,
        skip_special_tokens=body.skip_special_tokens is not False,
    )


def template_messages(messages: Sequence[Message]) -> list[dict[str, str]]:
    """Messages as chat templates expect them: `developer` is `system`, unset fields are gone."""
    dumped = [message.model_dump(exclude_none=True) for message in messages]
    return [
        {**message, "role": "system"} if message["role"] == "developer" else message
        for message in dumped
    ]


def _wanted_tokens(body: ChatBody) -> int | None:
    if body.max_tokens is not None and body.max_completion_tokens is not None:
        message = "Send either 'max_tokens' or 'max_completion_tokens', not both."
        raise RequestError(message, param="max_tokens", code="invalid_value")
    if body.max_tokens == 0:
        message = "Invalid 'max_tokens': a chat completion has at least 1 token (got 0)."
        raise RequestError(message, param="max_tokens", code="invalid_value")
    return body.max_completion_tokens or body.max_tokens


def _wanted_logprobs(service: Service, body: ChatBody) -> int | None:
    if body.top_logprobs is not None and not body.logprobs:
        message = "'top_logprobs' is only allowed with 'logprobs': true."
        raise RequestError(message, param="top_logprobs", code="invalid_value")
    wanted, limit = body.top_logprobs or 0, service.settings.max_logprobs
    if wanted > limit:
        message = f"Invalid 'top_logprobs': must be at most {limit} on this server (got {wanted})."
        raise RequestError(message, param="top_logprobs", code="invalid_value")
    return wanted if body.logprobs else None


def _choice(piece: Piece) -> Choice:
    return {
        "index": piece.index,
        "message": {"role": "assistant", "content": piece.text, "refusal": None},
        "logprobs": _logprobs(piece),
        "finish_reason": piece.finish_reason,
    }


def _chunks(piece: Piece, is_first: bool) -> list[Choice]:
    chunks: list[Choice] = []
    if is_first:
        chunks.append(_chunk(piece.index, {"role": "assistant", "content": ""}))
    if piece.text or piece.tokens:
        chunks.append(
            {**_chunk(piece.index, {"content": piece.text}), "logprobs": _logprobs(piece)}
        )
    if piece.finish_reason is not None:
        chunks.append({**_chunk(piece.index, {}), "finish_reason": piece.finish_reason})
    return chunks


def _chunk(index: int, delta: dict[str, str]) -> Choice:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _logprobs(piece: Piece) -> dict[str, Any] | None:
    if not piece.tokens:
        return None
    return {"content": [_scored(token) for token in piece.tokens], "refusal": None}


def _scored(token: ScoredToken) -> dict[str, Any]:
    top = [_spelled(spelling, logprob) for spelling, logprob in token.top]
    return {**_spelled(token.spelling, token.logprob), "top_logprobs": top}


def _spelled(spelling: bytes, logprob: float | None) -> dict[str, Any]:
    return {"token": spell(spelling), "logprob": logprob, "bytes": list(spelling)}


CHAT = Wording("chat.completion", "chat.completion.chunk", _choice, _chunks)
