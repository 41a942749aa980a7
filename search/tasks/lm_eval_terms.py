"""What the digest of an lm-eval task covers, as JSON that is the same on every machine."""

import hashlib
import inspect
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def describe_terms(harness: Any) -> str:
    """The harness's version and the task's config; what the data say is in the items."""
    from lm_eval import __version__

    config = harness.config.to_dict(keep_callable=True)
    config.pop("dataset_kwargs", None)
    if Path(config.get("dataset_path") or "").exists():
        del config["dataset_path"]
    # The harness notes there which file it read.
    (config.get("metadata") or {}).pop("config_source", None)
    return dump_plain({"lm_eval": __version__, "config": config})


def dump_plain(value: object) -> str:
    """One line of JSON, keys sorted; functions and classes as the file that they are in."""
    return json.dumps(
        value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), default=_described
    )


def digest_docs(docs: Sequence[Any]) -> str:
    """SHA-256 over all documents in their order."""
    return "sha256:" + hashlib.sha256(dump_plain(docs).encode("utf-8", "surrogatepass")).hexdigest()


def _described(value: Any) -> object:
    """Code by its whole file, as helpers of a function count too; other values by their text."""
    if not callable(value):
        return str(value)
    name = getattr(value, "__qualname__", type(value).__qualname__)
    try:
        source = Path(inspect.getsourcefile(value) or "").read_bytes()
    except (TypeError, OSError):
        return name
    return [name, hashlib.sha256(source).hexdigest()]
