"""Tool calls found in generated text while it comes, piece by piece."""

import json
from dataclasses import dataclass

from evoserve.api.tools import CALL_BEGIN, CALL_END, ToolPlan


@dataclass(frozen=True)
class ToolCall:
    """One finished call; `arguments` is JSON in a string, `index` its place in the message."""

    index: int
    id: str
    name: str
    arguments: str


class ToolText:
    """Splits text into what is said and what is called, however the text is cut into pieces.

    A block that is no call of a known function is said, as it stands. Blanks around calls are
    dropped.
    """

    def __init__(self, plan: ToolPlan, id_prefix: str) -> None:
        self._names = {tool.function.name for tool in plan.callable}
        self._is_parallel = plan.is_parallel
        self._id_prefix = id_prefix
        self._held = ""
        self.num_calls = 0

    @property
    def is_complete(self) -> bool:
        """Has the only call that is allowed been made?"""
        return self.num_calls > 0 and not self._is_parallel

    def push(self, text: str) -> tuple[str, tuple[ToolCall, ...]]:
        """What the text adds: words that can no longer be part of a call, and finished calls."""
        self._held += text
        said, calls = "", []
        while not self.is_complete:
            before, begin, rest = self._held.partition(CALL_BEGIN)
            block, end, after = rest.partition(CALL_END)
            if not (begin and end):
                break
            call = self._parse(block)
            if call is None:
                said += before + begin + block + end
            else:
                said += before.rstrip() if before.strip() else ""
                calls.append(call)
            self._held = after
        return said + self._certain(), tuple(calls)

    def finish(self) -> str:
        """The words held back at the end."""
        held, self._held = self._held, ""
        is_dropped = self.num_calls > 0 and (self.is_complete or not held.strip())
        return "" if is_dropped else held

    def _certain(self) -> str:
        """Take from what is held the words that belong to no call."""
        if self.is_complete:
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

    def _parse(self, block: str) -> ToolCall | None:
        try:
            value = json.loads(block)
        except (ValueError, RecursionError):
            return None
        if not isinstance(value, dict) or value.get("name") not in self._names:
            return None
        arguments = value.get("arguments", value.get("parameters", {}))
        if not isinstance(arguments, dict):
            return None
        index, self.num_calls = self.num_calls, self.num_calls + 1
        text = json.dumps(arguments, ensure_ascii=False)
        return ToolCall(index, f"{self._id_prefix}{index}", value["name"], text)
