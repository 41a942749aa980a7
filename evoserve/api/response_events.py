"""Events of /v1/responses, in OpenAI's names and order, and the answer they add up to."""

import copy
from collections.abc import AsyncIterator
from typing import Any

from evoserve.api.chat import scored
from evoserve.api.choice import Call, Piece
from evoserve.api.errors import error_answer, log_internal, status_of
from evoserve.api.generate import Generation
from evoserve.api.response_errors import reworded
from evoserve.api.schemas import Usage
from evoserve.api.stream import KEEP_ALIVE, KEEP_ALIVE_S, encode_json
from evoserve.api.tool_text import CallPart
from evoserve.errors import EngineError

Event = dict[str, Any]
Item = dict[str, Any]


class Story:
    """A response while it comes: every piece adds events, and to `answer`.

    Text makes a message and a call an item of its own; each ends when the next one begins, so that
    the items stand in the order of the text.
    """

    def __init__(self, call: Call, envelope: dict[str, Any]) -> None:
        """`envelope` is the answer before anything came."""
        self.answer = copy.deepcopy(envelope)
        self._tag = call.id.rpartition("-")[2]
        self._has_logprobs = call.jobs[0].params.logprobs is not None
        self._may_call = call.tools is not None and call.tools.choice.mode != "none"
        self._item: Item | None = None

    def begin(self) -> list[Event]:
        """The first two events."""
        kinds = ("response.created", "response.in_progress")
        return [{"type": kind, "response": copy.deepcopy(self.answer)} for kind in kinds]

    def push(self, piece: Piece) -> list[Event]:
        """What a piece adds. Tokens of a call are part of no message."""
        events: list[Event] = []
        if piece.text or (piece.tokens and not self._may_call):
            events += self._say(piece)
        for part in piece.calls:
            events += self._call(part)
        return events

    def end(self, finish_reason: str | None, usage: Usage) -> list[Event]:
        """The last events; the answer is complete."""
        events = [] if self.answer["output"] else self._begin_message()
        is_cut = finish_reason == "length"
        status = "incomplete" if is_cut else "completed"
        events += self._end_item(status)
        self.answer["status"] = status
        if is_cut:
            self.answer["incomplete_details"] = {"reason": "max_output_tokens"}
        self.answer["usage"] = _usage(usage)
        return [*events, {"type": f"response.{status}", "response": self.answer}]

    def _say(self, piece: Piece) -> list[Event]:
        is_open = self._item is not None and self._item["type"] == "message"
        events = [] if is_open else self._begin_message()
        part = self._open()["content"][0]
        logprobs = [scored(token) for token in piece.tokens] if self._has_logprobs else []
        part["text"] += piece.text
        part["logprobs"] += logprobs
        return [*events, self._text_event("text.delta", delta=piece.text, logprobs=logprobs)]

    def _begin_message(self) -> list[Event]:
        events = self._begin_item("msg", {"type": "message", "role": "assistant", "content": []})
        part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        self._open()["content"].append(part)
        added = {"type": "response.content_part.added", **self._place(), "content_index": 0}
        return [*events, {**added, "part": copy.deepcopy(part)}]

    def _call(self, part: CallPart) -> list[Event]:
        events: list[Event] = []
        if part.name:
            fields = {"call_id": part.id, "name": part.name, "arguments": ""}
            events += self._begin_item("fc", {"type": "function_call", **fields})
        if part.arguments:
            self._open()["arguments"] += part.arguments
            kind = "response.function_call_arguments.delta"
            events.append({"type": kind, **self._place(), "delta": part.arguments})
        return events

    def _begin_item(self, prefix: str, fields: Item) -> list[Event]:
        events = self._end_item("completed")
        output: list[Item] = self.answer["output"]
        item = {"id": f"{prefix}_{self._tag}_{len(output)}", "status": "in_progress", **fields}
        output.append(item)
        self._item = item
        return [*events, self._item_event("added")]

    def _end_item(self, status: str) -> list[Event]:
        """The item that is open, if there is one, is over."""
        if self._item is None:
            return []
        item = self._item
        item["status"] = status
        if item["type"] == "message":
            part = item["content"][0]
            done = {"type": "response.content_part.done", **self._place(), "content_index": 0}
            said = self._text_event("text.done", text=part["text"], logprobs=part["logprobs"])
            events = [said, {**done, "part": part}]
        else:
            told = {"name": item["name"], "arguments": item["arguments"]}
            kind = "response.function_call_arguments.done"
            events = [{"type": kind, **self._place(), **told}]
        events.append(self._item_event("done"))
        self._item = None
        return events

    def _text_event(self, kind: str, **fields: object) -> Event:
        return {"type": f"response.output_{kind}", **self._place(), "content_index": 0, **fields}

    def _item_event(self, kind: str) -> Event:
        index = len(self.answer["output"]) - 1
        copied = copy.deepcopy(self._open())
        return {"type": f"response.output_item.{kind}", "output_index": index, "item": copied}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._open()["id"], "output_index": len(self.answer["output"]) - 1}

    def _open(self) -> Item:
        if self._item is None:
            raise EngineError("no item of the response is open")
        return self._item


async def response_events(
    generation: Generation, story: Story, *, keep_alive_s: float = KEEP_ALIVE_S
) -> AsyncIterator[bytes]:
    """The events of a streamed response; an error becomes the last one."""
    number, finish_reason = 0, None

    def encode(events: list[Event]) -> bytes:
        nonlocal number
        lines = []
        for event in events:
            body = encode_json({**event, "sequence_number": number})
            lines.append(f"event: {event['type']}\ndata: {body}\n\n")
            number += 1
        return "".join(lines).encode()

    yield encode(story.begin())
    try:
        async for pieces in generation.batches(keep_alive_s):
            for piece in pieces:
                finish_reason = piece.finish_reason or finish_reason
            events = [event for piece in pieces for event in story.push(piece)]
            yield encode(events) or KEEP_ALIVE
        yield encode(story.end(finish_reason, generation.usage()))
    except Exception as error:  # the status line has gone out: tell the client in the stream
        if status_of(error) == 500:
            log_internal(error)
        detail = error_answer(reworded(error))["error"]
        told = {"code": detail["code"], "message": detail["message"], "param": detail["param"]}
        yield encode([{"type": "error", **told}])


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage["prompt_tokens"],
        "input_tokens_details": {
            "cached_tokens": usage["prompt_tokens_details"]["cached_tokens"],
            "cache_write_tokens": 0,
        },
        "output_tokens": usage["completion_tokens"],
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage["total_tokens"],
    }
