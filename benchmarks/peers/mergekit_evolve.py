"""mergekit-evolve's evaluation of candidates on a CPU, driven over stdin; run by its own Python.

    PYTHON benchmarks/peers/mergekit_evolve.py JOB.json

`benchmarks.search` starts it. It makes mergekit-evolve 0.1.5's own evaluator and, per line of
genotypes on stdin, evaluates each with the evaluator's own `evaluate_genotype`, which merges and
calls `lm_eval.simple_evaluate`. Patches, all in this file, none in the package:

1. lm-eval's vLLM module, imported without need, is replaced by an empty one: vLLM is not there.
2. The evaluator is made in this process instead of a Ray actor, which waits for a GPU. With one
   device the actor evaluates one candidate after the other too; Ray only hands them over.
3. `torch.cpu.empty_cache` is there, and lm-eval is told the device (disk).
4. The dtype can be float32 instead of bfloat16, which these CPUs only emulate.
5. In memory lm-eval is given the sources' tokenizer, which it cannot find by itself, and the batch
   size, which mergekit-evolve passes where lm-eval ignores it, so that it runs one by one.
6. In memory mergekit's `ReturnTensor` is built unvalidated: pydantic refuses its tensor tasks.
"""

import json
import os
import sys
import time
import types
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

TASK = """\
task: evoserve_bench
dataset_path: json
dataset_kwargs:
  data_files:
    test: {items}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{answer}}}}"
generation_kwargs:
  until: []
  do_sample: false
  max_gen_toks: {max_new_tokens}
num_fewshot: 0
filter_list:
  - name: last
    filter:
      - function: regex
        regex_pattern: "(-?[0-9]+)"
        group_select: -1
      - function: take_first
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""


@dataclass(frozen=True)
class Job:
    """What to evaluate on and how; kind: `memory` or `disk`."""

    base: str
    models: list[str]
    items: str
    max_new_tokens: int
    kind: str
    dtype: str
    batch_size: int
    threads: int
    work: str


@dataclass
class Clock:
    """Seconds and tokens that lm-eval spent in generation."""

    generation_s: float = 0.0
    num_tokens: int = 0


def main() -> None:
    """Make the evaluator, evaluate one candidate to warm up, then answer line by line."""
    job = Job(**json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # libraries print; only answers go to stdout
    clock = Clock()
    evaluator = make_evaluator(job, clock)
    for line in sys.stdin:
        found = [evaluate(evaluator, genotype, clock) for genotype in json.loads(line)]
        print(json.dumps(found), file=answers, flush=True)


def make_evaluator(job: Job, clock: Clock) -> Any:
    """mergekit-evolve's evaluator with the patches above."""
    patch_vllm()
    import torch
    from lm_eval.models import huggingface
    from lm_eval.tasks import TaskManager
    from mergekit.evo import actors, config, genome
    from mergekit.options import MergeOptions

    torch.set_num_threads(job.threads)
    folder = Path(job.work)
    text = TASK.format(items=job.items, max_new_tokens=job.max_new_tokens)
    (folder / "tasks").mkdir(exist_ok=True)
    (folder / "tasks" / "bench.yaml").write_text(text, encoding="utf-8")
    definition = {"models": job.models, "base_model": job.base, "merge_method": "dare_ties"}
    settings = config.EvolMergeConfiguration.model_validate(
        {
            "genome": {**definition, "normalize": False},
            "tasks": [{"name": "evoserve_bench", "metric": "exact_match,last"}],
        }
    )
    options = MergeOptions(
        out_shard_size=1_000_000_000_000, quiet=True, copy_tokenizer=True, device="cpu"
    )
    patch_clock(huggingface.HFLM, clock)
    patch_cpu(torch, actors, job)
    remote = actors.InMemoryMergeEvaluator if job.kind == "memory" else actors.OnDiskMergeEvaluator
    kind = remote.__ray_metadata__.modified_class
    tasks = TaskManager(include_path=str(folder / "tasks"))
    return kind(
        settings,
        genome.ModelGenome(settings.genome),
        options,
        model_storage_path=str(folder / "merged"),
        batch_size=job.batch_size,
        task_manager=tasks,
    )


def patch_vllm() -> None:
    """Patch 1."""
    import lm_eval.models

    name = "lm_eval.models.vllm_causallms"
    module: Any = types.ModuleType(name)
    module.VLLM = type("VLLM", (), {})
    sys.modules[name] = module
    lm_eval.models.vllm_causallms = module


def patch_cpu(torch: Any, actors: Any, job: Job) -> None:
    """Patches 3 to 6."""
    from mergekit import plan

    torch.cpu.empty_cache = lambda: None
    plan.ReturnTensor = plan.ReturnTensor.model_construct
    patch_dtype(torch, actors, job.dtype)
    if job.kind == "memory":
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(job.base)
        models = actors.lm_eval.models.huggingface
        models.HFLM = partial(models.HFLM, tokenizer=tokenizer, batch_size=job.batch_size)


def patch_dtype(torch: Any, actors: Any, dtype: str) -> None:
    """Patch 4: of the merge, of the model in memory, and of the one loaded from disk."""
    decode = actors.ModelGenome.genotype_merge_config
    start = actors.InMemoryMergeEvaluator.__ray_metadata__.modified_class
    make = start._maybe_init_model

    def decode_as(self: Any, genotype: Any) -> Any:
        return decode(self, genotype).model_copy(update={"dtype": dtype})

    def make_float(self: Any, config: Any) -> None:
        make(self, config)
        self.model.model.to(getattr(torch, dtype))

    actors.ModelGenome.genotype_merge_config = decode_as
    start._maybe_init_model = make_float
    evaluate_model = actors.evaluate_model
    actors.evaluate_model = lambda *arguments, **named: evaluate_model(
        *arguments, **{**named, "model_kwargs": {"dtype": dtype, "device": "cpu"}}
    )


def patch_clock(model: Any, clock: Clock) -> None:
    """Count what `generate_until` takes and the tokens that are kept of it."""
    generate, forward = model.generate_until, model._model_generate

    def timed(self: Any, *arguments: Any, **named: Any) -> Any:
        start = time.perf_counter()
        try:
            return generate(self, *arguments, **named)
        finally:
            clock.generation_s += time.perf_counter() - start

    def counted(self: Any, context: Any, *arguments: Any, **named: Any) -> Any:
        found = forward(self, context, *arguments, **named)
        made = found[:, context.shape[1] :]
        clock.num_tokens += int((made != self.tokenizer.pad_token_id).sum())
        return found

    model.generate_until, model._model_generate = timed, counted


def evaluate(evaluator: Any, genotype: list[float], clock: Clock) -> dict[str, float]:
    """Seconds of one candidate, those in generation, its new tokens and its score."""
    generation_s, num_tokens = clock.generation_s, clock.num_tokens
    start = time.perf_counter()
    score = evaluator.evaluate_genotype(np.array(genotype))["score"]
    return {
        "total_s": time.perf_counter() - start,
        "generation_s": clock.generation_s - generation_s,
        "num_tokens": clock.num_tokens - num_tokens,
        "score": score,
    }


if __name__ == "__main__":
    main()
