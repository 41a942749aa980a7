"""Cost as work grows, what recipes share, and what the prefix cache saves.

    python -m benchmarks.scale [--quick] [--form float32|int8]... [--only PART]... [--json FILE]

SmolLM2-135M in process, on the engine's own step (scheduler, model, sampler), without HTTP:
tokens/s and memory against context length, path length, number of loaded recipes and concurrent
sequences. Every point is measured in several repetitions; a table shows median (least - most) and
the exponent with which each cost grows: 1 is linear, less is better. Then bytes of weights by
recipe and in total, and, over HTTP, the time to the first token with a cached system prompt.
Parts: context, path, recipes, streams, sharing, prefix. Pictures and Markdown from the JSON:
`python -m benchmarks.scale_page`.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.provenance import ROOT, find_commit, machine
from benchmarks.scale_cases import CASES, FULL, QUICK, Effort
from benchmarks.scale_engine import FORMS
from benchmarks.scale_prefix import measure_prefix
from benchmarks.scale_result import (
    Form,
    Result,
    format_case,
    format_prefix,
    format_sharing,
    write_json,
)
from benchmarks.scale_sharing import measure_sharing
from benchmarks.serve_server import SubjectError

PARTS = (*CASES, "sharing", "prefix")
RESULT = ROOT / "benchmarks" / "results" / "scale.json"
NUM_RECIPES, NUM_PROMPTS, QUICK_PROMPTS = 10, 9, 3


def main() -> None:
    """Measure, print, write the JSON after every part."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # a server must not be left behind
    options = _parse()
    result = describe()
    file = options.json or (None if options.quick or options.only else RESULT)

    def keep() -> None:
        if file is not None:
            write_json(file, result)

    for form in options.form or list(FORMS):
        found: Form = {"cases": {}}
        result["forms"][form] = found
        measure(form, options.only or PARTS, quick=options.quick, found=found, keep=keep)
        print("\n".join(format_form(form, found)), flush=True)


def measure(
    form: str, parts: tuple[str, ...], *, quick: bool, found: Form, keep: Callable[[], None]
) -> None:
    """Fill `found`, part by part."""
    effort: Effort = QUICK if quick else FULL
    for part in parts:
        print(f"{form}: {part}", file=sys.stderr, flush=True)
        if part == "sharing":
            found["sharing"] = measure_sharing(form, NUM_RECIPES)
        elif part == "prefix":
            num_prompts = QUICK_PROMPTS if quick else NUM_PROMPTS
            try:
                found["prefix"] = asyncio.run(measure_prefix(form, num_prompts))
            except SubjectError as error:
                print(error, file=sys.stderr)
        else:
            found["cases"][part] = CASES[part].measure(form, effort)
        keep()


def format_form(form: str, found: Form) -> list[str]:
    """Markdown of all that was measured with one form of the weights."""
    lines = []
    for name, points in found["cases"].items():
        case = CASES[name]
        lines += ["", *format_case(f"{case.title}, {form}", case.x_name, points)]
    if "sharing" in found:
        lines += ["", f"Weights, {form}:", "", *format_sharing(found["sharing"])]
    if "prefix" in found:
        lines += ["", f"{form}: {format_prefix(found['prefix'])}"]
    return lines


def describe() -> Result:
    """A result without numbers: where and of what."""
    return {
        "benchmark": "scale",
        "model": "SmolLM2-135M",
        "machine": machine(),
        "commit": find_commit(),
        "torch": torch.__version__,
        "forms": {},
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="few, short points; no file")
    parser.add_argument("--form", action="append", choices=list(FORMS), help="default: both")
    parser.add_argument("--only", action="append", choices=PARTS, help="measure no other part")
    parser.add_argument("--json", type=Path, help=f"default: {RESULT.relative_to(ROOT)}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
