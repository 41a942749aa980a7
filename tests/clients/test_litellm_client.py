"""litellm with the prefix `openai/`: chat, text, streams, tools, and errors as its own classes."""

import json
from types import ModuleType

import pytest

SAID = [{"role": "user", "content": "hi"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "pet",
        "parameters": {
            "type": "object",
            "properties": {"is_good": {"type": "boolean"}},
            "required": ["is_good"],
            "additionalProperties": False,
        },
    },
}
NUMBERS = ("prompt_tokens", "completion_tokens", "total_tokens")


@pytest.fixture(scope="module")
def litellm() -> ModuleType:
    """The library; it must not fetch its table of prices while it is imported."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        return pytest.importorskip("litellm", reason="the extra `clients` is not installed")


@pytest.fixture(scope="module")
def ask(litellm, server):
    def ask(**more: object):
        asked = {"model": "openai/tiny", "messages": SAID, "temperature": 0, "max_tokens": 24}
        return litellm.completion(
            api_base=server.url, api_key="any", num_retries=0, timeout=60, **{**asked, **more}
        )

    return ask


def test_a_chat_is_what_transformers_says(ask, oracle) -> None:
    expected = oracle.chat(SAID, 24)
    answer = ask()
    assert answer.choices[0].message.content == expected.text
    assert answer.choices[0].finish_reason == expected.finish_reason
    assert answer.usage.prompt_tokens == expected.prompt_tokens
    assert answer.usage.completion_tokens == expected.completion_tokens


def test_a_stream_adds_up_to_the_whole_answer(ask) -> None:
    whole = ask()
    chunks = list(ask(stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    finishes = [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices]
    assert whole.choices[0].finish_reason in finishes
    (used,) = [chunk.usage for chunk in chunks if getattr(chunk, "usage", None)]
    assert [used[name] for name in NUMBERS] == [whole.usage[name] for name in NUMBERS]


async def test_it_asks_without_blocking_too(litellm, server, ask) -> None:
    answer = await litellm.acompletion(
        model="openai/tiny", messages=SAID, temperature=0, max_tokens=24, api_base=server.url,
        api_key="any",
    )  # fmt: skip
    assert answer.choices[0].message.content == ask().choices[0].message.content


def test_streamed_calls_are_put_together_by_the_client(litellm, ask) -> None:
    asked = {"tools": [TOOL], "tool_choice": "required", "max_tokens": 2500}
    asked["parallel_tool_calls"] = False
    chunks = list(ask(**asked, stream=True))
    num_deltas = sum(bool(chunk.choices[0].delta.tool_calls) for chunk in chunks)
    built = litellm.stream_chunk_builder(chunks, messages=SAID)
    (made,) = built.choices[0].message.tool_calls
    (whole,) = ask(**asked).choices[0].message.tool_calls
    assert num_deltas > 4
    assert made.function.name == whole.function.name == "pet"
    assert made.function.arguments == whole.function.arguments
    assert json.loads(made.function.arguments).keys() == {"is_good"}
    assert built.choices[0].finish_reason == "tool_calls"


def test_text_is_completed(litellm, server, oracle) -> None:
    answer = litellm.text_completion(
        model="text-completion-openai/tiny", prompt="ab", temperature=0, max_tokens=5,
        api_base=server.url, api_key="any",
    )  # fmt: skip
    ids = oracle.greedy(oracle.encode("ab"), 5)
    assert answer.choices[0].text == oracle.tokenizer.decode(ids)
    assert answer.choices[0].finish_reason == "length"
    assert [answer.usage[name] for name in NUMBERS] == [2, 5, 7]


def test_errors_become_litellms_own_classes(litellm, ask) -> None:
    with pytest.raises(litellm.NotFoundError, match="'nobody' does not exist"):
        ask(model="openai/nobody")
    with pytest.raises(litellm.BadRequestError, match="temperature"):
        ask(temperature=3)
    with pytest.raises(litellm.ContextWindowExceededError, match="maximum context length"):
        ask(max_tokens=10**6)
