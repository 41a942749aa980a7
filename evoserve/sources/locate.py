"""From a manifest's source to a folder on this machine: catalogue, local path, Hugging Face."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from evoserve.config import Settings
from evoserve.errors import SourceError
from evoserve.manifest.parts import AdapterSpec, SourceSpec
from evoserve.sources.catalogue import CatalogueEntry, load_catalogue
from evoserve.sources.checkpoint import weight_files
from evoserve.sources.digest import ADAPTER_CONFIG, ADAPTER_WEIGHTS

DEFAULT_CATALOGUE = Path("models/catalogue.toml")
HUB_PATTERNS = ("*.safetensors", "*.json", "tokenizer.model", "*.txt", "*.jinja")
HUB_IGNORED = ("*/*", "consolidated*")  # other formats of the same weights
_HUB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]*(/[A-Za-z0-9][A-Za-z0-9._\-]*)?")
_REVISION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]*(/[A-Za-z0-9][A-Za-z0-9._\-]*)*")
_MAX_HUB_ID = 96  # the hub's own limit
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_YES = ("1", "ON", "YES", "TRUE")


def is_offline(environment: Mapping[str, str] = os.environ) -> bool:
    """Has the user switched the network off (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)?"""
    names = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return any(environment.get(name, "").upper() in _YES for name in names)


@dataclass(frozen=True)
class SourceLocator:
    """Finds folders of sources and adapters, in this order: catalogue, local folder, Hugging Face.

    roots: folders that everything local must lie in once links are resolved, the catalogue's
    paths too; none: any folder will do. base: what relative paths count from (the manifest's
    folder or the working directory). hub_cache: huggingface_hub's own by default.
    """

    catalogue: Mapping[str, CatalogueEntry] = field(default_factory=dict)
    roots: tuple[Path, ...] = ()
    base: Path = field(default_factory=Path.cwd)
    offline: bool = field(default_factory=is_offline)
    hub_cache: Path | None = None

    def locate(self, name: str, spec: SourceSpec) -> Path:
        """The folder of source `name`. Raises SourceError: what was tried and the way out."""
        folder = self._folder(f"source '{name}'", spec.model, spec.revision)
        _check_checkpoint(f"source '{name}'", folder)
        return folder

    def locate_adapter(self, name: str, spec: AdapterSpec) -> Path:
        """The folder of the adapter of source `name`. Raises SourceError."""
        who = f"adapter of source '{name}'"
        folder = self._folder(who, spec.model, spec.revision)
        _check_adapter(who, folder)
        return folder

    def _folder(self, who: str, model: str, revision: str | None) -> Path:
        target, chosen, chain = self._follow_catalogue(who, model, revision)
        if isinstance(target, Path):
            return self._allowed(who, target)
        local = self.base / target
        if chosen is None and not chain and _is_folder(local):
            return self._allowed(who, local)
        tried = f"it is no name in the catalogue, no folder at {local!s:.200}"
        if chain:
            tried = f"the catalogue leads to '{target}'"
        tried = f"{who}: '{model:.100}' was not found: {tried}"
        if not _HUB_ID.fullmatch(target) or ".." in target or len(target) > _MAX_HUB_ID:
            raise SourceError(f"{tried}; {_way_out(self)}")
        return self._from_hub(tried, target, chosen)

    def _follow_catalogue(
        self, who: str, model: str, revision: str | None
    ) -> tuple[Path | str, str | None, list[str]]:
        """What the names lead to, its revision, and the names that were followed."""
        chain: list[str] = []
        target: str = model
        while target in self.catalogue:
            if target in chain:
                cycle = " -> ".join([*chain, target])
                raise SourceError(f"{who}: the catalogue goes round in a circle: {cycle}")
            chain.append(target)
            entry = self.catalogue[target]
            if entry.path is not None:
                if revision is not None:
                    raise SourceError(
                        f"{who}: '{model}' is a local folder in the catalogue and has no revision "
                        f"'{revision}'; leave the revision out, the digest pins the files"
                    )
                return entry.path, None, chain
            revision = revision or entry.revision
            target = entry.model or ""
            if target == chain[-1]:  # an entry may carry the name of the repository it stands for
                break
        return target, revision, chain

    def _allowed(self, who: str, folder: Path) -> Path:
        real = folder.resolve()
        if not real.is_dir():
            raise SourceError(f"{who}: {folder} is no folder; {_way_out(self)}")
        if self.roots and not any(real.is_relative_to(root.resolve()) for root in self.roots):
            roots = ", ".join(map(str, self.roots))
            raise SourceError(
                f"{who}: {folder} lies outside the allowed source_roots ({roots}); move it there "
                "or add its folder to source_roots"
            )
        return real

    def _from_hub(self, tried: str, repo: str, revision: str | None) -> Path:
        if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
            raise SourceError(f"{tried}; revision '{revision}' is no branch, tag or commit")
        at = f"{repo}@{revision}" if revision else repo
        cached, reason = self._snapshot(repo, revision, local_only=True)
        if cached is not None and _is_complete(cached):
            return cached
        state = "is incomplete in" if cached is not None else "is not in"
        if self.offline:
            raise SourceError(
                f"{tried}; {at} {state} the Hugging Face cache and HF_HUB_OFFLINE is set; download "
                "it where the network is allowed, or unset HF_HUB_OFFLINE"
            )
        fresh, reason = self._snapshot(repo, revision, local_only=False)
        if fresh is None:
            raise SourceError(
                f"{tried}; {at} {state} the Hugging Face cache and cannot be downloaded: {reason}"
            )
        if not _is_complete(fresh):
            raise SourceError(
                f"{at} was downloaded but holds no whole safetensors checkpoint or adapter; pickle "
                "weights are never read, look for a safetensors revision of it"
            )
        return fresh

    def _snapshot(
        self, repo: str, revision: str | None, *, local_only: bool
    ) -> tuple[Path | None, str]:
        """The snapshot's folder, or None and the reason."""
        try:
            from huggingface_hub import snapshot_download
            from huggingface_hub.errors import HfHubHTTPError, HFValidationError
        except ImportError:
            raise SourceError(
                f"'{repo}' is a Hugging Face id but huggingface_hub is not installed: "
                "pip install 'evoserve[hub]'"
            ) from None
        try:
            folder = snapshot_download(
                repo,
                revision=revision,
                cache_dir=self.hub_cache,
                local_files_only=local_only,
                allow_patterns=list(HUB_PATTERNS),
                ignore_patterns=list(HUB_IGNORED),
            )
        except (OSError, HfHubHTTPError, HFValidationError, ValueError) as error:
            return None, " ".join(str(error).split())[:300]
        return Path(folder), ""


def build_locator(settings: Settings, base: Path | None = None) -> SourceLocator:
    """The locator the settings describe; `base` is the manifest's folder, if it has one."""
    file = settings.catalogue
    if file is None and DEFAULT_CATALOGUE.is_file():
        file = DEFAULT_CATALOGUE
    return SourceLocator(
        catalogue=load_catalogue(file) if file else {},
        roots=settings.source_roots,
        base=(base or Path.cwd()).absolute(),
    )


def _way_out(locator: SourceLocator) -> str:
    names = ", ".join(sorted(locator.catalogue)[:8]) or "none, no catalogue is loaded"
    return f"give a folder, a Hugging Face id, or a name of the catalogue ({names})"


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except (OSError, ValueError):  # a name too long, or one with a NUL
        return False


def _is_complete(folder: Path) -> bool:
    if (folder / ADAPTER_CONFIG).is_file():
        return (folder / ADAPTER_WEIGHTS).is_file()
    try:
        files = set(weight_files(folder).values())
    except SourceError:
        return False
    return (folder / "config.json").is_file() and all(file.is_file() for file in files)


def _check_checkpoint(who: str, folder: Path) -> None:
    if not (folder / "config.json").is_file():
        hint = "; it holds an adapter" if (folder / ADAPTER_CONFIG).is_file() else ""
        raise SourceError(f"{who}: {folder} holds no config.json{hint}")
    _check_pickle(who, folder)


def _check_adapter(who: str, folder: Path) -> None:
    if not (folder / ADAPTER_CONFIG).is_file():
        raise SourceError(f"{who}: {folder} holds no {ADAPTER_CONFIG}")
    _check_pickle(who, folder)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise SourceError(f"{who}: {folder} holds no {ADAPTER_WEIGHTS}")


def _check_pickle(who: str, folder: Path) -> None:
    if any(folder.glob("*.safetensors")):
        return
    pickles = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
    if pickles:
        raise SourceError(
            f"{who}: {folder} holds pickle weights ({pickles[0]}), only safetensors is read; "
            "convert it with save_pretrained(..., safe_serialization=True)"
        )
