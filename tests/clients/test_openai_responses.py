"""/v1/responses and what counts its prompts, as OpenAI's own client sees them."""

import json
from typing import get_args

import httpx
import openai
import pytest
from openai.types.responses import ResponseStreamEvent
from pydantic import BaseModel

PARAMETERS = {
    "type": "object",
    "properties": {"town": {"enum": ["Bern", "Kyōto"]}},
    "required": ["town"],
    "additionalProperties": False,
}
TOOLS = [
    {"type": "function", "strict": False, "name": name, "parameters": PARAMETERS}
    for name in ("weather", "time")
]
FORCED = {"tools": TOOLS, "tool_choice": "required", "parallel_tool_calls": False}
PET = {"type": "json_schema", "name": "pet", "schema": {"enum": ["cat"]}}
SCORED = {"include": ["message.output_text.logprobs"], "top_logprobs": 2}


def test_a_response_is_the_chat_completion_in_other_words(client) -> None:
    asked = {"temperature": 0, "max_output_tokens": 12}
    said = client.chat.completions.create(
        model="tiny",
        messages=[{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}],
        temperature=0,
        max_tokens=12,
    )
    text = said.choices[0].message.content
    answer = client.responses.create(model="tiny", input="hi", instructions="be", **asked)
    assert answer.output_text == text
    is_cut = said.choices[0].finish_reason == "length"
    assert answer.status == ("incomplete" if is_cut else "completed")
    assert answer.usage.total_tokens == said.usage.total_tokens
    items = [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]
    again = client.responses.create(model="tiny", input=items, instructions="be", **asked)
    assert again.output_text == text


def test_response_events_come_in_openais_order_and_add_up(client) -> None:
    asked = {"model": "tiny", "input": "hi", "temperature": 0, "max_output_tokens": 12}
    events = list(client.responses.create(**asked, stream=True))
    kinds = [event.type for event in events]
    assert [event.sequence_number for event in events] == list(range(len(events)))
    assert kinds[:4] == [
        "response.created", "response.in_progress", "response.output_item.added",
        "response.content_part.added",
    ]  # fmt: skip
    assert kinds[-4:-1] == [
        "response.output_text.done", "response.content_part.done", "response.output_item.done",
    ]  # fmt: skip
    assert kinds[-1] in ("response.completed", "response.incomplete")
    text = "".join(event.delta for event in events if event.type.endswith("text.delta"))
    whole = client.responses.create(**asked)
    assert text == events[-1].response.output_text == whole.output_text
    pet = {"format": {"type": "json_schema", "name": "pet", "schema": {"enum": ["cat"]}}}
    with client.responses.stream(**asked, text=pet) as stream:
        assert stream.get_final_response().output_text == '"cat"'


def test_responses_call_tools_and_take_their_outputs(client) -> None:
    asked = {"model": "tiny", "tools": TOOLS, "tool_choice": "required", "temperature": 0,
             "max_output_tokens": 2500, "parallel_tool_calls": False}  # fmt: skip
    answer = client.responses.create(**asked, input="hi")
    (call,) = answer.output
    assert (call.type, call.status) == ("function_call", "completed")
    assert json.loads(call.arguments).keys() == {"town"}
    events = list(client.responses.create(**asked, input="hi", stream=True))
    kinds = [event.type.removeprefix("response.") for event in events]
    deltas = [event.delta for event in events if event.type.endswith("arguments.delta")]
    assert kinds == [
        "created", "in_progress", "output_item.added",
        *["function_call_arguments.delta"] * len(deltas),
        "function_call_arguments.done", "output_item.done", "completed",
    ]  # fmt: skip
    assert len(deltas) > 3
    assert "".join(deltas) == events[-3].arguments == events[-2].item.arguments
    assert events[-1].response.output[0].arguments == call.arguments == "".join(deltas)
    done = {"type": "function_call_output", "call_id": call.call_id, "output": "noon"}
    history = [{"role": "user", "content": "hi"}, call.model_dump(exclude_none=True), done]
    next_one = client.responses.create(model="tiny", input=history, tools=TOOLS, temperature=0)
    assert next_one.usage.input_tokens > answer.usage.input_tokens


def test_a_response_of_a_schema_is_parsed(client) -> None:
    class Pet(BaseModel):
        is_cat: bool

    answer = client.responses.parse(model="tiny", input="hi", text_format=Pet, temperature=0,
                                    max_output_tokens=200)  # fmt: skip
    assert isinstance(answer.output_parsed, Pet)


EVENTS = {
    get_args(model.model_fields["type"].annotation)[0]: model
    for model in get_args(get_args(ResponseStreamEvent)[0])
}


@pytest.mark.parametrize(
    "fields",
    [
        {"max_output_tokens": 3},
        {"max_output_tokens": 12, **SCORED},
        {"max_output_tokens": 2500, **FORCED},
        {"max_output_tokens": 100, "text": {"format": PET}},
    ],
)
def test_every_event_is_of_openais_type(server, fields) -> None:
    asked = {"model": "tiny", "input": "hi", "temperature": 0, "stream": True, **fields}
    with httpx.stream("POST", f"{server.url}/responses", json=asked, timeout=60) as answer:
        lines = [line for line in answer.iter_lines() if line.startswith("data: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert len(events) > 5
    for event in events:
        EVENTS[event["type"]].model_validate(event)


@pytest.mark.parametrize("fields", [SCORED, FORCED])
def test_an_answer_goes_back_in_as_it_came(client, server, fields) -> None:
    asked = {"model": "tiny", "temperature": 0, **fields}
    first = httpx.post(f"{server.url}/responses", json={**asked, "input": "hi"}).json()
    history = [{"role": "user", "content": "hi"}, *first["output"]]
    raw = httpx.post(f"{server.url}/responses", json={**asked, "input": history}).json()
    parsed = client.responses.create(**asked, input="hi").output
    again = client.responses.create(**asked, input=[history[0], *parsed])
    assert first["usage"]["input_tokens"] < again.usage.input_tokens
    assert raw["usage"]["input_tokens"] == again.usage.input_tokens


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"store": True}, "store"),
        ({"conversation": "c"}, "conversation"),
        ({"background": True}, "background"),
        ({"input": [{"type": "reasoning"}]}, "input[0].type"),
        ({"input": [{"role": "user", "content": "hi", "foo": 1}]}, "input[0].foo"),
        ({"input": []}, "input"),
        ({"tools": [{"type": "web_search"}]}, "tools[0].type"),
        ({"text": {"format": {"type": "json_schema", "schema": {}}}}, "text.format.name"),
        ({"text": {"format": {**PET, "schema": {"type": 5}}}}, "text.format"),
        ({"max_output_tokens": 10**6}, "input"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_response_request_is_named(client, fields, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="tiny", input="hi", extra_body=fields)
    assert caught.value.param == param


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_output_tokens": 10**6}, "are in 'input'"),
        ({"input": [{"role": "user", "content": "hi"}] * 10_000}, "10000 in 'input'"),
        ({"text": {"format": {**PET, "schema": {"type": 5}}}}, "'text.format'"),
        ({"tools": [{**TOOLS[0], "parameters": {"type": 5}}], "tool_choice": "required"},
         "'tools[0].parameters'"),
        ({"top_logprobs": 21}, "'top_logprobs'"),
    ],
)  # fmt: skip
def test_a_refusal_speaks_of_the_fields_of_this_endpoint(client, fields, words: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model="tiny", input="hi", extra_body=fields)
    assert words in caught.value.body["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"reasoning": {"effort": None}},
        {"reasoning": {"effort": "none", "summary": None}},
        {"reasoning": {}},
        {"top_logprobs": 0},
        {"instructions": ""},
    ],
)
def test_what_asks_for_nothing_is_taken(client, fields) -> None:
    answer = client.responses.create(model="tiny", input="hi", max_output_tokens=1, **fields)
    assert answer.usage.output_tokens == 1


def test_a_prompt_of_tools_is_counted_as_the_chat_counts_it(client, server) -> None:
    def count(**fields: object) -> int:
        asked = {"messages": messages, **fields}
        return httpx.post(server.url.removesuffix("v1") + "tokenize", json=asked).json()["count"]

    messages = [{"role": "user", "content": "hi"}]
    nested = [
        {"type": "function", "function": {"name": tool["name"], "parameters": PARAMETERS}}
        for tool in TOOLS
    ]
    told = {"model": "tiny", "messages": messages, "max_tokens": 1}
    for tools in (nested, nested[:1]):
        used = client.chat.completions.create(**told, tools=tools).usage.prompt_tokens
        assert count(model="tiny", tools=tools) == used > count(model="tiny")
