"""The aliases and pins that a watched folder asks for: its file `aliases.yaml`, and what it set."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from evoserve.errors import EvoServeError, ManifestError
from evoserve.lifecycle.lifecycle import Lifecycle
from evoserve.lifecycle.split import MAX_TARGETS, MAX_WEIGHT, Target
from evoserve.manifest.document import parse_document
from evoserve.manifest.explain import explain
from evoserve.manifest.load import read_text

SUFFIXES = (".json", ".yaml", ".yml")
ALIAS_FILES = tuple(f"aliases{suffix}" for suffix in SUFFIXES)

Name = Annotated[str, Field(min_length=1, max_length=256)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class WantedTarget(_Strict):
    """A recipe (id or plain name) and its share of the requests."""

    recipe: Name
    weight: Annotated[float, Field(ge=0, le=MAX_WEIGHT, allow_inf_nan=False)] = 1.0


Targets = Annotated[tuple[WantedTarget, ...], Field(min_length=1, max_length=MAX_TARGETS)]


class WantedAliases(_Strict):
    """aliases: where each leads, a recipe or several by weight; pinned: recipes kept in memory."""

    format: Literal["evoserve-aliases/1"]
    aliases: dict[Name, Targets] = {}
    pinned: tuple[Name, ...] = ()

    @field_validator("aliases", mode="before")
    @classmethod
    def _spell_out(cls, value: object) -> object:
        """A recipe's name alone is one target."""
        if not isinstance(value, Mapping):
            return value
        return {
            alias: [{"recipe": led}] if isinstance(led, str) else led
            for alias, led in value.items()
        }


def is_recipe(file: Path) -> bool:
    """Is a file of a folder a manifest, by its name?"""
    is_hidden = file.name.startswith(".")
    return file.suffix in SUFFIXES and not is_hidden and file.name not in ALIAS_FILES


def load_wanted(file: Path) -> WantedAliases:
    """Read and check an alias file. Raises ManifestError that names the file and JSON path."""
    try:
        document = parse_document(read_text(file))
        try:
            return WantedAliases.model_validate_json(json.dumps(document))
        except ValidationError as error:
            raise explain(error, document if isinstance(document, Mapping) else {}) from None
    except ManifestError as error:
        raise error.in_file(str(file)) from None


class AliasKeeper:
    """Has aliases and pins be as a file asks; takes back only what it has set itself."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle
        self._aliases: set[str] = set()
        self._pinned: set[str] = set()

    async def apply(self, wanted: WantedAliases) -> str:
        """Change what is not as wanted; returns why some of it could not be, or ''."""
        problems: list[str] = []
        for alias, targets in wanted.aliases.items():
            try:
                await self._point(alias, [Target(each.recipe, each.weight) for each in targets])
            except EvoServeError as error:
                problems.append(f"alias '{alias}': {error}")
        for alias in self._aliases - set(wanted.aliases):
            if self._lifecycle.aliases.find(alias) is not None:
                self._lifecycle.delete_alias(alias)
            self._aliases.discard(alias)
        try:
            self._pin(wanted.pinned)
        except EvoServeError as error:
            problems.append(f"pinned: {error}")
        return "; ".join(problems)

    async def _point(self, alias: str, targets: list[Target]) -> None:
        resolved = self._lifecycle.resolve_targets(alias, targets)
        now = self._lifecycle.aliases.find(alias)
        if now is None or sorted(map(_key, now.targets)) != sorted(map(_key, resolved)):
            await self._lifecycle.set_alias(alias, resolved)
        self._aliases.add(alias)

    def _pin(self, names: tuple[str, ...]) -> None:
        """Nothing is changed if one of the recipes is not there."""
        wanted = [self._lifecycle.recipes.get(name) for name in names]
        for entry in wanted:
            if not entry.stored.is_pinned:
                self._lifecycle.pin(entry.model_id)
                self._pinned.add(entry.model_id)
        for model_id in self._pinned - {entry.model_id for entry in wanted}:
            if self._lifecycle.recipes.find(model_id) is not None:
                self._lifecycle.pin(model_id, is_pinned=False)
            self._pinned.discard(model_id)


def _key(target: Target) -> tuple[str, float]:
    return target.model_id, target.weight
