"""vLLM's own way to new weights: reload a merged checkpoint; run by the Python of its environment.

    PYTHON benchmarks/peers/vllm_reload.py FIRST SECOND TIMES

FIRST and SECOND are merged checkpoints of the same shape. The engine starts on FIRST, then goes to
SECOND and back TIMES times by `collective_rpc("reload_weights")`; nothing is generated meanwhile.
Prints one JSON object: seconds of the start, of each reload, to the first token after it, and the
texts before and after. `benchmarks.swap` starts it.
"""

import json
import sys
import time
from typing import Any

PROMPT = "The capital of France is"


def main() -> None:
    """Start, reload, report."""
    first, second, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
    started_s = time.perf_counter()
    from vllm import LLM, SamplingParams  # type: ignore[import-not-found, unused-ignore]

    llm: Any = LLM(model=first, dtype="float32", max_model_len=2048, enforce_eager=True, seed=0)
    one = SamplingParams(max_tokens=1, temperature=0.0)
    many = SamplingParams(max_tokens=32, temperature=0.0)
    llm.generate([PROMPT], one, use_tqdm=False)
    start_s = time.perf_counter() - started_s
    texts = {"before": _text(llm, many)}
    reload_s, token_s = [], []
    for number in range(times):
        goal = second if number % 2 == 0 else first
        begun_s = time.perf_counter()
        llm.collective_rpc("reload_weights", kwargs={"weights_path": goal})
        llm.reset_prefix_cache()
        reload_s.append(time.perf_counter() - begun_s)
        llm.generate([PROMPT], one, use_tqdm=False)
        token_s.append(time.perf_counter() - begun_s)
        texts["after" if goal == second else "back"] = _text(llm, many)
    found = {"start_s": start_s, "reload_s": reload_s, "first_token_s": token_s, "texts": texts}
    print(json.dumps(found), flush=True)


def _text(llm: Any, params: Any) -> str:
    return str(llm.generate([PROMPT], params, use_tqdm=False)[0].outputs[0].text)


if __name__ == "__main__":
    main()
