"""How much code stands between a request and its first token: files and lines, by tracing one.

    python -m benchmarks.hops [--quick] [--json FILE]

A mini recipe is served in this process and asked once to warm up; then every function of `evoserve`
that runs while a streamed chat request is answered is recorded, in all threads. Counted are the
files those functions lie in: their lines without blanks, comments and docstrings ("to read"), and
the lines of the functions that ran. `--quick` changes nothing: it takes seconds.
"""

import argparse
import ast
import asyncio
import inspect
import io
import json
import sys
import threading
import tokenize
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FrameType

import httpx

from evoserve.api.registry import Registry, describe
from evoserve.api.server import serve
from evoserve.config import Settings
from evoserve.engine.torch_engine import TorchEngine
from evoserve.manifest.load import load_manifest
from evoserve.sources.locate import build_locator
from evoserve.sources.resolve import resolve_recipe

ROOT = Path(__file__).parents[1]
PACKAGE = str(ROOT / "evoserve")
RECIPE = ROOT / "models" / "recipes" / "mini-dare-ties.json"
_SKIPPED = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


@dataclass(frozen=True)
class FileCount:
    """One file on the way: all its code lines, and those of the functions that ran."""

    file: str
    lines: int
    lines_run: int


def main() -> None:
    """Trace, print the table, write JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="accepted; this is always quick")
    parser.add_argument("--json", type=Path, help="write the result here")
    arguments = parser.parse_args()
    counts = count_files(trace_request())
    total = FileCount("total", sum(c.lines for c in counts), sum(c.lines_run for c in counts))
    for count in [*counts, total]:
        print(f"{count.lines:6} {count.lines_run:6}  {count.file}")
    print(f"{len(counts)} files, {total.lines} lines to read, {total.lines_run} of them run")
    if arguments.json:
        result = {
            "files": len(counts),
            "lines": total.lines,
            "lines_run": total.lines_run,
            "by_file": {c.file: [c.lines, c.lines_run] for c in counts},
        }
        arguments.json.write_text(json.dumps(result, indent=2) + "\n")


def trace_request() -> set[CodeType]:
    """The code objects of `evoserve` that run while one streamed chat request is answered."""
    seen: set[CodeType] = set()
    is_tracing = threading.Event()

    def profile(frame: FrameType, event: str, argument: object) -> None:
        del argument
        if event == "call" and is_tracing.is_set() and frame.f_code.co_filename.startswith(PACKAGE):
            seen.add(frame.f_code)

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        asyncio.run(_ask(is_tracing))
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return seen


def count_files(codes: set[CodeType]) -> list[FileCount]:
    """Counts by file, the longest first."""
    by_file: dict[str, set[CodeType]] = defaultdict(set)
    for code in codes:
        by_file[code.co_filename].add(code)
    counts = []
    for file, ran in by_file.items():
        lines = code_lines(Path(file).read_text(encoding="utf-8"))
        touched: set[int] = set()
        for code in ran:
            source, first = inspect.getsourcelines(code)
            touched.update(range(first, first + len(source)))
        name = str(Path(file).relative_to(ROOT))
        counts.append(FileCount(name, len(lines), len(lines & touched)))
    return sorted(counts, key=lambda count: (-count.lines, count.file))


def code_lines(text: str) -> set[int]:
    """Numbers of the lines that hold code: no blank line, no comment, no docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _SKIPPED:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        kinds = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
        if isinstance(node, kinds) and ast.get_docstring(node) is not None:
            docstring = node.body[0]
            lines -= set(range(docstring.lineno, (docstring.end_lineno or 0) + 1))
    return lines


async def _ask(is_tracing: threading.Event) -> None:
    settings = Settings(port=0, catalogue=ROOT / "models" / "catalogue.toml")
    recipe = resolve_recipe(load_manifest(RECIPE), build_locator(settings, RECIPE.parent))
    engine, registry = TorchEngine(settings), Registry()
    registry.add(describe(recipe, await engine.load(recipe)))
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    server = asyncio.create_task(serve(settings, engine, registry, on_bound=port.set_result))
    url = f"http://127.0.0.1:{await port}/v1/chat/completions"
    body = {
        "model": recipe.manifest.name,
        "messages": [{"role": "user", "content": "Hello!"}],
        "max_tokens": 8,
        "stream": True,
    }
    async with httpx.AsyncClient(timeout=60) as client:
        await client.post(url, json=body)
        is_tracing.set()
        answer = await client.post(url, json=body)
        is_tracing.clear()
    answer.raise_for_status()
    server.cancel()
    await asyncio.gather(server, return_exceptions=True)


if __name__ == "__main__":
    main()
