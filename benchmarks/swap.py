"""Swap under load: clients stream without pause while an alias moves from recipe to recipe.

    python -m benchmarks.swap [--quick] [--swaps 20] [--clients 16] [--vllm-python PATH]
        [--json FILE]

SmolLM2-135M, greedy, 40 to 100 tokens per answer (another length for each client, so that they do
not begin together), streamed over HTTP on loopback. Four recipes take turns on one alias: two
merges of three sources and two paths of 32 and 34 steps, each over a merge of its own, so that
every swap builds all its layers (`retire` frees the old recipe once it is idle). First every recipe
is asked alone for what it says to each prompt. Then the clients stream: some time undisturbed, then
through all swaps. Checked: no request fails; each answer is, whole, what the recipe in its header
says. Reported: silences between two chunks of a stream, over all and during swaps; seconds from the
request for a swap to the moved alias.

Beside it: stopping and starting the server with the new recipe (process start to first token), and
with vLLM's Python (`benchmarks/serve.py` says how to make its environment) writing the merged
checkpoint (by the `export` command, its start counted) and reloading it, during which vLLM answers
nobody; its path cannot change at all.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any, TypedDict

from benchmarks.provenance import ROOT, find_commit, machine, num_cpus
from benchmarks.serve_client import build_body
from benchmarks.serve_prompts import write_prompts
from benchmarks.serve_server import SubjectError, start_server
from benchmarks.serve_subjects import MODEL, Subject
from benchmarks.swap_load import (
    Gaps,
    Heard,
    Stream,
    Window,
    Wish,
    ask_once,
    measure_gaps,
)
from benchmarks.swap_load import stream_without_pause as stream
from benchmarks.swap_recipes import build_recipes, plan_swaps, save_recipes
from evoserve.cli.remote import Remote, in_path

ALIAS = "swapped"
AIM = 3.0  # the largest gap during swaps, in medians
QUIET_S, POLL_S = 10.0, 0.1
RESULT = ROOT / "benchmarks" / "results" / "swap.json"


class Options(TypedDict):
    """How much is done."""

    num_swaps: int
    num_clients: int
    num_tokens: int
    token_step: int
    quiet_s: float


class Swap(TypedDict):
    """One swap: where to, seconds until the alias had moved, and those of them spent building."""

    recipe: str
    swap_s: float
    build_s: float


class Outcome(TypedDict):
    """Everything that was measured on our server."""

    num_streams: int
    streams_by_recipe: dict[str, int]
    failed: list[str]
    wrong: list[str]
    quiet: Gaps
    swapping: Gaps
    all_gaps: Gaps
    swaps: list[Swap]


def main() -> None:
    """Measure, print, write JSON; exit code 1 if a request failed or said something else."""
    arguments = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that no server outlives us
    options: Options = {
        "num_swaps": 4 if arguments.quick else arguments.swaps,
        "num_clients": arguments.clients,
        "num_tokens": 24 if arguments.quick else 40,
        "token_step": 2 if arguments.quick else 4,
        "quiet_s": 5.0 if arguments.quick else QUIET_S,
    }
    with tempfile.TemporaryDirectory(prefix="evoserve-swap-") as folder:
        files = save_recipes(build_recipes(), Path(folder))
        try:
            outcome = asyncio.run(_measure(files, options))
            restart_s = [asyncio.run(_restart(file)) for file in list(files.values())[1:3]]
        except SubjectError as error:
            sys.exit(f"error: {error}")
        vllm = None
        if arguments.vllm_python is not None:
            merges = [file for file in files.values() if "ps" in file.name]
            vllm = _reload_vllm(arguments.vllm_python, merges, Path(folder))
    result = {
        "benchmark": "swap",
        "commit": find_commit(),
        "machine": machine(),
        "options": options,
        "ours": outcome,
        "restart_s": restart_s,
        "vllm": vllm,
    }
    _print(outcome, restart_s, vllm)
    if not arguments.quick or arguments.json is not None:
        _write(arguments.json or RESULT, result)
    sys.exit(1 if outcome["failed"] or outcome["wrong"] else 0)


async def _measure(files: dict[str, Path], options: Options) -> Outcome:
    ids = list(files)
    prompts = write_prompts("main", "swap", options["num_clients"])
    shortest, step = options["num_tokens"], options["token_step"]
    wishes = [Wish(prompt, shortest + step * n) for n, prompt in enumerate(prompts)]
    subject = _subject(files[ids[0]])
    async with start_server(subject, build_body("swap-ps-1", prompts[0], 4)) as running:
        remote = Remote(f"http://127.0.0.1:{running.port}")
        expected = {}
        for model_id, file in files.items():
            raw = (file.read_bytes(), "application/json")
            await asyncio.to_thread(remote.ask, "POST", "/v1/recipes", raw=raw)
            await asyncio.to_thread(_swap, remote, model_id)
            alone = await ask_once(running.port, ALIAS, wishes)
            expected[model_id] = [each.answer.text for each in alone]
        await asyncio.to_thread(_swap, remote, ids[0])
        stop = asyncio.Event()
        streaming = asyncio.create_task(stream(running.port, ALIAS, wishes, stop))
        await asyncio.sleep(options["quiet_s"] / 2)  # all begin at once; let them drift apart
        begun_s = time.perf_counter()
        await asyncio.sleep(options["quiet_s"])
        quiet: Window = (begun_s, time.perf_counter())
        swaps, windows = [], []
        for model_id in plan_swaps(ids, options["num_swaps"]):
            await _unloaded(remote, model_id)
            swap, window = await asyncio.to_thread(_swap, remote, model_id)
            swaps.append(swap)
            windows.append(window)
        stop.set()
        return _judge(await streaming, expected, (quiet, windows), swaps)


def _swap(remote: Remote, model_id: str) -> tuple[Swap, Window]:
    """Move the alias; the answer comes once it has moved."""
    begun_s = time.perf_counter()
    remote.ask("PUT", f"/v1/aliases/{ALIAS}", {"recipe": model_id, "retire": True})
    ended_s = time.perf_counter()
    loaded = remote.ask("GET", f"/v1/recipes/{in_path(model_id)}")["loaded"]
    swap: Swap = {
        "recipe": model_id,
        "swap_s": ended_s - begun_s,
        "build_s": float(loaded["build_s"]),
    }
    return swap, (begun_s, ended_s)


async def _unloaded(remote: Remote, model_id: str) -> None:
    """Wait until a recipe of an earlier swap has left the memory, so that this one builds it."""
    while True:
        path = f"/v1/recipes/{in_path(model_id)}"
        if (await asyncio.to_thread(remote.ask, "GET", path))["state"] == "registered":
            return
        await asyncio.sleep(POLL_S)


def _judge(
    heard: Heard,
    expected: dict[str, list[str]],
    windows: tuple[Window, Sequence[Window]],
    swaps: list[Swap],
) -> Outcome:
    quiet, swapping = windows
    wrong = [_describe(each, expected) for each in heard.streams if _is_wrong(each, expected)]
    return {
        "num_streams": len(heard.streams),
        "streams_by_recipe": dict(Counter(each.recipe for each in heard.streams)),
        "failed": heard.broken,
        "wrong": wrong,
        "quiet": measure_gaps(heard.streams, [quiet]),
        "swapping": measure_gaps(heard.streams, swapping),
        "all_gaps": measure_gaps(heard.streams),
        "swaps": swaps,
    }


def _is_wrong(heard: Stream, expected: dict[str, list[str]]) -> bool:
    """Is it not, whole, what the recipe that its header names says to this prompt?"""
    return heard.answer.text != expected.get(heard.recipe, [None] * 99)[heard.client]


def _describe(heard: Stream, expected: dict[str, list[str]]) -> str:
    others = [name for name, texts in expected.items() if texts[heard.client] == heard.answer.text]
    said = f"what {', '.join(others)} says" if others else f"{heard.answer.text!r}"
    return f"client {heard.client}: {heard.recipe} said {said}"


async def _restart(file: Path) -> float:
    """Seconds from starting a server on one recipe to its first token."""
    prompt = write_prompts("main", "restart", 1)[0]
    async with start_server(_subject(file), build_body(file.stem, prompt, 4)) as running:
        return running.start_s


def _subject(file: Path) -> Subject:
    command = (sys.executable, "-m", "evoserve", "serve", str(file), "--port", "{port}")
    return Subject(
        "evoserve", (*command, "--dtype", "float32"), files=(MODEL / "model.safetensors",)
    )


def _reload_vllm(python: Path, merges: Sequence[Path], folder: Path) -> dict[str, Any]:
    """Write merged checkpoints by `evoserve export`, then let vLLM reload them to and fro."""
    written_s, checkpoints = [], [folder / file.stem for file in merges]
    for file, checkpoint in zip(merges, checkpoints, strict=True):
        begun_s = time.perf_counter()
        command = [sys.executable, "-m", "evoserve", "export", str(file), "-o", str(checkpoint)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
        written_s.append(time.perf_counter() - begun_s)
    environment = {
        **os.environ,
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_CPU_OMP_THREADS_BIND": f"0-{num_cpus() - 1}",
        "OMP_NUM_THREADS": str(num_cpus()),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    driver = ROOT / "benchmarks" / "peers" / "vllm_reload.py"
    words = [str(each) for each in (python, driver, *checkpoints, 4)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"error": "\n".join(done.stderr.splitlines()[-5:])}
    (line,) = [each for each in done.stdout.splitlines() if each.startswith('{"start_s"')]
    found: dict[str, Any] = json.loads(line)
    return {**found, "export_s": written_s}


def _print(outcome: Outcome, restart_s: Sequence[float], vllm: dict[str, Any] | None) -> None:
    swaps = [swap["swap_s"] for swap in outcome["swaps"]]
    builds = [swap["build_s"] for swap in outcome["swaps"]]
    print(
        f"{outcome['num_streams']} answers by {len(outcome['streams_by_recipe'])} recipes, "
        f"{len(outcome['failed'])} failed, {len(outcome['wrong'])} not their recipe's own"
    )
    for name in ("quiet", "swapping", "all_gaps"):
        gaps: Gaps = outcome[name]
        print(
            f"gaps, {name.removesuffix('_gaps'):8}: median {gaps['median_s'] * 1e3:.1f} ms, "
            f"p99 {gaps['p99_s'] * 1e3:.1f}, max {gaps['max_s'] * 1e3:.1f} "
            f"= {gaps['max_over_median']:.1f} medians (aim while swapping: {AIM:g})"
        )
    print(f"swap, ours: {_spread(swaps)} s, of it building {_spread(builds)}")
    print(f"stop and start, ours: {_spread(restart_s)} s to the first token")
    if vllm is not None and "error" not in vllm:
        print(
            f"vLLM: export {_spread(vllm['export_s'])} s + reload {_spread(vllm['reload_s'])} s, "
            f"first token after {_spread(vllm['first_token_s'])} s; start {vllm['start_s']:.1f} s"
        )
    elif vllm is not None:
        print(f"vLLM failed: {vllm['error']}")
    for line in [*outcome["failed"][:5], *outcome["wrong"][:5]]:
        print(f"  {line}")


def _spread(values: Sequence[float]) -> str:
    return f"{median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _write(file: Path, result: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    work = file.with_suffix(".part")
    work.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    work.replace(file)


def _parse() -> argparse.Namespace:
    summary = (__doc__ or "").split("\n\n")[0]
    parser = argparse.ArgumentParser(description=summary)
    parser.add_argument("--quick", action="store_true", help="4 swaps, short answers, no file")
    parser.add_argument("--swaps", type=int, default=20, help="how often the alias moves")
    parser.add_argument("--clients", type=int, default=16, help="streams at any time")
    parser.add_argument("--vllm-python", type=Path, help="Python of vLLM's environment")
    parser.add_argument("--json", type=Path, help=f"default: {RESULT.relative_to(ROOT)}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
