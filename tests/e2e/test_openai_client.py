"""What OpenAI's own client sees, against transformers and against itself."""

import asyncio
import json
from pathlib import Path

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM

from evoserve.tokenizer import load_tokenizer

MINI = Path(__file__).parents[2] / "models" / "mini" / "base"
MESSAGES = [{"role": "user", "content": "12+7=?"}]
JAPANESE = [{"role": "user", "content": "りんごが12こ🍎。7こ買うと?"}]
GREEDY = {"model": "tiny", "messages": MESSAGES, "temperature": 0, "max_tokens": 24}


@pytest.fixture(scope="module", params=["random", *(["mini"] if MINI.exists() else [])])
def folder(request, folder):
    """The random model, and the trained one of the mini zoo."""
    return MINI if request.param == "mini" else folder


@pytest.fixture(scope="module")
def live(folder, serve_folder):
    yield from serve_folder(folder)


@pytest.fixture(scope="module")
def client(live):
    return live.client()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return load_tokenizer(folder)


@pytest.fixture(scope="module")
def reference(folder):
    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def scores(reference, token_ids: list[int]) -> torch.Tensor:
    """Log-probabilities (num_tokens, vocab) of what follows each token."""
    with torch.no_grad():
        logits = reference(torch.tensor([token_ids])).logits[0].float()
    return torch.log_softmax(logits, -1)


def greedy(reference, token_ids: list[int], count: int, eos: frozenset[int]) -> list[int]:
    generated: list[int] = []
    while len(generated) < count and not (generated and generated[-1] in eos):
        generated.append(int(scores(reference, token_ids + generated)[-1].argmax()))
    return generated


def test_a_chat_completion_is_what_transformers_says(live, client, tokenizer, reference) -> None:
    raw = client.chat.completions.with_raw_response.create(**GREEDY)
    answer = raw.parse()
    prompt = tokenizer.encode_chat(MESSAGES)
    expected = greedy(reference, prompt, 24, tokenizer.eos_token_ids)
    is_ended = expected[-1] in tokenizer.eos_token_ids
    choice = answer.choices[0]
    assert choice.message.content == tokenizer.decode(expected[:-1] if is_ended else expected)
    assert choice.finish_reason == ("stop" if is_ended else "length")
    assert answer.usage.prompt_tokens == len(prompt)
    assert answer.usage.completion_tokens == len(expected)
    assert answer.usage.total_tokens == len(prompt) + len(expected)
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    assert raw.headers["x-evoserve-recipe"] == live.model_id
    assert answer.system_fingerprint == "fp_" + live.model_id.partition("@")[2]


def test_the_body_has_openais_fields(live) -> None:
    body = httpx.post(f"{live.url}/v1/chat/completions", json=GREEDY).json()
    assert list(body) == [
        "id", "object", "created", "model", "system_fingerprint", "choices", "usage",
    ]  # fmt: skip
    assert body["id"].startswith("chatcmpl-")
    assert (body["object"], body["model"]) == ("chat.completion", "tiny")
    choice = body["choices"][0]
    assert list(choice) == ["index", "message", "logprobs", "finish_reason"]
    assert choice["logprobs"] is None
    assert list(choice["message"]) == ["role", "content", "refusal"]
    assert choice["message"]["refusal"] is None


def test_a_stream_adds_up(client) -> None:
    whole = client.chat.completions.create(**GREEDY)
    options = {"include_usage": True}
    chunks = list(client.chat.completions.create(**GREEDY, stream=True, stream_options=options))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert chunks[-2].choices[0].delta.content is None
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize("messages", [MESSAGES, JAPANESE])
def test_deltas_of_any_text_are_the_full_text(client, messages) -> None:
    asked = {
        "model": "tiny", "messages": messages, "n": 8, "seed": 7, "temperature": 1.5,
        "max_tokens": 48, "extra_body": {"ignore_eos": True},
    }  # fmt: skip
    whole = client.chat.completions.create(**asked)
    texts = dict.fromkeys(range(8), "")
    for chunk in client.chat.completions.create(**asked, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert [choice.index for choice in whole.choices] == list(range(8))
    assert len(set(texts.values())) > 1
    assert whole.usage.completion_tokens == 8 * 48


def test_a_seed_repeats_and_another_differs(client) -> None:
    def ask(seed: int) -> str:
        asked = {**GREEDY, "temperature": 1.0, "seed": seed}
        extra = {"ignore_eos": True}
        return client.chat.completions.create(**asked, extra_body=extra).choices[0].message.content

    assert ask(1) == ask(1)
    assert ask(1) != ask(2)


def test_a_stop_string_ends_the_text(client) -> None:
    asked = {**GREEDY, "max_tokens": 48}
    full = client.chat.completions.create(**asked).choices[0].message.content
    middle = len(full) // 2
    stop = full[middle : middle + 3]
    assert stop
    stopped = client.chat.completions.create(**asked, stop=stop)
    assert stopped.choices[0].message.content == full[: full.index(stop)]
    assert stopped.choices[0].finish_reason == "stop"
    chunks = client.chat.completions.create(**asked, stop=["never said", stop], stream=True)
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == full[: full.index(stop)]


def test_logprobs_are_those_of_transformers(client, tokenizer, reference) -> None:
    asked = {**GREEDY, "extra_body": {"ignore_eos": True}}
    answer = client.chat.completions.create(**asked, logprobs=True, top_logprobs=3)
    prompt = tokenizer.encode_chat(MESSAGES)
    content = answer.choices[0].logprobs.content
    assert len(content) == 24
    expected = greedy(reference, prompt, 24, frozenset())
    rows = scores(reference, prompt + expected)
    for index, token in enumerate(content):
        row = rows[len(prompt) - 1 + index]
        assert bytes(token.bytes) == tokenizer.token_bytes(expected[index])
        assert token.logprob == pytest.approx(float(row[expected[index]]), abs=1e-3)
        tops = [top.logprob for top in token.top_logprobs]
        assert tops == pytest.approx(row.topk(3).values.tolist(), abs=1e-3)
        assert token.top_logprobs[0].bytes == token.bytes


def test_echoed_logprobs_score_a_text(client, tokenizer, reference) -> None:
    prompt = tokenizer.encode("3+4=7", add_special_tokens=False)
    answer = client.completions.create(
        model="tiny", prompt=prompt, max_tokens=1, echo=True, logprobs=1, temperature=0
    )
    logprobs = answer.choices[0].logprobs
    rows = scores(reference, prompt)
    expected = [float(rows[index, token]) for index, token in enumerate(prompt[1:])]
    assert logprobs.token_logprobs[0] is None
    assert logprobs.token_logprobs[1 : len(prompt)] == pytest.approx(expected, abs=1e-3)
    assert answer.choices[0].text.startswith("3+4=7")
    assert logprobs.text_offset[0] == 0
    only = client.completions.create(
        model="tiny", prompt="3+4=7", max_tokens=0, echo=True, temperature=0
    )
    assert (only.choices[0].text, only.usage.completion_tokens) == ("3+4=7", 0)


@pytest.mark.parametrize("count", [0, 2])
def test_the_token_that_came_is_among_the_scored_ones(client, count: int) -> None:
    answer = client.completions.create(
        model="tiny", prompt="12+7=", max_tokens=12, logprobs=count, temperature=2, seed=5
    )
    logprobs = answer.choices[0].logprobs
    rows = zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True)
    for token, logprob, top in rows:
        assert top[token] == logprob
        assert count <= len(top) <= count + 1


def test_an_echo_of_ids_has_its_special_tokens_if_they_are_wanted(client, tokenizer) -> None:
    (end,) = tokenizer.eos_token_ids
    prompt = [end, *tokenizer.encode("3+4", add_special_tokens=False)]
    for is_skipped in (True, False):
        answer = client.completions.create(
            model="tiny",
            prompt=prompt,
            max_tokens=0,
            echo=True,
            extra_body={"skip_special_tokens": is_skipped},
        )
        assert answer.choices[0].text == tokenizer.decode(prompt, is_skipped)


def test_prompts_come_in_four_forms(client, tokenizer) -> None:
    texts = ["3+4=", "5+6="]
    ids = [tokenizer.encode(text) for text in texts]

    def ask(prompt, **more):
        answer = client.completions.create(model="tiny", prompt=prompt, temperature=0, **more)
        return [choice.text for choice in answer.choices]

    both = ask(texts)
    assert [*ask(texts[0]), *ask(texts[1])] == both
    assert ask(ids) == both
    assert ask(ids[0]) == both[:1]
    assert ask(texts, n=2) == [both[0], both[0], both[1], both[1]]
    assert ask(texts, best_of=1) == both
    parts = dict.fromkeys(range(2), "")
    for chunk in client.completions.create(model="tiny", prompt=texts, temperature=0, stream=True):
        parts[chunk.choices[0].index] += chunk.choices[0].text
    assert list(parts.values()) == both


def test_a_biased_token_is_all_that_is_said(client, tokenizer) -> None:
    token = tokenizer.encode("7", add_special_tokens=False)[-1]
    answer = client.chat.completions.create(**GREEDY, logit_bias={str(token): 100})
    assert answer.choices[0].message.content == tokenizer.decode([token] * 24)
    ended = client.chat.completions.create(
        **GREEDY, logit_bias={str(token): 100}, extra_body={"stop_token_ids": [token]}
    )
    assert (ended.choices[0].message.content, ended.choices[0].finish_reason) == ("", "stop")
    assert ended.usage.completion_tokens == 1


def test_models_are_listed_under_all_their_names(live, client) -> None:
    cards = client.models.list().data
    assert [card.id for card in cards] == [live.model_id, "tiny", "alias/one"]
    assert {card.model_extra["root"] for card in cards} == {live.model_id}
    card = httpx.get(f"{live.url}/v1/models/alias/one").json()
    assert (card["id"], card["root"]) == ("alias/one", live.model_id)
    assert client.models.retrieve("tiny").object == "model"
    answer = client.chat.completions.create(**{**GREEDY, "model": "alias/one"})
    assert answer.model == "alias/one"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("nobody")
    assert caught.value.code == "model_not_found"


def test_text_goes_to_tokens_and_back(live, tokenizer) -> None:
    asked = {"model": "tiny", "prompt": "りんご🍎", "return_token_strs": True}
    answer = httpx.post(f"{live.url}/tokenize", json=asked).json()
    assert answer["tokens"] == tokenizer.encode("りんご🍎")
    assert answer["count"] == len(answer["tokens"]) == len(answer["token_strs"])
    assert answer["max_model_len"] > 0
    tokens = tokenizer.encode("りんご🍎", add_special_tokens=False)
    text = httpx.post(f"{live.url}/detokenize", json={"tokens": tokens}).json()
    assert text == {"prompt": "りんご🍎"}
    chat = httpx.post(f"{live.url}/tokenize", json={"messages": MESSAGES}).json()
    assert chat["tokens"] == tokenizer.encode_chat(MESSAGES)


def test_many_streams_at_once_say_what_each_says_alone(live) -> None:
    asked = [
        {**GREEDY, "messages": [{"role": "user", "content": f"{index}+{index}=?"}]}
        for index in range(32)
    ]
    with live.client() as client:
        alone = [client.chat.completions.create(**one).choices[0].message.content for one in asked]

    async def say(client: openai.AsyncOpenAI, one: dict[str, object]) -> str:
        text = ""
        async for chunk in await client.chat.completions.create(**one, stream=True):
            text += chunk.choices[0].delta.content or ""
        return text

    async def together() -> list[str]:
        url = f"{live.url}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
            return await asyncio.gather(*(say(client, one) for one in asked))

    assert asyncio.run(together()) == alone


def test_system_and_developer_are_one_role(client) -> None:
    def ask(role: str) -> str:
        messages = [{"role": role, "content": "x"}, *MESSAGES]
        answer = client.chat.completions.create(**{**GREEDY, "messages": messages})
        return json.dumps(answer.choices[0].message.content)

    assert ask("developer") == ask("system")
