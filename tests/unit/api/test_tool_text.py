"""Calls found in text: the same however it is cut, and nothing of the rest is lost."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoserve.api.tool_text import ToolCall, ToolText
from evoserve.api.tools import Tool, ToolChoice, plan_tools

TOOLS = [Tool.model_validate({"type": "function", "function": {"name": n}}) for n in ("f", "g")]
_CALLS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["f", "g", "unknown"]),
        "arguments": st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5)),
    }
).map(lambda call: f"<tool_call>\n{json.dumps(call)}\n</tool_call>")
_WORDS = st.text(st.sampled_from("ab <>/_tol c\n"), max_size=12)
_TEXT = st.lists(_CALLS | _WORDS | st.just("<tool_call>{}</tool_call>"), max_size=5).map("".join)


def read(parts: list[str], *, is_parallel: bool = True) -> tuple[str, list[ToolCall]]:
    reader = ToolText(plan_tools(TOOLS, ToolChoice("auto"), is_parallel), "call_")
    said, calls = "", []
    for part in parts:
        more, made = reader.push(part)
        said += more
        calls += made
    return said + reader.finish(), calls


@given(_TEXT, st.data())
def test_any_cut_gives_the_same(text: str, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    for is_parallel in (True, False):
        whole = read([text], is_parallel=is_parallel)
        assert read(parts, is_parallel=is_parallel) == whole
        assert read(list(text), is_parallel=is_parallel) == whole
        assert [call.index for call in whole[1]] == list(range(len(whole[1])))
        assert is_parallel or len(whole[1]) <= 1


@given(_WORDS)
def test_text_without_a_call_is_said_as_it_is(text: str) -> None:
    assert read(list(text)) == (text, [])


@pytest.mark.parametrize(
    ("text", "said", "names"),
    [
        ('Yes. <tool_call>{"name": "f", "arguments": {"a": "é"}}</tool_call>\n', "Yes.", ["f"]),
        ('<tool_call>{"name": "f"}</tool_call>\n<tool_call>{"name": "g"}</tool_call>', "",
         ["f", "g"]),
        ('<tool_call>{"name": "x"}</tool_call>', '<tool_call>{"name": "x"}</tool_call>', []),
        ('<tool_call>{"name": "f"', '<tool_call>{"name": "f"', []),
        ("<tool_call>nothing</tool_call>", "<tool_call>nothing</tool_call>", []),
        ('<tool_call>{"name": "f", "arguments": "no"}</tool_call>',
         '<tool_call>{"name": "f", "arguments": "no"}</tool_call>', []),
    ],
)  # fmt: skip
def test_calls_are_taken_out_and_all_else_is_said(text: str, said: str, names: list[str]) -> None:
    found = read([text])
    assert (found[0], [call.name for call in found[1]]) == (said, names)
    assert [call.id for call in found[1]] == [f"call_{index}" for index in range(len(names))]
