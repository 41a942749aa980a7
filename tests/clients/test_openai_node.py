"""OpenAI's client for Node: one run of `node/answers.mjs`, what came is looked at here."""

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import jsonschema
import pytest

FOLDER = Path(__file__).parent / "node"
OLDEST_NODE = 20
SAID = [{"role": "user", "content": "hi"}]
SCHEMA = {
    "type": "object",
    "properties": {"kind": {"enum": ["cat", "dog"]}, "is_good": {"type": "boolean"}},
    "required": ["kind", "is_good"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "pet", "parameters": SCHEMA}}]


@pytest.fixture(scope="module")
def installed(request: pytest.FixtureRequest) -> Path:
    """The locked packages beside the script, in a folder of pytest's cache that is kept."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("node and npm are not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True)
    if int(version.stdout.strip().lstrip("v").partition(".")[0]) < OLDEST_NODE:
        pytest.skip(f"openai for Node needs Node {OLDEST_NODE}, not {version.stdout.strip()}")
    lock = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()[:16]
    folder = request.config.cache.mkdir("node-clients") / lock
    if not folder.exists():
        _install(folder)
    shutil.copy(FOLDER / "answers.mjs", folder)
    return folder


def _install(folder: Path) -> None:
    """Into a folder of its own first, so that a run that is cut off leaves nothing half done."""
    building = folder.with_name(f"{folder.name}-{os.getpid()}")
    shutil.copytree(FOLDER, building)
    command = ["npm", "ci", "--no-audit", "--no-fund"]
    try:
        done = subprocess.run(
            command, cwd=building, capture_output=True, text=True, timeout=180, check=False
        )
        if done.returncode:
            pytest.skip(f"npm ci failed: {done.stderr.strip()[-300:]}")
        if not folder.exists():
            building.rename(folder)
    except subprocess.TimeoutExpired:
        pytest.skip("npm ci took more than 180 seconds")
    finally:
        shutil.rmtree(building, ignore_errors=True)


@pytest.fixture(scope="module")
def said(installed: Path, server) -> dict:
    given = json.dumps({"messages": SAID, "tools": TOOLS, "schema": SCHEMA})
    command = ["node", "answers.mjs", server.url, given]
    done = subprocess.run(
        command, cwd=installed, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_lock_file_names_no_registry() -> None:
    packages = json.loads((FOLDER / "package-lock.json").read_text())["packages"]
    assert packages["node_modules/openai"]["integrity"].startswith("sha512-")
    assert not any("resolved" in package for package in packages.values())


def test_a_chat_is_what_transformers_says(said, oracle) -> None:
    expected = oracle.chat(SAID, 24)
    (choice,) = said["whole"]["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (
        expected.text,
        expected.finish_reason,
    )
    usage = said["whole"]["usage"]
    assert usage["prompt_tokens"] == expected.prompt_tokens
    assert usage["completion_tokens"] == expected.completion_tokens
    assert said["response"]["output_text"] == expected.text
    assert said["response"]["usage"]["output_tokens"] == expected.completion_tokens


def test_a_streamed_chat_is_the_whole_one_in_pieces(said) -> None:
    *chunks, last = said["chunks"]
    text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
    whole = said["whole"]
    assert text == whole["choices"][0]["message"]["content"]
    assert chunks[-1]["choices"][0]["finish_reason"] == whole["choices"][0]["finish_reason"]
    assert last["choices"] == []
    numbers = ("prompt_tokens", "completion_tokens", "total_tokens")
    assert [last["usage"][name] for name in numbers] == [whole["usage"][name] for name in numbers]


def test_a_call_comes_whole_in_deltas_and_put_together_by_the_client(said) -> None:
    (whole,) = said["call"]["choices"]
    (call,) = whole["message"]["tool_calls"]
    assert call["function"]["name"] == "pet"
    jsonschema.validate(json.loads(call["function"]["arguments"]), SCHEMA)
    deltas = [
        delta
        for chunk in said["call_chunks"]
        for choice in chunk["choices"]
        for delta in choice["delta"].get("tool_calls", ())
    ]
    assert deltas[0]["function"] == {"name": "pet", "arguments": ""}
    rest = [delta["function"]["arguments"] for delta in deltas[1:]]
    assert len(rest) > 3
    assert "".join(rest) == call["function"]["arguments"]
    (made,) = said["assembled"]["choices"]
    assert made["finish_reason"] == whole["finish_reason"] == "tool_calls"
    (again,) = made["message"]["tool_calls"]
    assert again["function"]["arguments"] == call["function"]["arguments"]
    assert said["assembled"]["usage"]["total_tokens"] == said["call"]["usage"]["total_tokens"]


def test_a_structured_answer_fits_its_schema(said) -> None:
    (choice,) = said["structured"]["choices"]
    assert choice["finish_reason"] == "stop"
    jsonschema.validate(json.loads(choice["message"]["content"]), SCHEMA)


def test_a_completion_has_its_logprobs(said, oracle) -> None:
    (choice,) = said["completion"]["choices"]
    ids = oracle.greedy(oracle.encode("ab"), 5)
    assert choice["text"] == oracle.tokenizer.decode(ids)
    assert (choice["finish_reason"], len(choice["logprobs"]["tokens"])) == ("length", 5)
    total, _ = oracle.score(oracle.encode("ab"), ids)
    assert sum(choice["logprobs"]["token_logprobs"]) == pytest.approx(total, abs=1e-4)


def test_models_are_listed(said, client) -> None:
    assert said["models"] == [model.id for model in client.models.list()]
    assert "tiny" in said["models"]


def test_errors_become_the_clients_own_classes(said) -> None:
    assert said["unknown"] == {
        "kinds": ["NotFoundError"], "status": 404, "code": "model_not_found", "param": "model",
    }  # fmt: skip
    assert said["wrong"] == {
        "kinds": ["BadRequestError"], "status": 400, "code": "invalid_value",
        "param": "temperature",
    }  # fmt: skip
