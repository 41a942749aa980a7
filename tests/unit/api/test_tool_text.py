"""Calls found in text: the same however it is cut, and nothing of the rest is lost."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evoserve.api.tool_text import CallPart, ToolText, join_parts
from evoserve.api.tools import Tool, ToolChoice, plan_tools

TOOLS = [Tool.model_validate({"type": "function", "function": {"name": n}}) for n in ("f", "g")]
_ARGUMENTS = st.dictionaries(st.text(max_size=3), st.integers() | st.text(max_size=5))
_CALLS = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["f", "g", "unknown"]),
        "arguments": _ARGUMENTS,
    }
).map(lambda call: f"<tool_call>\n{json.dumps(call)}\n</tool_call>")
_WORDS = st.text(st.sampled_from("ab <>/_tol c\n"), max_size=12)
_BROKEN = st.sampled_from(
    [
        "<tool_call>{}</tool_call>",
        '<tool_call>{"arguments": {"a": "}"}, "name": "g"}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": "</tool_call>\\""}}</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": [1}\n</tool_call>',
        '<tool_call>{"name": "f", "arguments": {"a": "',
    ]
)
_TEXT = st.lists(_CALLS | _WORDS | _BROKEN, max_size=5).map("".join)


def stream(parts: list[str], *, is_parallel: bool = True) -> tuple[str, list[CallPart]]:
    reader = ToolText(plan_tools(TOOLS, ToolChoice("auto"), is_parallel), "call_")
    said, calls = "", []
    for part in parts:
        more, made = reader.push(part)
        said += more
        calls += made
    return said + reader.finish(), calls


def read(parts: list[str], *, is_parallel: bool = True) -> tuple[str, list[CallPart]]:
    said, calls = stream(parts, is_parallel=is_parallel)
    return said, list(join_parts(calls))


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


@given(_ARGUMENTS)
def test_arguments_come_as_they_are_written_and_nothing_is_held_back(arguments) -> None:
    written = json.dumps(arguments)
    made = stream(list(f'<tool_call>\n{{"name": "g", "arguments": {written}}}\n</tool_call>'))[1]
    assert made[0] == CallPart(0, "{", "call_0", "g")
    assert made[1:] == [CallPart(0, char) for char in written[1:]]


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
        ('<tool_call>{"arguments": {"a": 1}, "name": "g"}</tool_call>', "", ["g"]),
        ('a<tool_call>{"name": "f", "arguments": {"a": 1', "a", ["f"]),
        ('<tool_call>{"name": "f", "arguments": {"a": 1}, "id": 7}</tool_call>b', "b", ["f"]),
        ("<tool_call>nothing</tool_call>", "<tool_call>nothing</tool_call>", []),
        ('<tool_call>{"name": "f", "arguments": "no"}</tool_call>',
         '<tool_call>{"name": "f", "arguments": "no"}</tool_call>', []),
    ],
)  # fmt: skip
def test_calls_are_taken_out_and_all_else_is_said(text: str, said: str, names: list[str]) -> None:
    found = read([text])
    assert (found[0], [call.name for call in found[1]]) == (said, names)
    assert [call.id for call in found[1]] == [f"call_{index}" for index in range(len(names))]


@pytest.mark.parametrize(
    ("written", "arguments"),
    [
        ('{"a": "</tool_call>"}}</tool_call>', '{"a": "</tool_call>"}'),
        ('{"a": "\\"}"}}</tool_call>', '{"a": "\\"}"}'),
        ('{"a": [{}, "}"]}}</tool_call>', '{"a": [{}, "}"]}'),
        ('{"a": [1</tool_call>', '{"a": [1'),
        ('{"a": 1', '{"a": 1'),
    ],
)
def test_arguments_end_with_their_object_or_where_no_json_can_go_on(written, arguments) -> None:
    (call,) = read(['<tool_call>{"name": "f", "arguments": ' + written])[1]
    assert call.arguments == arguments
