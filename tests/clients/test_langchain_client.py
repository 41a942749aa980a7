"""langchain-openai: chat, streams, tools and structured answers through `ChatOpenAI`."""

import json

import jsonschema
import openai
import pytest
from pydantic import BaseModel, Field

pytest.importorskip("langchain_openai", reason="the extra `clients` is not installed")

from langchain_core.messages import AIMessageChunk, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

MESSAGES = [SystemMessage("be"), HumanMessage("hi")]
SAID = [{"role": "system", "content": "be"}, {"role": "user", "content": "hi"}]


class Pet(BaseModel):
    """A pet."""

    kind: str = Field(pattern="^(cat|dog)$")
    is_good: bool


@tool
def weather(is_now: bool) -> str:
    """The weather of a place."""
    return f"rain, {is_now}"


@pytest.fixture(scope="module")
def make_chat(server):
    def make(**options: object) -> ChatOpenAI:
        asked = {"model": "tiny", "temperature": 0, "max_tokens": 24, **options}
        return ChatOpenAI(base_url=server.url, api_key="any", max_retries=0, timeout=60, **asked)

    return make


def test_a_chat_is_what_transformers_says(make_chat, oracle) -> None:
    expected = oracle.chat(SAID, 24)
    answer = make_chat().invoke(MESSAGES)
    assert answer.content == expected.text
    assert answer.response_metadata["finish_reason"] == expected.finish_reason
    assert answer.response_metadata["model_name"] == "tiny"
    assert answer.response_metadata["system_fingerprint"].startswith("fp_")
    assert answer.usage_metadata["input_tokens"] == expected.prompt_tokens
    assert answer.usage_metadata["output_tokens"] == expected.completion_tokens


def test_a_stream_adds_up_to_the_whole_answer(make_chat) -> None:
    whole = make_chat().invoke(MESSAGES)
    chunks = list(make_chat(stream_usage=True).stream(MESSAGES))
    total = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert len(chunks) > 5
    assert total.content == whole.content
    assert total.response_metadata["finish_reason"] == whole.response_metadata["finish_reason"]
    numbers = ("input_tokens", "output_tokens", "total_tokens")
    assert [total.usage_metadata[name] for name in numbers] == [
        whole.usage_metadata[name] for name in numbers
    ]


async def test_an_asynchronous_batch_answers_every_prompt(make_chat) -> None:
    answers = await make_chat().abatch([MESSAGES, [HumanMessage("ho")], MESSAGES])
    assert answers[0].content == answers[2].content != answers[1].content


def test_a_tool_is_called_and_its_result_sent_back(make_chat) -> None:
    chat = make_chat(max_tokens=2500).bind_tools([weather], tool_choice="required")
    answer = chat.invoke(MESSAGES, parallel_tool_calls=False)
    (call,) = answer.tool_calls
    assert (call["name"], call["args"].keys()) == ("weather", {"is_now"})
    assert answer.response_metadata["finish_reason"] == "tool_calls"
    result = ToolMessage(weather.invoke(call["args"]), tool_call_id=call["id"])
    history = [*MESSAGES, answer, result]
    following = make_chat().bind_tools([weather]).invoke(history)
    assert following.usage_metadata["input_tokens"] > answer.usage_metadata["input_tokens"]


def test_a_streamed_call_grows_from_chunk_to_chunk(make_chat) -> None:
    chat = make_chat(max_tokens=2500).bind_tools([weather], tool_choice="weather")
    chunks = [chunk for chunk in chat.stream(MESSAGES) if chunk.tool_call_chunks]
    parts = [part for chunk in chunks for part in chunk.tool_call_chunks]
    assert [part["name"] for part in parts] == ["weather"] + [None] * (len(parts) - 1)
    assert len(parts) > 4
    total: AIMessageChunk = chunks[0]
    for chunk in chunks[1:]:
        total += chunk
    assert total.tool_calls[0]["args"] == json.loads("".join(part["args"] for part in parts))
    assert total.tool_calls[0]["args"] == chat.invoke(MESSAGES).tool_calls[0]["args"]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_a_structured_answer_is_parsed(make_chat, method: str) -> None:
    chat = make_chat(max_tokens=2500).with_structured_output(Pet, method=method, include_raw=True)
    answer = chat.invoke(MESSAGES)
    assert answer["parsing_error"] is None
    assert isinstance(answer["parsed"], Pet)
    jsonschema.validate(answer["parsed"].model_dump(), Pet.model_json_schema())


def test_errors_are_openais_own(make_chat) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        make_chat(model="nobody").invoke(MESSAGES)
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as wrong:
        list(make_chat(temperature=3).stream(MESSAGES))
    assert wrong.value.param == "temperature"
