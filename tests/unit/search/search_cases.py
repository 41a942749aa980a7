"""Small searches on the mini zoo, as documents, shared by the tests of the loop."""

import json
import tomllib
from pathlib import Path
from typing import Any

from models.mini.train.data import build_items
from search.config import SearchConfig, load_config, parse_config

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "models/searches/mini-ps.toml"


def small(**changes: Any) -> dict[str, Any]:
    """The shipped example with 24 items a task and two small generations."""
    document = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    document["catalogue"] = str(ROOT / "models/catalogue.toml")
    document["optimizer"]["settings"] = {"population": 4}
    del document["evaluations"]
    document["generations"] = 2
    for task in document["tasks"]:
        task["count"], task["max_new_tokens"] = 24, 80
    return {**document, **changes}


def dump_toml(document: dict[str, Any]) -> str:
    """Inline TOML of a document; JSON values happen to be TOML, tables are written inline."""
    return "\n".join(f"{key} = {_inline(value)}" for key, value in document.items()) + "\n"


def write_small(folder: Path, **changes: Any) -> Path:
    """A config file of `small`."""
    file = folder / "search.toml"
    file.write_text(dump_toml(small(**changes)), encoding="utf-8")
    load_config(file)
    return file


def small_config(**changes: Any) -> SearchConfig:
    """`small`, checked."""
    return parse_config(small(**changes))


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(k)} = {_inline(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def graded_tasks(folder: Path) -> list[dict[str, Any]]:
    """`mini-en` as eight items with graded scores: candidates hardly ever tie, and cma, which
    ends a search whose first generation is all equal, goes on whatever the zoo can do."""
    items = build_items("search", "en", 8)
    reference = "At first 8. Got more: 8+5=13. Gave away: 13-2=11. The answer is 11."
    lines = [
        json.dumps({"prompt": item["prompt"], "answer": reference, "metric": "rouge_l"})
        for item in items
    ]
    file = folder / "graded.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    generation = {"chat": True, "max_new_tokens": 60}
    return [{"name": "mini-en", "file": str(file), "split": "search", **generation}]
