"""Tool calls found in generated text while it comes, their arguments passed on as they come."""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

from evoserve.api.tools import CALL_BEGIN, CALL_END, ToolPlan

_HEAD = re.compile(
    r'\s*\{\s*"name"\s*:\s*"([a-zA-Z0-9_.-]{1,64})"\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)'
)


@dataclass(frozen=True)
class CallPart:
    """More of call `index` of a message; only its first part has the call's `id` and `name`.

    The `arguments` of all parts together are a JSON object, as the model wrote it.
    """

    index: int
    arguments: str
    id: str = ""
    name: str = ""


def join_parts(parts: Iterable[CallPart]) -> tuple[CallPart, ...]:
    """Whole calls, each in one part."""
    calls: dict[int, CallPart] = {}
    for part in parts:
        call = calls.get(part.index)
        calls[part.index] = (
            part if call is None else replace(call, arguments=call.arguments + part.arguments)
        )
    return tuple(calls.values())


class ToolText:
    """Splits text into what is said and what is called, however the text is cut into pieces.

    A call has begun once a known function's name and the brace of its arguments have been read;
    what comes then is its arguments, whole or not. All other blocks are parsed when they end, and
    said as they stand if they are no call of a known function. Blanks around calls are dropped.
    """

    def __init__(self, plan: ToolPlan, id_prefix: str) -> None:
        self._names = {tool.function.name for tool in plan.callable}
        self._is_parallel = plan.is_parallel
        self._id_prefix = id_prefix
        self._held = ""
        self._place: Literal["text", "arguments", "tail"] = "text"
        self._object = _ObjectScanner()
        self.num_calls = 0

    @property
    def is_complete(self) -> bool:
        """Has the only call that is allowed been made, to its end?"""
        return self.num_calls > 0 and not self._is_parallel and self._place == "text"

    def push(self, text: str) -> tuple[str, tuple[CallPart, ...]]:
        """What the text adds: words that can no longer be part of a call, and parts of calls."""
        self._held += text
        said = ""
        parts: list[CallPart] = []
        is_moving = True
        while is_moving and not self.is_complete:
            if self._place == "text":
                words, is_moving = self._read_text(parts)
                said += words
            elif self._place == "arguments":
                is_moving = self._read_arguments(parts)
            else:
                is_moving = self._skip_tail()
        return said + self._certain(), join_parts(parts)

    def finish(self) -> str:
        """The words held back at the end."""
        held, self._held = self._held, ""
        is_dropped = self.is_complete or self._place != "text"
        is_blank = self.num_calls > 0 and not held.strip()
        return "" if is_dropped or is_blank else held

    def _read_text(self, parts: list[CallPart]) -> tuple[str, bool]:
        """Words up to the end of a block or the beginning of a call, and whether there was one."""
        before, begin, rest = self._held.partition(CALL_BEGIN)
        head = _HEAD.match(rest)
        if head is not None and head[1] in self._names:
            parts.append(self._begin(head[1], ""))
            self._held, self._place = rest[head.end() :], "arguments"
            self._object = _ObjectScanner()
            return before.rstrip(), True
        block, end, after = rest.partition(CALL_END)
        if not (begin and end):
            return "", False
        self._held = after
        call = self._parse(block)
        if call is None:
            return before + begin + block + end, True
        parts.append(call)
        return before.rstrip(), True

    def _read_arguments(self, parts: list[CallPart]) -> bool:
        size = self._object.push(self._held)
        if size:
            parts.append(CallPart(self.num_calls - 1, self._held[:size]))
        self._held = self._held[size:]
        if self._object.is_over:
            self._place = "tail"
        return self._object.is_over

    def _skip_tail(self) -> bool:
        """Drop what stands between the arguments and the end of the block."""
        _, end, after = self._held.partition(CALL_END)
        if end:
            self._held, self._place = after, "text"
        else:
            self._held = self._held[1 - len(CALL_END) :]
        return bool(end)

    def _certain(self) -> str:
        """Take from what is held the words that belong to no call."""
        if self.is_complete or self._place != "text":
            return ""
        end = self._held.find(CALL_BEGIN)
        if end < 0:
            end = len(self._held)
            for size in range(1, min(len(CALL_BEGIN), end + 1)):
                if CALL_BEGIN.startswith(self._held[end - size :]):
                    end -= size
                    break
        end = len(self._held[:end].rstrip())
        certain, self._held = self._held[:end], self._held[end:]
        return certain

    def _parse(self, block: str) -> CallPart | None:
        """A call in any other order of its keys, or without arguments."""
        try:
            value = json.loads(block)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict) or value.get("name") not in self._names:
            return None
        arguments = value.get("arguments", value.get("parameters", {}))
        if not isinstance(arguments, dict):
            return None
        return self._begin(value["name"], json.dumps(arguments))

    def _begin(self, name: str, arguments: str) -> CallPart:
        index, self.num_calls = self.num_calls, self.num_calls + 1
        return CallPart(index, arguments, f"{self._id_prefix}{index}", name)


class _ObjectScanner:
    """Finds where a JSON object ends; a `<` outside of its strings, which no JSON has, ends it."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_string = False
        self._is_escaped = False
        self.is_over = False

    def push(self, text: str) -> int:
        """How many of the next characters belong to the object."""
        for index, char in enumerate(text):
            if self._is_in_string:
                self._read_string(char)
            elif char == "<":
                self.is_over = True
                return index
            elif char == '"':
                self._is_in_string = True
            else:
                self._depth += (char in "{[") - (char in "}]")
                if self._depth == 0:
                    self.is_over = True
                    return index + 1
        return len(text)

    def _read_string(self, char: str) -> None:
        if self._is_escaped:
            self._is_escaped = False
        elif char == "\\":
            self._is_escaped = True
        elif char == '"':
            self._is_in_string = False
