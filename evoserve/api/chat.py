"""/v1/chat/completions: from messages to a call, from pieces to OpenAI's words."""

import time
import uuid
from dataclasses import replace
from typing import Any

from evoserve.api.choice import Call, Job, Piece, ScoredToken, spell
from evoserve.api.generate import build_params, choose_max_tokens, constrain
from evoserve.api.messages import check_count, template_messages
from evoserve.api.registry import ServedRecipe
from evoserve.api.schemas import ChatBody, Choice
from evoserve.api.service import Service
from evoserve.api.stream import Wording
from evoserve.api.structured import answer_grammar
from evoserve.api.tool_text import CallPart
from evoserve.api.tools import plan_tools
from evoserve.errors import RequestError


async def prepare_chat(service: Service, body: ChatBody, served: ServedRecipe) -> Call:
    """Check, render and tokenize a request. Raises RequestError and its subclasses."""
    if body.functions and body.function_call is None:
        message = "'functions' are not supported; send 'tools' instead."
        raise RequestError(message, param="functions", code="unsupported_parameter")
    check_count(body.messages, served.max_model_len)
    plan = plan_tools(body.tools, body.tool_choice, body.parallel_tool_calls)
    text = served.tokenizer.render_chat(
        template_messages(body.messages),
        template=served.chat_template,
        tools=plan.templated(),
        add_generation_prompt=body.add_generation_prompt is not False,
    )
    token_ids = await served.encode(text, add_special_tokens=False, param="messages")
    max_tokens = choose_max_tokens(
        served, len(token_ids), _wanted_tokens(body), None, param="messages"
    )
    params = build_params(body, served, max_tokens)
    params = replace(params, logprobs=_wanted_logprobs(service, body))
    outputs = body.structured_outputs
    grammar = await answer_grammar(served, body.response_format, outputs, plan)
    return Call(
        id=f"chatcmpl-{uuid.uuid4().hex}",
        created=int(time.time()),
        model=body.model,
        served=served,
        jobs=(Job(token_ids, constrain(params, grammar)),),
        n=body.n or 1,
        stops=body.stop,
        skip_special_tokens=body.skip_special_tokens is not False,
        tools=plan,
    )


def _wanted_tokens(body: ChatBody) -> int | None:
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        message = f"Send either 'max_tokens' ({old}) or 'max_completion_tokens' ({new}), not both."
        raise RequestError(message, param="max_tokens", code="invalid_value")
    return old if new is None else new


def _wanted_logprobs(service: Service, body: ChatBody) -> int | None:
    if body.top_logprobs and not body.logprobs:
        message = "'top_logprobs' is only allowed with 'logprobs': true."
        raise RequestError(message, param="top_logprobs", code="invalid_value")
    wanted, limit = body.top_logprobs or 0, service.settings.max_logprobs
    if wanted > limit:
        message = f"Invalid 'top_logprobs': must be at most {limit} on this server (got {wanted})."
        raise RequestError(message, param="top_logprobs", code="invalid_value")
    return wanted if body.logprobs else None


def _choice(piece: Piece) -> Choice:
    said = piece.text or (None if piece.calls else "")
    message: dict[str, Any] = {"role": "assistant", "content": said, "refusal": None}
    if piece.calls:
        message["tool_calls"] = [_call(call) for call in piece.calls]
    return {
        "index": piece.index,
        "message": message,
        "logprobs": _logprobs(piece),
        "finish_reason": piece.finish_reason,
    }


def _call(call: CallPart) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id, "type": "function", "function": function}


def _chunks(piece: Piece, is_first: bool) -> list[Choice]:
    chunks: list[Choice] = []
    if is_first:
        chunks.append(_chunk(piece.index, {"role": "assistant", "content": ""}))
    if piece.text or piece.tokens:
        chunks.append(
            {**_chunk(piece.index, {"content": piece.text}), "logprobs": _logprobs(piece)}
        )
    for part in piece.calls:
        chunks += _call_chunks(piece.index, part)
    if piece.finish_reason is not None:
        chunks.append({**_chunk(piece.index, {}), "finish_reason": piece.finish_reason})
    return chunks


def _call_chunks(index: int, part: CallPart) -> list[Choice]:
    """OpenAI's two kinds of deltas: the head with id and name, then more of the arguments."""
    deltas = []
    if part.name:
        deltas.append({"index": part.index, **_call(replace(part, arguments=""))})
    if part.arguments:
        deltas.append({"index": part.index, "function": {"arguments": part.arguments}})
    return [_chunk(index, {"tool_calls": [delta]}) for delta in deltas]


def _chunk(index: int, delta: dict[str, Any]) -> Choice:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _logprobs(piece: Piece) -> dict[str, Any] | None:
    if not piece.tokens:
        return None
    return {"content": [scored(token) for token in piece.tokens], "refusal": None}


def scored(token: ScoredToken) -> dict[str, Any]:
    """A token with its log-probability and those of the likeliest, in OpenAI's words."""
    top = [_spelled(spelling, logprob) for spelling, logprob in token.top]
    return {**_spelled(token.spelling, token.logprob), "top_logprobs": top}


def _spelled(spelling: bytes, logprob: float | None) -> dict[str, Any]:
    return {"token": spell(spelling), "logprob": logprob, "bytes": list(spelling)}


CHAT = Wording("chat.completion", "chat.completion.chunk", _choice, _chunks)
