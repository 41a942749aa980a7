"""`evoserve serve` on the shipped recipes, through OpenAI's client, held against transformers."""

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import openai
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evoserve.config import Settings
from evoserve.manifest.load import load_manifest
from evoserve.model.export import export_checkpoint
from evoserve.sources.locate import build_locator
from evoserve.sources.resolve import resolve_recipe

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "models" / "recipes"
MINI = sorted(RECIPES.glob("mini-*.json"))
SMOL = sorted(RECIPES.glob("smollm2*.json"))
needs_smollm2 = pytest.mark.skipif(
    not (ROOT / "models/demo/smollm2-perturbed-b").exists(), reason="`make demo-model` has not run"
)
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    url: str
    curl: str

    @property
    def client(self) -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key="none", max_retries=0)


def start(recipes: list[Path]) -> Running:
    command = [sys.executable, "-m", "evoserve", "serve", *map(str, recipes), "--port", "0"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    printed = []
    for line in process.stdout:
        printed.append(line)
        if line.startswith("curl "):
            break
    found = re.search(r"http://127\.0\.0\.1:\d+", "".join(printed))
    assert found, "".join(printed)
    return Running(process, found.group(), printed[-1])


def stop(running: Running) -> int:
    running.process.send_signal(signal.SIGTERM)
    code = running.process.wait(60)
    assert running.process.stdout is not None
    running.process.stdout.close()
    return code


@pytest.fixture(scope="module")
def mini() -> Iterator[Running]:
    running = start(MINI)
    yield running
    assert stop(running) == 0


@pytest.fixture(scope="module")
def smollm2() -> Iterator[Running]:
    running = start(SMOL)
    yield running
    assert stop(running) == 0


def test_every_method_family_and_both_spaces_are_shipped() -> None:
    manifests = [load_manifest(file) for file in MINI]
    methods = {merge.method for m in manifests for merge in m.merges.values()}
    families = "linear task_arithmetic ties dare_linear dare_ties slerp nuslerp breadcrumbs della"
    assert methods >= {*families.split(), "model_stock", "karcher", "split_slerp"}
    assert any(m.path and not m.merges and m.scaling.matrix for m in manifests)
    assert any(m.path and m.merges for m in manifests)


@pytest.mark.parametrize("file", MINI, ids=lambda file: file.stem)
def test_mini_recipe_answers_like_its_exported_checkpoint(
    mini: Running, file: Path, tmp_path: Path
) -> None:
    served = mini.client.chat.completions.create(
        model=file.stem, messages=QUESTION, temperature=0, max_tokens=24
    )
    assert served.choices[0].message.content == reference(file, tmp_path / "out", 24)


@needs_smollm2
@pytest.mark.parametrize("file", SMOL, ids=lambda file: file.stem)
def test_smollm2_recipe_answers_like_transformers(
    smollm2: Running, file: Path, tmp_path: Path
) -> None:
    answer = smollm2.client.chat.completions.create(
        model=file.stem, messages=QUESTION, max_tokens=32
    )
    text = answer.choices[0].message.content
    assert text == reference(file, tmp_path / "out", 32)
    assert "Paris" in text


@needs_smollm2
def test_the_printed_curl_line_works_as_pasted(smollm2: Running) -> None:
    done = subprocess.run(smollm2.curl, shell=True, capture_output=True, text=True, check=True)
    assert '"content":"The capital of France is Paris' in done.stdout.replace('": "', '":"')


def test_recipes_are_listed_and_ready(mini: Running) -> None:
    ids = {model.id for model in mini.client.models.list()}
    assert {file.stem for file in MINI} <= ids
    assert httpx.get(f"{mini.url}/ready").status_code == 200


def test_a_recipe_that_fails_stops_the_start_with_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.json"
    broken.write_text(MINI[0].read_text().replace('"format"', '"fromat"'))
    done = subprocess.run(
        [sys.executable, "-m", "evoserve", "serve", str(broken), "--port", "0"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "fromat" in done.stderr


def reference(file: Path, out: Path, max_tokens: int) -> str:
    """Greedy text of the recipe, exported to a stock checkpoint and run by transformers."""
    manifest = load_manifest(file)
    if file in SMOL and manifest.path is None and not manifest.merges:
        folder = ROOT / "models/demo/smollm2-135m-instruct"
    else:
        locator = build_locator(Settings(catalogue=ROOT / "models/catalogue.toml"), file.parent)
        export_checkpoint(resolve_recipe(manifest, locator), out, dtype=torch.float32)
        folder = out
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    ids = model.generate(**prompt, max_new_tokens=max_tokens, do_sample=False)
    shutil.rmtree(out, ignore_errors=True)
    return tokenizer.decode(ids[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
