"""Prompts of a megabyte: streams go on beside them, and what cannot fit is not tokenized."""

import asyncio
import re
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace

import pytest

from evoserve.lifecycle.served import MAX_LONG_TEXTS
from evoserve.tokenizer import LONG_TEXT_CHARS, Tokenizer

MAX_MODEL_LEN = 256
BYTES_PER_TOKEN = len("<|end|>")  # of the longest token of the toy tokenizer
LONG = "a" * (LONG_TEXT_CHARS + 1)
MESSAGE = {"role": "user", "content": "a"}
MIN_TURNS = 5000  # a megabyte takes 100,000 where they go on, at most 1,000 where they do not


@pytest.fixture
def quick_switches() -> Iterator[None]:
    """A thread that wants the interpreter back gets it, so that turns beside it are few."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before_s)


@pytest.mark.usefixtures("quick_switches")
async def test_the_event_loop_turns_while_a_megabyte_is_tokenized(served, monkeypatch) -> None:
    plain = Tokenizer.encode
    turns = 0
    passed: list[int] = []

    def measured(self: Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
        before = turns
        ids = plain(self, text, add_special_tokens)
        passed.append(turns - before)
        return ids

    monkeypatch.setattr(Tokenizer, "encode", measured)
    roomy = replace(served, max_model_len=2**20)
    encoding = asyncio.create_task(roomy.encode("a b " * 2**18))
    while not encoding.done():
        turns += 1
        await asyncio.sleep(0)
    assert len(await encoding) == 2**20
    assert passed[0] > MIN_TURNS


async def test_few_long_texts_are_tokenized_at_once(served, monkeypatch) -> None:
    entered, opened = threading.Semaphore(0), threading.Event()
    inside: list[int] = []
    num_inside = 0
    lock = threading.Lock()

    def slow(self: Tokenizer, text: str, add_special_tokens: bool) -> list[int]:
        nonlocal num_inside
        with lock:
            num_inside += 1
            inside.append(num_inside)
        entered.release()
        assert opened.wait(10)
        with lock:
            num_inside -= 1
        return []

    monkeypatch.setattr(Tokenizer, "encode", slow)
    roomy = replace(served, max_model_len=2**20, turns=asyncio.Semaphore(MAX_LONG_TEXTS))
    encodings = [asyncio.create_task(roomy.encode(LONG)) for _ in range(MAX_LONG_TEXTS + 3)]
    for _ in range(MAX_LONG_TEXTS):
        assert await asyncio.to_thread(entered.acquire, timeout=10)
    opened.set()
    await asyncio.gather(*encodings)
    assert len(inside) == MAX_LONG_TEXTS + 3
    assert max(inside) == MAX_LONG_TEXTS


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        ("/v1/completions", {"prompt": LONG}, "prompt"),
        ("/v1/chat/completions", {"messages": [{**MESSAGE, "content": LONG}]}, "messages"),
        ("/v1/responses", {"input": LONG}, "input"),
        ("/tokenize", {"prompt": LONG}, "prompt"),
        ("/tokenize", {"messages": [{**MESSAGE, "content": LONG}]}, "messages"),
    ],
)
def test_a_text_that_cannot_fit_is_refused_before_it_is_tokenized(
    refusing_client, monkeypatch, path: str, fields: dict[str, object], param: str
) -> None:
    def refuse(self: Tokenizer, text: str, add_special_tokens: bool = True) -> list[int]:
        raise AssertionError(len(text))

    monkeypatch.setattr(Tokenizer, "encode", refuse)
    answer = refusing_client.post(path, json={"model": "toy", **fields})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded"), error
    assert error["param"] == param
    told = re.search(rf"(\d+) bytes of '{param}' are (\d+) tokens at least", error["message"])
    num_bytes, num_tokens = map(int, told.groups())
    assert len(LONG) <= num_bytes < len(LONG) + 40  # a template adds its own
    assert num_tokens == -(-num_bytes // BYTES_PER_TOKEN)


async def test_a_long_text_that_may_fit_is_counted(served) -> None:
    just = served.tokenizer.max_bytes_per_token * (LONG_TEXT_CHARS // BYTES_PER_TOKEN + 1)
    roomy = replace(served, max_model_len=just // BYTES_PER_TOKEN)
    assert len(await roomy.encode("<|end|>" * (just // BYTES_PER_TOKEN))) == roomy.max_model_len


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/tokenize"])
def test_more_messages_than_tokens_are_refused_before_they_are_rendered(
    refusing_client, monkeypatch, path: str
) -> None:
    rendered: list[int] = []
    plain = Tokenizer.render_chat

    def count(self: Tokenizer, messages, **options) -> str:
        rendered.append(len(messages))
        return plain(self, messages, **options)

    monkeypatch.setattr(Tokenizer, "render_chat", count)
    for number in (MAX_MODEL_LEN, MAX_MODEL_LEN + 1):
        answer = refusing_client.post(path, json={"model": "toy", "messages": [MESSAGE] * number})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (400, "context_length_exceeded")
    assert error["param"] == "messages"
    assert f"{MAX_MODEL_LEN + 1} in 'messages'" in error["message"]
    assert rendered == [MAX_MODEL_LEN]


def test_a_path_that_leads_nowhere_is_told_in_short(refusing_client) -> None:
    message = refusing_client.get("/" + "x" * 60_000).json()["error"]["message"]
    assert "GET /xxx" in message
    assert len(message) < 300
