"""Structured answers and tools, as OpenAI's own client sees them."""

import json

import jsonschema
import openai
import pytest
from pydantic import BaseModel

SAID = [{"role": "user", "content": "hi"}]
SCHEMA = {
    "type": "object",
    "properties": {
        "kind": {"enum": ["cat", "dog"]},
        "ages": {"type": "array", "items": {"type": "integer"}, "maxItems": 3},
        "is_good": {"type": "boolean"},
    },
    "required": ["kind", "ages", "is_good"],
    "additionalProperties": False,
}
NAMED = {"type": "json_schema", "json_schema": {"name": "pet", "schema": SCHEMA, "strict": True}}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Something.",
            "parameters": {
                "type": "object",
                "properties": {"town": {"$ref": "#/$defs/town"}},
                "required": ["town"],
                "additionalProperties": False,
                "$defs": {"town": {"enum": towns}},
            },
        },
    }
    for name, towns in (("weather", ["Bern", "Oslo"]), ("time", ["Rome", "Kyōto"]))
]


def ask(client: openai.OpenAI, **more: object):
    asked = {"model": "tiny", "messages": SAID, "max_tokens": 600, "temperature": 1, **more}
    return client.chat.completions.create(**asked)


def test_a_schema_holds_for_every_choice_whole_and_streamed(client) -> None:
    asked = {"response_format": NAMED, "n": 4, "seed": 3, "logprobs": True, "top_logprobs": 2}
    whole = ask(client, **asked)
    for choice in whole.choices:
        jsonschema.validate(json.loads(choice.message.content), SCHEMA)
        assert choice.finish_reason == "stop"
        said = b"".join(bytes(token.bytes) for token in choice.logprobs.content)
        assert said.decode() == choice.message.content
    texts = dict.fromkeys(range(4), "")
    for chunk in ask(client, **asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert len(set(texts.values())) > 1


def test_json_mode_gives_an_object_and_penalties_do_not_break_it(client) -> None:
    bias = {str(byte): 5 for byte in range(64)}
    answer = ask(
        client, response_format={"type": "json_object"}, seed=1, frequency_penalty=2,
        logit_bias=bias, max_tokens=3000,
    )  # fmt: skip
    if answer.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(answer.choices[0].message.content), dict)
    assert answer.choices[0].message.content.lstrip().startswith("{")


def test_a_pydantic_model_is_parsed(client) -> None:
    class Point(BaseModel):
        x: bool
        name: str | None

    answer = client.chat.completions.parse(
        model="tiny", messages=SAID, response_format=Point, temperature=0,
        logit_bias={str(ord('"') - 33): 100}, max_tokens=300,
    )  # fmt: skip
    assert isinstance(answer.choices[0].message.parsed, Point)


@pytest.mark.parametrize(
    ("outputs", "is_right"),
    [
        ({"choice": ["yes", "no\n"]}, lambda text: text in ("yes", "no\n")),
        ({"regex": "[0-9]{3}-[a-f]{2}"}, lambda text: len(text) == 6 and text[3] == "-"),
        ({"json": {"type": "boolean"}}, lambda text: text in ("true", "false")),
        ({"grammar": 'start: "a" "b"~3'}, lambda text: text == "abbb"),
    ],
)
def test_structured_outputs_of_vllm(client, outputs, is_right) -> None:
    extra = {"structured_outputs": outputs}
    assert is_right(ask(client, extra_body=extra).choices[0].message.content)
    asked = {"model": "tiny", "prompt": "x", "max_tokens": 40, "extra_body": extra}
    assert is_right(client.completions.create(**asked).choices[0].text)


@pytest.mark.parametrize("choice", ["required", "named"])
@pytest.mark.parametrize("is_parallel", [True, False])
def test_forced_calls_are_of_the_tools(client, choice: str, is_parallel: bool) -> None:
    named = {"type": "function", "function": {"name": "time"}}
    asked = {
        "tools": TOOLS, "tool_choice": named if choice == "named" else choice, "seed": 5, "n": 3,
        "parallel_tool_calls": is_parallel, "max_tokens": 2500,
    }  # fmt: skip
    whole = ask(client, **asked)
    calls: dict[int, dict[int, dict[str, str]]] = {}
    num_deltas = 0
    finishes = {}
    for chunk in ask(client, **asked, stream=True):
        (part,) = chunk.choices
        finishes[part.index] = part.finish_reason
        for delta in part.delta.tool_calls or ():
            mine = calls.setdefault(part.index, {})
            is_first = delta.index not in mine
            assert (delta.id is None, delta.type, delta.function.name is None) == (
                not is_first, "function" if is_first else None, not is_first
            )  # fmt: skip
            assert (delta.function.arguments == "") == is_first
            made = mine.setdefault(delta.index, {"name": delta.function.name, "arguments": ""})
            made["arguments"] += delta.function.arguments
            num_deltas += 1
    for one in whole.choices:
        assert one.message.content is None
        assert one.finish_reason == ("stop" if choice == "named" else "tool_calls")
        assert finishes[one.index] == one.finish_reason
        made = [call.function for call in one.message.tool_calls]
        assert len(made) == 1 or (is_parallel and choice == "required")
        for call in made:
            (tool,) = [t["function"] for t in TOOLS if t["function"]["name"] == call.name]
            jsonschema.validate(json.loads(call.arguments), tool["parameters"])
            assert choice == "required" or call.name == "time"
        streamed = list(calls[one.index].values())
        assert streamed == [{"name": m.name, "arguments": m.arguments} for m in made]
    ids = [call.id for one in whole.choices for call in one.message.tool_calls]
    assert len(set(ids)) == len(ids)
    assert num_deltas > 4 * len(ids)


def test_auto_and_none_leave_the_model_free_and_a_history_of_calls_is_rendered(client) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "time", "arguments": '{"a": 1}'}}
    history = [
        *SAID,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "noon"},
    ]
    for choice in ("auto", "none"):
        answer = ask(client, messages=history, tools=TOOLS, tool_choice=choice, max_tokens=5)
        assert answer.choices[0].message.tool_calls is None
        assert answer.choices[0].finish_reason in ("length", "stop")
    used = [
        ask(client, tools=TOOLS, tool_choice=choice, max_tokens=1).usage.prompt_tokens
        for choice in ("auto", "none")
    ]
    assert used[0] > used[1]


def test_auto_with_a_schema_answers_or_calls(client) -> None:
    answer = ask(client, tools=TOOLS, response_format=NAMED, n=3, seed=2, max_tokens=2500)
    for choice in answer.choices:
        if choice.finish_reason == "tool_calls":
            assert choice.message.tool_calls
        else:
            jsonschema.validate(json.loads(choice.message.content), SCHEMA)


def format_of(schema: dict[str, object]) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"response_format": format_of({"type": "no"})}, "response_format", "no"),
        ({"response_format": format_of({"uniqueItems": True, "type": "array"})},
         "response_format", "uniqueItems"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "Missing"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "xml"),
        ({"response_format": NAMED, "extra_body": {"ignore_eos": True}}, "ignore_eos", "end"),
        ({"response_format": NAMED, "extra_body": {"min_tokens": 2}}, "min_tokens", "end"),
        ({"tool_choice": "required"}, "tool_choice", "tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "x"}}},
         "tool_choice", "'x'"),
        ({"tools": TOOLS * 2}, "tools", "weather"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 5}}}],
          "tool_choice": "required"}, "tools[0].function.parameters", "'object'"),
        ({"tools": [{"type": "function", "function": {"name": "f", "parameters":
                     {"properties": {"a": {"type": "no"}}, "required": ["a"]}}}],
          "tool_choice": "required"}, "tools[0].function.parameters", "decoding"),
        ({"response_format": format_of({"allOf": [{"$ref": "#"}]})}, "response_format", "decoding"),
        ({"extra_body": {"structured_outputs": {"grammar": 'start: a\na: a | "x" a'}},
          "max_tokens": 900}, "structured_outputs.grammar", "Too many items"),
        ({"extra_body": {"structured_outputs": {"choice": ["a"], "regex": "b"}}},
         "structured_outputs", "one of"),
        ({"extra_body": {"structured_outputs": {"regex": "("}}}, "structured_outputs.regex", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_constrained_is_named(client, fields, param: str, words: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, **fields)
    assert caught.value.param == param
    assert words in caught.value.body["message"]


def test_fields_without_effect_are_told_in_a_header(client) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="tiny", messages=SAID, store=True, verbosity="low", max_tokens=1
    )
    assert raw.headers["x-evoserve-ignored"] == "store, verbosity"
    plain = client.chat.completions.with_raw_response.create(
        model="tiny", messages=SAID, max_tokens=1
    )
    assert "x-evoserve-ignored" not in plain.headers


def test_obfuscation_evens_out_the_sizes_of_chunks(client) -> None:
    options = {"include_obfuscation": True}
    chunks = list(ask(client, stream=True, stream_options=options, max_tokens=20, seed=1))
    assert all(set(chunk.to_dict()["obfuscation"]) == {"0"} for chunk in chunks)


def test_a_suffix_is_filled_in_with_the_models_own_tokens(client, server) -> None:
    asked = {"model": "tiny", "max_tokens": 4, "temperature": 0}
    filled = client.completions.create(**asked, prompt="ab", suffix="cd", echo=True, logprobs=0)
    by_hand = "<|fim_prefix|>ab<|fim_suffix|>cd<|fim_middle|>"
    plain = client.completions.create(**asked, prompt=by_hand)
    assert filled.choices[0].text == "ab" + plain.choices[0].text
    assert filled.choices[0].logprobs.tokens[:2] == ["a", "b"]
    assert filled.usage.prompt_tokens == plain.usage.prompt_tokens == 7
