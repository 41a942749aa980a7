"""/tokenize and /detokenize: nothing that is sent is left out."""

import pytest

MESSAGES = [{"role": "user", "content": "hi"}]
TOOL = {"type": "function", "function": {"name": "f"}}


def refused(refusing_client, path: str, body: dict[str, object]) -> tuple[str, str]:
    answer = refusing_client.post(path, json=body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    return error["param"], error["message"]


def test_ids_of_the_vocabulary_become_text(refusing_client) -> None:
    tokens = [*b"a", 256, *b"b"]
    answer = refusing_client.post("/detokenize", json={"tokens": tokens})
    assert answer.json() == {"prompt": "a<|end|>b"}


@pytest.mark.parametrize("wrong", [257, 2**31 - 1])
def test_an_id_outside_the_vocabulary_is_named_with_the_range(refusing_client, wrong: int) -> None:
    param, message = refused(refusing_client, "/detokenize", {"tokens": [97, wrong, 98]})
    assert param == "tokens[1]"
    assert f"'tokens[1]': {wrong} " in message
    assert "from 0 to 256" in message


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "a", "tools": [TOOL]}, "tools"),
        ({"prompt": "a", "add_generation_prompt": False}, "add_generation_prompt"),
        ({"messages": MESSAGES, "tools": [TOOL, TOOL]}, "tools"),
        ({"messages": MESSAGES, "tools": [{**TOOL, "type": "x"}]}, "tools[0].type"),
        ({"messages": MESSAGES, "prompt": "a"}, "prompt"),
    ],
)
def test_what_cannot_be_honoured_is_refused(refusing_client, fields, param: str) -> None:
    assert refused(refusing_client, "/tokenize", fields)[0] == param
