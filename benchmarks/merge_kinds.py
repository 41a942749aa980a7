"""What `benchmarks/merge.py` times, each function in a process of its own.

`work_s` is the time from the first look at a file to finished weights, without imports.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "models" / "demo" / "smollm2-135m-instruct"
NAMES = ("base", "left", "right")
WEIGHTS = {"left": 0.9, "right": 0.6}
DENSITIES = {"left": 0.6, "right": 0.5}
NOISE = 0.05


def write_sources(cache: Path) -> None:
    """base = the demo model in bfloat16; left, right: each tensor plus noise, 5% of its spread."""
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    if DEMO.exists():
        model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    else:
        config = LlamaConfig(
            vocab_size=49152,
            hidden_size=576,
            intermediate_size=1536,
            num_hidden_layers=30,
            num_attention_heads=9,
            num_key_value_heads=3,
            tie_word_embeddings=True,
        )
        model = AutoModelForCausalLM.from_config(config)
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    for seed, name in enumerate(NAMES):
        generator = torch.Generator().manual_seed(seed)
        for key, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.data = start[key] + noise * (NOISE * start[key].std() if seed else 0.0)
        model.to(torch.bfloat16).save_pretrained(cache / name)
        model.float()
        if DEMO.exists():
            for file in DEMO.glob("token*.json"):
                shutil.copy(file, cache / name)
        (cache / name / "done").touch()


def peak_bytes() -> int:
    """The largest resident set of this process so far, mapped files included."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/self/status has no VmHWM")


def recipe_document() -> dict[str, Any]:
    """The merge as a manifest."""
    merge = {
        "method": "dare_ties",
        "base": "base",
        "seed": 1,
        "dtype": "bfloat16",
        "weights": WEIGHTS,
        "densities": DENSITIES,
    }
    sources = {name: {"model": name} for name in NAMES}
    return {"format": "evoserve/1", "name": "bench", "sources": sources, "merges": {"ps": merge}}


def load_kernels() -> None:
    """What the first merge of a process costs beyond its work: numba starts, kernels are loaded."""
    import torch

    from evoserve.merge.combination import DeltaSum, KeepRandom, Term
    from evoserve.merge.fused import combine_into

    combination = DeltaSum((Term(1, 1.0, KeepRandom((0, 0), 1)),), elect=True)
    inputs, out = [torch.zeros(1), torch.zeros(1)], torch.empty(1)
    combine_into(combination, inputs, torch.bfloat16, out, lambda num, piece: piece(0, num))


def child_ours_warm(cache: Path) -> dict[str, float]:
    """As in a process that has merged before."""
    load_kernels()
    return child_ours(cache)


def child_ours(cache: Path) -> dict[str, float]:
    """Files to finished float32 weights."""
    import torch

    import evoserve.merge.fused  # noqa: F401 (numba is imported before the clock starts)
    from evoserve.manifest.load import build_manifest
    from evoserve.merge.build import evaluate_all
    from evoserve.merge.expression import RecipeTensors
    from evoserve.sources.architecture import tensor_shapes
    from evoserve.sources.checkpoint import open_checkpoint
    from evoserve.sources.recipe import Recipe

    imported = peak_bytes()
    start = time.perf_counter()
    manifest = build_manifest(recipe_document())
    recipe = Recipe(manifest, {name: open_checkpoint(cache / name) for name in NAMES})
    tensors = RecipeTensors(recipe)
    shapes = tensor_shapes(recipe.architecture("ps"))
    outs = {name: torch.empty(shape) for name, shape in shapes.items()}
    jobs = [(tensors.expression("ps", name), out) for name, out in outs.items()]
    finite = evaluate_all(jobs, os.cpu_count() or 1)
    work_s = time.perf_counter() - start
    if not all(finite):
        raise SystemExit("the merge holds NaN or infinity")
    return {
        "work_s": work_s,
        "peak_bytes": peak_bytes(),
        "imported_bytes": imported,
        "weight_bytes": sum(out.nbytes for out in outs.values()),
    }


def child_model(cache: Path) -> dict[str, float]:
    """Files to a model that is ready to run, in a process that has merged before."""
    return measure_model(cache, None)


def child_model_int8(cache: Path) -> dict[str, float]:
    """The same, quantised as it streams in."""
    return measure_model(cache, "int8")


def measure_model(cache: Path, quantization: str | None) -> dict[str, float]:
    """Through the factory that the engine has; a tiny recipe was built before the clock starts."""
    from benchmarks.memory_sources import TINY, write_sources
    from evoserve.config import Settings
    from evoserve.engine.factory import PathModelFactory
    from evoserve.manifest.load import build_manifest
    from evoserve.sources.checkpoint import open_checkpoint
    from evoserve.sources.recipe import Recipe

    settings = Settings.model_validate({"device": "cpu", "quantization": quantization})
    factory = PathModelFactory(settings)

    def open_recipe(folder: Path) -> Recipe:
        manifest = build_manifest(recipe_document())
        return Recipe(manifest, {name: open_checkpoint(folder / name) for name in NAMES})

    with tempfile.TemporaryDirectory() as folder:
        write_sources(Path(folder), TINY)
        factory.build(open_recipe(Path(folder))).lease.release()
    imported = peak_bytes()
    start = time.perf_counter()
    model = factory.build(open_recipe(cache))
    work_s = time.perf_counter() - start
    return {
        "work_s": work_s,
        "peak_bytes": peak_bytes(),
        "imported_bytes": imported,
        "weight_bytes": model.weight_bytes,
    }


def child_mergekit(cache: Path) -> dict[str, float]:
    """What `mergekit-yaml` does after its imports, then loading what it wrote."""
    import torch
    from mergekit.config import MergeConfiguration
    from mergekit.merge import run_merge
    from mergekit.options import MergeOptions
    from transformers import AutoModelForCausalLM

    imported = peak_bytes()
    models = [
        {
            "model": str(cache / name),
            "parameters": {"weight": WEIGHTS[name], "density": DENSITIES[name]},
        }
        for name in WEIGHTS
    ]
    document = {
        "merge_method": "dare_ties",
        "base_model": str(cache / "base"),
        "dtype": "bfloat16",
        "models": models,
    }
    with tempfile.TemporaryDirectory(dir=cache) as out:
        start = time.perf_counter()
        configuration = MergeConfiguration.model_validate(document)
        run_merge(configuration, out, options=MergeOptions(random_seed=1, copy_tokenizer=False))
        merged = time.perf_counter()
        AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32)
        loaded = time.perf_counter()
    return {
        "work_s": loaded - start,
        "merge_s": merged - start,
        "load_s": loaded - merged,
        "peak_bytes": peak_bytes(),
        "imported_bytes": imported,
    }


def child_torch_floor(cache: Path) -> dict[str, float]:
    """Every byte read and every weight computed once, in torch, without masks or sign election."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    torch.set_num_threads(1)
    chunk = 1 << 16
    start = time.perf_counter()
    files = [open_file(cache / name / "model.safetensors") for name in NAMES]

    def merge(name: str) -> torch.Tensor:
        base, left, right = (file.get_tensor(name).view(-1) for file in files)
        out = torch.empty(base.shape, dtype=torch.float32)
        for at in range(0, len(out), chunk):
            part = slice(at, at + chunk)
            start_at = base[part].float()
            result = (left[part].float().sub_(start_at)).mul_(WEIGHTS["left"])
            result.add_((right[part].float().sub_(start_at)).mul_(WEIGHTS["right"]))
            torch.add(start_at, result, out=out[part])
        return out

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        kept = list(pool.map(merge, sorted(files[0].keys())))
    work_s = time.perf_counter() - start
    return {"work_s": work_s, "peak_bytes": peak_bytes(), "num_tensors": len(kept)}


def child_kernel_floor(cache: Path) -> dict[str, float]:
    """The same masks, election and sum as ours, on inputs and outputs already in memory."""
    from concurrent.futures import ThreadPoolExecutor

    import torch

    from evoserve.merge.combination import DeltaSum, KeepRandom, Term
    from evoserve.merge.fused import combine_into
    from evoserve.merge.masks import density_threshold, mask_key

    files = [open_file(cache / name / "model.safetensors") for name in NAMES]
    names = sorted(files[0].keys())
    loaded = {name: [file.get_tensor(name).clone() for file in files] for name in names}
    outs = {name: torch.zeros(loaded[name][0].shape) for name in names}

    def one_span(num_elements: int, piece: Callable[[int, int], None]) -> None:
        piece(0, num_elements)

    def merge(name: str) -> None:
        terms = tuple(
            Term(
                k,
                WEIGHTS[source] / DENSITIES[source],
                KeepRandom(mask_key(1, source, name), density_threshold(DENSITIES[source])),
            )
            for k, source in enumerate(NAMES[1:], start=1)
        )
        combination = DeltaSum(terms, elect=True)
        combine_into(combination, loaded[name], torch.bfloat16, outs[name], one_span)

    merge(names[0])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        start = time.perf_counter()
        list(pool.map(merge, sorted(names, key=lambda name: -outs[name].numel())))
        work_s = time.perf_counter() - start
    return {"work_s": work_s, "peak_bytes": peak_bytes()}


def open_file(file: Path) -> Any:
    """A handle that maps tensors on demand."""
    from safetensors import safe_open

    return safe_open(file, framework="pt", device="cpu")


CHILDREN: Mapping[str, Callable[[Path], dict[str, float]]] = {
    "ours": child_ours_warm,
    "ours, model": child_model,
    "ours, model, int8": child_model_int8,
    "ours, first merge": child_ours,
    "ours, no cache": child_ours,
    "mergekit": child_mergekit,
    "floor, torch": child_torch_floor,
    "floor, kernel": child_kernel_floor,
}
