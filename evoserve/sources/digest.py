"""The digest of a source: SHA-256 of what `sha256sum` prints for the files that define it.

Anyone can check one with coreutils, in the source's folder (LC_ALL=C, the files that exist):

    sha256sum chat_template.jinja config.json ... tokenizer_config.json | sha256sum

Hashes of files are remembered between runs by (path, size, time of change, inode), which guards
against accidents, not against someone who can write to this machine's disk.
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from evoserve.errors import DigestMismatch, SourceError
from evoserve.manifest.load import write_text
from evoserve.sources.checkpoint import INDEX_FILE, SINGLE_FILE, weight_files

SIDE_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.model",
    "vocab.json",
    "merges.txt",
    "added_tokens.json",
    "chat_template.jinja",
)
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
CACHE_FILE = "digests.json"
_SETTLED_S = 2.0  # a file changed less than this ago may change again without a new time stamp


def source_digest(folder: Path) -> str:
    """`sha256:` and 64 digits of a checkpoint folder. Raises SourceError for a missing file."""
    weights = sorted(set(weight_files(folder).values()))
    is_sharded = folder / SINGLE_FILE not in weights
    names = (*SIDE_FILES, INDEX_FILE) if is_sharded else SIDE_FILES
    sides = [folder / name for name in names if (folder / name).is_file()]
    return _digest_of([*weights, *sides])


def adapter_digest(folder: Path) -> str:
    """`sha256:` and 64 digits of a PEFT adapter folder. Raises SourceError for a missing file."""
    return _digest_of([folder / ADAPTER_CONFIG, folder / ADAPTER_WEIGHTS])


def content_state(folder: Path) -> tuple[str, ...]:
    """Which safetensors files a folder holds now, by path, size, mtime and inode.

    Stands in for a digest within one process: files changed in place have another state.
    """
    files = sorted(folder.resolve().glob("*.safetensors"))
    return tuple(f"{_key(file)} {_state(file)}" for file in files)


def verify_digest(source: str, expected: str, actual: str) -> None:
    """Raises DigestMismatch that names the source unless the digests are equal."""
    if expected != actual:
        raise DigestMismatch(
            f"source '{source}' has digest {_short(actual)}, the manifest says {_short(expected)}; "
            "use the checkpoint the manifest was made with, or pin the new one on purpose"
        )


def cache_folder() -> Path:
    """Where hashes are remembered: EVOSERVE_CACHE_DIR, else evoserve in the XDG cache folder."""
    given = os.environ.get("EVOSERVE_CACHE_DIR")
    if given:
        return Path(given)
    xdg = os.environ.get("XDG_CACHE_HOME")
    base = Path(xdg) if xdg and Path(xdg).is_absolute() else Path.home() / ".cache"
    return base / "evoserve"


def _digest_of(files: Sequence[Path]) -> str:
    lines = [f"{value}  {file.name}\n" for file, value in _hash_files(files).items()]
    ordered = sorted(lines, key=lambda line: line.partition("  ")[2].encode())
    return "sha256:" + hashlib.sha256("".join(ordered).encode()).hexdigest()


def _hash_files(files: Sequence[Path]) -> dict[Path, str]:
    """Hexadecimal SHA-256 of each file, from the cache or by reading it in its own thread."""
    states = {file: _state(file) for file in files}
    known = _read_cache()
    found = {file: known.get(_key(file), {}).get(state) for file, state in states.items()}
    unknown = [file for file, value in found.items() if value is None]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
        fresh = dict(zip(unknown, pool.map(_hash_file, unknown), strict=True))
    settled = {
        _key(file): {states[file]: value}
        for file, value in fresh.items()
        if time.time() - file.stat().st_mtime > _SETTLED_S and _state(file) == states[file]
    }
    if settled:
        _write_cache({**_read_cache(), **settled})
    return {file: value or fresh[file] for file, value in found.items()}


def _hash_file(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise SourceError(f"{file}: {error.strerror or error}") from None


def _key(file: Path) -> str:
    return str(file.resolve())


def _state(file: Path) -> str:
    try:
        stat = file.stat()
    except OSError as error:
        raise SourceError(f"{file}: {error.strerror or error}") from None
    return f"{stat.st_size}-{stat.st_mtime_ns}-{stat.st_ino}"


def _read_cache() -> dict[str, Mapping[str, str]]:
    """{path: {state: hash}}; whatever else the file may hold counts as nothing."""
    try:
        value = json.loads((cache_folder() / CACHE_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RuntimeError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {
        path: states
        for path, states in value.items()
        if isinstance(states, dict) and all(_is_hash(item) for item in states.values())
    }


def _write_cache(entries: Mapping[str, Mapping[str, str]]) -> None:
    """A cache that cannot be written costs time on the next run, nothing else."""
    try:
        write_text(cache_folder() / CACHE_FILE, json.dumps(entries, indent=0, sort_keys=True))
    except (OSError, RuntimeError):
        return


def _is_hash(value: object) -> bool:
    return (
        isinstance(value, str) and len(value) == 64 and all(c in "0123456789abcdef" for c in value)
    )


def _short(digest: str) -> str:
    return digest.removeprefix("sha256:")[:12]
