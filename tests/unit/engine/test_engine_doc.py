"""Every dotted name in docs/engine.md exists in the code."""

import importlib
import re
from pathlib import Path

from evoserve.config import Settings
from evoserve.engine import protocol

DOC = Path(__file__).parents[3] / "docs" / "engine.md"
ROOMS = {file.stem for file in Path(protocol.__file__).parent.glob("*.py")}


def resolve(dotted: str) -> None:
    """Raises AttributeError or ImportError for a name that is gone."""
    first, *rest = dotted.split(".")
    if first in ROOMS:
        found: object = importlib.import_module(f"evoserve.engine.{first}")
    else:
        found = Settings.model_fields if first == "Settings" else getattr(protocol, first)
    for name in rest:
        if isinstance(found, dict):
            found = found[name]
        elif name not in getattr(found, "__dataclass_fields__", {}):
            found = getattr(found, name)


def test_every_name_resolves() -> None:
    text = DOC.read_text(encoding="utf-8")
    names = re.findall(r"`([A-Za-z_]+(?:\.[A-Za-z_]+)+)`", text)
    assert len(set(names)) >= 20
    for name in names:
        resolve(name)
    settings = re.findall(r"`((?:max|kv|block)_[a-z_]+)`", text)
    assert {name for name in settings if name != "max_tokens"} <= set(Settings.model_fields)
