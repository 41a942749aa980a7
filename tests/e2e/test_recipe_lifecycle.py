"""A real server whose recipes change while OpenAI's own client uses it."""

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import openai
import pytest
from live_server import running

from evoserve.cli.main import main
from evoserve.manifest.canonical import model_id
from evoserve.manifest.load import load_manifest

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "models" / "recipes"
PROMPT = "12 + 30 = ?"


def file_of(name: str) -> Path:
    return RECIPES / f"mini-{name}.json"


def id_of(name: str) -> str:
    return model_id(load_manifest(file_of(name)))


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    """A server with three recipes registered, none loaded."""
    with running() as found:
        for name in ("ties", "ps-dfs", "dfs"):
            assert register(found, name).status_code == 201
        yield found


def register(url: str, name: str) -> httpx.Response:
    return httpx.post(f"{url}/v1/recipes", json=json.loads(file_of(name).read_text()), timeout=60)


def point(url: str, alias: str, *targets: tuple[str, float]) -> httpx.Response:
    body = {"targets": [{"recipe": recipe, "weight": weight} for recipe, weight in targets]}
    return httpx.put(f"{url}/v1/aliases/{alias}", json=body, timeout=60)


def client_of(url: str) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="any", max_retries=0, timeout=60)


async def stream_text(client: openai.AsyncOpenAI, model: str, count: int) -> tuple[str, str]:
    """(recipe by its header, text) of one greedy stream, every chunk of the same recipe."""
    raw = await client.completions.with_raw_response.create(
        model=model,
        prompt=PROMPT,
        max_tokens=count,
        temperature=0,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    recipe, text = raw.headers["x-evoserve-recipe"], ""
    async for chunk in raw.parse():
        assert chunk.system_fingerprint == "fp_" + recipe.partition("@")[2]
        text += chunk.choices[0].text
        finish = chunk.choices[0].finish_reason
    assert finish == "length"
    return recipe, text


async def test_swaps_under_streaming_load_fail_nothing_and_mix_nothing(url: str) -> None:
    names = ["ties", "ps-dfs", "dfs"]
    assert point(url, "busy", (id_of("ties"), 1)).status_code == 200
    client, admin = client_of(url), httpx.AsyncClient(base_url=url, timeout=60)
    done = asyncio.Event()
    expected = {id_of(name): (await stream_text(client, f"mini-{name}", 40))[1] for name in names}
    assert len(set(expected.values())) == 3

    async def keep_streaming() -> list[tuple[str, str]]:
        found = []
        while not done.is_set():
            found.append(await stream_text(client, "busy", 40))
        return found

    streaming = [asyncio.create_task(keep_streaming()) for _ in range(6)]
    for number in range(9):
        target = id_of(names[(number + 1) % 3])
        answer = await admin.put("/v1/aliases/busy", json={"recipe": target, "retire": True})
        assert answer.status_code == 200, answer.text
        assert (await stream_text(client, "busy", 1))[0] == target
    done.set()
    streams = [each for found in await asyncio.gather(*streaming) for each in found]
    assert {recipe for recipe, _ in streams} == set(expected)
    for recipe, text in streams:
        assert text == expected[recipe]
    await admin.aclose()
    await client.close()


async def test_a_canary_gets_its_share_and_keeps_its_users(url: str) -> None:
    assert point(url, "canary", (id_of("ties"), 3), (id_of("dfs"), 1)).status_code == 200
    client = client_of(url)
    firsts = {}
    for user in (f"user-{number}" for number in range(40)):
        raw = await client.completions.with_raw_response.create(
            model="canary", prompt="1", max_tokens=1, user=user
        )
        firsts[user] = raw.headers["x-evoserve-recipe"]
        assert raw.parse().model == "canary"
    assert 1 <= list(firsts.values()).count(id_of("dfs")) <= 20
    assert point(url, "canary", (id_of("ties"), 1), (id_of("dfs"), 1)).status_code == 200
    for user, first in firsts.items():
        raw = await client.completions.with_raw_response.create(
            model="canary", prompt="1", max_tokens=1, extra_headers={"x-evoserve-sticky": user}
        )
        assert raw.headers["x-evoserve-recipe"] in (first, id_of("dfs"))
    answer = httpx.post(f"{url}/v1/aliases/canary/rollback", timeout=60).json()
    assert [each["weight"] for each in answer["targets"]] == [3, 1]
    history = httpx.get(f"{url}/v1/aliases/canary").json()["history"]
    assert [(each["version"], each["action"]) for each in history] == [
        (3, "rollback"),
        (2, "set"),
        (1, "set"),
    ]
    await client.close()


def test_a_bad_manifest_leaves_the_old_recipe_serving(url: str) -> None:
    point(url, "safe", (id_of("ties"), 1))
    document = json.loads(file_of("dfs").read_text())
    document["sources"]["ja"]["digest"] = "sha256:" + "0" * 64
    answer = httpx.post(f"{url}/v1/recipes", json=document, timeout=60)
    assert answer.status_code == 400
    assert "'ja'" in answer.json()["error"]["message"]
    document["path"] = ["nobody[0]"]
    answer = httpx.post(f"{url}/v1/recipes", json=document, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_manifest")
    assert "nobody" in answer.json()["error"]["message"]
    assert point(url, "safe", ("nobody", 1)).status_code == 404
    assert httpx.get(f"{url}/v1/models/safe").json()["root"] == id_of("ties")


def test_aliased_recipes_cannot_be_deleted_and_yaml_can_be_registered(url: str) -> None:
    point(url, "held", (id_of("dfs"), 1))
    answer = httpx.delete(f"{url}/v1/recipes/{id_of('dfs')}")
    assert (answer.status_code, answer.json()["error"]["code"]) == (409, "conflict")
    text = "format: evoserve/1\nname: plain\nsources: {base: {model: mini/base}}\n"
    headers = {"Content-Type": "application/yaml"}
    card = httpx.post(f"{url}/v1/recipes", content=text, headers=headers, timeout=60).json()
    assert (card["name"], card["state"], card["loaded"]) == ("plain", "registered", None)
    assert httpx.post(f"{url}/v1/completions", json={"model": "plain", "prompt": "1"}).is_success
    shown = httpx.get(f"{url}/v1/recipes/plain").json()
    assert (shown["state"], shown["manifest"]["name"]) == ("ready", "plain")
    assert httpx.delete(f"{url}/v1/recipes/plain", timeout=60).json()["deleted"] is True
    answer = httpx.post(f"{url}/v1/completions", json={"model": "plain", "prompt": "1"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")


def test_events_tell_a_load_that_nobody_waits_for(url: str) -> None:
    register(url, "slerp")
    with httpx.stream("GET", f"{url}/v1/recipes/events", timeout=60) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        lines = stream.iter_lines()
        assert next(lines) == ": hello"
        answer = httpx.post(f"{url}/v1/recipes/mini-slerp/load?wait=false")
        assert (answer.status_code, answer.json()["state"]) == (202, "queued")
        states = []
        for line in lines:
            if line.startswith("data: "):
                event = json.loads(line[6:])
                states.append(event["state"])
                assert event["recipe"] == id_of("slerp")
            if states[-1:] == ["ready"]:
                break
    assert states[0] == "queued"
    assert "building" in states


def test_an_open_stream_of_events_does_not_hold_the_server_up() -> None:
    with running() as url:
        stream = httpx.Client(timeout=60).stream("GET", f"{url}/v1/recipes/events")
        answer = stream.__enter__()
        next(answer.iter_lines())
        start = time.monotonic()
    assert time.monotonic() - start < 30  # `running` has seen the server end
    stream.__exit__(None, None, None)


def test_a_restart_serves_the_same_aliases(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    body = {"model": "prod", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    answers = []
    with running(file) as url:
        register(url, "ps-dfs")
        point(url, "prod", ("mini-ps-dfs", 1))
        answers.append(httpx.post(f"{url}/v1/completions", json=body, timeout=60).json())
    with running(file) as url:
        assert httpx.get(f"{url}/ready").status_code == 200
        answers.append(httpx.post(f"{url}/v1/completions", json=body, timeout=60).json())
    assert answers[0]["choices"] == answers[1]["choices"]
    assert answers[0]["system_fingerprint"] == answers[1]["system_fingerprint"]


Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Call the command: (exit code, what it printed)."""
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["evoserve", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        captured = capsys.readouterr()
        return int(caught.value.code or 0), captured.out + captured.err

    return call


def test_the_command_line_does_all_of_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ties, dfs = id_of("ties"), id_of("dfs")
    with running(admin_key="adm") as url:
        monkeypatch.setenv("EVOSERVE_URL", url)
        code, text = run("recipes", "list")
        assert (code, "admin key" in text) == (2, True)
        monkeypatch.setenv("EVOSERVE_ADMIN_KEY", "adm")
        steps = [
            (("recipes", "register", str(file_of("ties"))), f"{ties} registered"),
            (("recipes", "register", str(file_of("dfs")), "--load"), f"{dfs} ready"),
            (("recipes", "load", "mini-ties"), f"{ties} ready"),
            (("recipes", "pin", "mini-ties"), f"{ties} ready, pinned"),
            (("recipes", "unpin", "mini-ties"), f"{ties} ready\n"),
            (("aliases", "set", "a/b", "mini-ties=3", "mini-dfs"), f"{ties}=3, {dfs}=1"),
            (("aliases", "set", "a/b", "mini-dfs", "--retire"), "(version 2, set)"),
            (("aliases", "rollback", "a/b"), f"{ties}=3, {dfs}=1 (version 3, rollback)"),
            (("aliases", "show", "a/b"), "version 1, set"),
            (("aliases", "list"), "a/b -> "),
            (("recipes", "list"), "a/b"),
            (("recipes", "show", "mini-dfs"), '"path"'),
            (("aliases", "delete", "a/b"), "a/b deleted"),
            (("recipes", "unload", "mini-dfs"), f"{dfs} registered"),
            (("recipes", "delete", "mini-dfs"), f"{dfs} deleted"),
        ]
        for arguments, expected in steps:
            code, text = run(*arguments)
            assert code == 0, text
            assert expected in text
        code, text = run("recipes", "load", "mini-dfs")
        assert code == 2
        assert "There is no recipe 'mini-dfs'" in text
        code, text = run("aliases", "set", "x", "mini-ties=heavy")
        assert (code, "mini-ties=heavy" in text) == (2, True)
    code, text = run("recipes", "list")
    assert code == 2
    assert "no server answers" in text
