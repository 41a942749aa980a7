"""/v1/responses, stateless: its body becomes a chat request, its answer the story of one choice."""

from typing import Any

from fastapi import Request, Response
from fastapi.responses import JSONResponse

from evoserve.api.chat import prepare_chat
from evoserve.api.choice import Call
from evoserve.api.generate import Generation
from evoserve.api.registry import ServedRecipe
from evoserve.api.response_errors import own_words
from evoserve.api.response_events import Story, response_events
from evoserve.api.response_items import chat_messages
from evoserve.api.response_schemas import (
    LOGPROBS,
    PlainFormat,
    ResponsesBody,
    ResponseTool,
    TextFormat,
)
from evoserve.api.schemas import ChatBody
from evoserve.api.service import service_of
from evoserve.api.stream import CLIENT_CLOSED_REQUEST, EventStream, collect
from evoserve.api.tools import ToolChoice


async def prepare_response(request: Request, body: ResponsesBody, served: ServedRecipe) -> Call:
    """Check, render and tokenize a request. Raises RequestError, its field named as in the body."""
    chat = ChatBody.model_validate(_chat_fields(body))
    with own_words():
        return await prepare_chat(service_of(request), chat, served)


async def respond_response(request: Request, call: Call, body: ResponsesBody) -> Response:
    """Run the call and answer it, streamed or whole. Raises what `Generation` raises."""
    headers = {"x-evoserve-recipe": call.served.model_id}
    story = Story(call, _envelope(call, body))
    with own_words():
        generation = Generation(service_of(request), call)
        if body.stream:
            return EventStream(response_events(generation, story), generation.close, headers)
        pieces = await collect(request, generation)
    if pieces is None:
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    (piece,) = pieces
    story.push(piece)
    story.end(piece.finish_reason, generation.usage())
    return JSONResponse(story.answer, headers=headers)


def _chat_fields(body: ResponsesBody) -> dict[str, Any]:
    messages = chat_messages(body.input)
    if body.instructions is not None:
        messages.insert(0, {"role": "developer", "content": body.instructions})
    has_logprobs = LOGPROBS in (body.include or ()) or bool(body.top_logprobs)
    text_format = None if body.text is None else body.text.format
    return {
        "model": body.model,
        "messages": messages,
        "max_completion_tokens": body.max_output_tokens,
        "temperature": body.temperature,
        "top_p": body.top_p,
        "logprobs": has_logprobs,
        "top_logprobs": body.top_logprobs if has_logprobs else None,
        "response_format": None if text_format is None else _response_format(text_format),
        "tools": [_tool(tool) for tool in body.tools or ()],
        "tool_choice": body.tool_choice,
        "parallel_tool_calls": body.parallel_tool_calls,
    }


def _response_format(text: TextFormat) -> dict[str, Any]:
    if isinstance(text, PlainFormat):
        return {"type": text.type}
    schema = text.model_dump(by_alias=True, exclude={"type"})
    return {"type": text.type, "json_schema": schema}


def _tool(tool: ResponseTool) -> dict[str, Any]:
    return {"type": "function", "function": tool.model_dump(exclude={"type"})}


def _envelope(call: Call, body: ResponsesBody) -> dict[str, Any]:
    """The answer before anything came: what was asked, as it was understood."""
    params = call.jobs[0].params
    text = body.text.model_dump(by_alias=True, exclude_none=True) if body.text else {}
    return {
        "id": "resp_" + call.id.rpartition("-")[2],
        "object": "response",
        "created_at": call.created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "metadata": body.metadata or {},
        "model": call.model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": None,
        "service_tier": "default",
        "store": False,
        "temperature": params.temperature,
        "text": {"format": {"type": "text"}, **text},
        "tool_choice": _told_choice(body.tool_choice or ToolChoice("auto")),
        "tools": [tool.model_dump(exclude_none=True) for tool in body.tools or ()],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": params.top_p,
        "truncation": "disabled",
        "usage": None,
        "user": body.user,
    }


def _told_choice(choice: ToolChoice) -> str | dict[str, Any]:
    return choice.mode if choice.name is None else {"type": "function", "name": choice.name}
