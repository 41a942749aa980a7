"""What the store keeps of a run's terms, so that it resumes under the same ones or not at all."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from evoserve import __version__
from evoserve.errors import ConfigError
from evoserve.manifest.parts import SourceSpec
from search.config import SearchConfig, parse_config
from search.genome.encoded import EncodedGenome
from search.genome.pool import Pool
from search.setup import SearchTasks, build_genome, build_pool
from search.store import Store, StoreError

_LIBRARIES = {"cma": ("cma",), "nsga2": ("pymoo",)}
# What may change under a run: how long it goes on, how fast, and where files lie.
_FREE = ("generations", "evaluations", "catalogue", "description", "executor")


@dataclass(frozen=True)
class TaskRecord:
    """What a manifest's evaluation says of a task; key: its name in the store."""

    name: str
    split: str
    protocol: str
    metric: str
    digest: str
    key: str


@dataclass(frozen=True)
class RunRecord:
    """A run's terms. sources carry their digests; tasks: the counted ones first.

    versions: of the programs that a result depends on.
    """

    config: SearchConfig
    sources: Mapping[str, SourceSpec]
    num_layers: Mapping[str, int]
    tasks: tuple[TaskRecord, ...]
    versions: Mapping[str, str]

    @property
    def num_counted(self) -> int:
        """How many of `tasks` the objectives count."""
        return len(self.config.objectives)

    def pool(self) -> Pool:
        """The models the run draws on."""
        return build_pool(self.config, self.sources, self.num_layers)

    def genome(self) -> EncodedGenome:
        """The run's genome."""
        return build_genome(self.config, self.pool())

    def dump(self) -> str:
        """As JSON text."""
        sources = {name: _plain(spec) for name, spec in self.sources.items()}
        fields = {
            "config": _plain(self.config),
            "sources": sources,
            "num_layers": dict(self.num_layers),
            "tasks": [vars(task) for task in self.tasks],
            "versions": dict(self.versions),
        }
        return json.dumps(fields, sort_keys=True, ensure_ascii=False)


def describe_tasks(tasks: SearchTasks, keys: Mapping[str, str]) -> tuple[TaskRecord, ...]:
    """keys: the tasks' names in the store, by task digest."""
    return tuple(
        TaskRecord(
            task.name, task.split, task.protocol, task.metric, task.digest, keys[task.digest]
        )
        for task in tasks.all
    )


def current_versions(optimizer: str) -> dict[str, str]:
    """Of EvoServe and of the libraries that results depend on."""
    libraries = ("torch", "numpy", "tokenizers", *_LIBRARIES.get(optimizer, ()))
    return {"evoserve": __version__, **{name: _version(name) for name in libraries}}


def parse_record(text: str) -> RunRecord:
    """A record from the store. Raises StoreError if it is not one."""
    try:
        fields = json.loads(text)
        return RunRecord(
            config=parse_config(fields["config"]),
            sources={
                name: SourceSpec.model_validate_json(json.dumps(spec))
                for name, spec in fields["sources"].items()
            },
            num_layers=fields["num_layers"],
            tasks=tuple(TaskRecord(**task) for task in fields["tasks"]),
            versions=fields["versions"],
        )
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise StoreError(f"the store holds a run that this program cannot read: {error}") from None


def find_record(store: Store, name: str) -> tuple[int, RunRecord]:
    """Id and terms of a run. Raises StoreError that lists the runs there are."""
    runs = store.runs()
    for run, known, text in runs:
        if known == name:
            return run, parse_record(text)
    names = ", ".join(known for _, known, _ in runs) or "none"
    raise StoreError(f"{store.file}: no run '{name}'; there are: {names}")


def open_record(store: Store, record: RunRecord) -> int:
    """The run's id, made if new; it goes on if it was begun under the same terms.

    Raises StoreError that names what differs, with both values.
    """
    text = record.dump()
    for _, known, stored in store.runs():
        if known == record.config.name:
            _check_same(json.loads(parse_record(stored).dump()), json.loads(text), known)
            text = stored
    return store.open_run(record.config.name, text)


def _check_same(stored: dict[str, Any], now: dict[str, Any], name: str) -> None:
    before, after = dict(_flatten("", _identity(stored))), dict(_flatten("", _identity(now)))
    for key in sorted({*before, *after}):
        if before.get(key) != after.get(key):
            raise StoreError(
                f"run '{name}' was begun with another {key}: {before.get(key)!r:.100}, now "
                f"{after.get(key)!r:.100}; choose another name (scores that are known stay known)"
            )


def _identity(fields: dict[str, Any]) -> dict[str, Any]:
    """The terms that must stay: digests identify sources and tasks, wherever they lie."""
    config = {k: v for k, v in fields["config"].items() if k not in (*_FREE, "sources", "engine")}
    config["tasks"] = [{"name": task["name"]} for task in config["tasks"]]
    engine = {k: v for k, v in fields["config"].get("engine", {}).items() if k == "max_model_len"}
    sources = {
        name: [spec["digest"], (spec.get("adapter") or {}).get("digest")]
        for name, spec in fields["sources"].items()
    }
    return {
        "config": config,
        "engine": engine,
        "sources": sources,
        "tasks": {task["name"]: task["key"] for task in fields["tasks"]},
        "versions": fields["versions"],
    }


def _flatten(prefix: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, dict) and value:
        for key, inner in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), inner)
    else:
        yield prefix, value


def _plain(model: SearchConfig | SourceSpec) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        raise ConfigError(f"{name} is not installed: pip install 'evoserve[search]'") from None
