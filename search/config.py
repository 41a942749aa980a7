"""A search as a TOML file: strict, unknown keys refused, every error names its key."""

import json
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from evoserve.config import DTypeName
from evoserve.errors import ConfigError, InputError
from evoserve.manifest.load import load_manifest
from evoserve.manifest.methods import MethodName
from evoserve.manifest.parts import (
    Finite,
    MergeDType,
    MergeOptions,
    MergeSpec,
    Name,
    RecipeName,
    SourceSpec,
    StrictModel,
    Text,
    Word,
)
from search.executors.config import ExecutorConfig
from search.fitness.config import FitnessConfig, FullConfig, ValidationConfig
from search.genome.scales import ScaleKind, Target
from search.tasks.item import Protocol, Split

Positive = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class RangeConfig(StrictModel):
    """Bounds, start and step of one coefficient, see `search.genome.axes.Range`."""

    lower: Finite = 0.0
    upper: Finite = 1.0
    initial: Finite | None = None
    sigma: Finite | None = None


class PsConfig(StrictModel):
    """The merge that is evolved, see `search.genome.ps.PsSettings`.

    groups: `one`, `layers`, a number of bands, or the groups; split_filters: self_attn, mlp, rest.
    """

    method: MethodName
    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    base: Name | None = None
    groups: Literal["one", "layers"] | Positive | tuple[Word, ...] = "one"
    split_filters: bool = False
    ranges: dict[Word, RangeConfig | Finite] = {}
    options: MergeOptions = MergeOptions()
    seed: Seed = 0
    dtype: MergeDType = "float32"
    merge: Name = "ps"


class DfsConfig(StrictModel):
    """The paths that are searched, see `search.genome.dfs.DfsSettings`."""

    models: Annotated[tuple[Name, ...], Field(min_length=1)]
    repeats: Positive = 3
    scales: ScaleKind = "matrix"
    target: Target = "mlp_output"
    scale: RangeConfig | None = None
    hidden: Positive = 8
    max_hops: Positive | None = None
    indicator_sigma: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 0.1
    other_start: Finite = 0.0


class LineageConfig(StrictModel):
    """Split-slerp lineages for m2n2."""

    models: Annotated[tuple[Name, ...], Field(min_length=2)]
    max_merges: Positive = 32


class GenomeConfig(StrictModel):
    """kind says which of the tables are read: exactly these must be there.

    merges: made before the search and used like sources (PS first, then DFS); in a file, also
    the one merge of a recipe, which must draw on sources of the same names.
    """

    kind: Literal["ps", "dfs", "ps_dfs", "lineage"]
    ps: PsConfig | None = None
    dfs: DfsConfig | None = None
    lineage: LineageConfig | None = None
    merges: dict[Name, MergeSpec] = {}

    @model_validator(mode="after")
    def _check(self) -> "GenomeConfig":
        needed = self.kind.split("_")
        for table in ("ps", "dfs", "lineage"):
            if (getattr(self, table) is not None) != (table in needed):
                verb = "needs" if table in needed else "does not read"
                raise ValueError(f"kind '{self.kind}' {verb} the table genome.{table}")
        return self


class OptimizerConfig(StrictModel):
    """name and settings as `search.optimizers.build.build_optimizer` takes them."""

    name: Word = "cma"
    settings: dict[Word, int | float | str | None] = {}


class TaskConfig(StrictModel):
    """A JSONL `file`, a builtin: `mini` (generated) or `mgsm_ja` (`file` is its table), or a task
    of lm-evaluation-harness: `lm_eval` is its name, see `search.tasks.lm_eval.load_lm_eval`.

    items: half-open range of items to keep; language, count, seed: of `mini`. What replies are
    made and read with is the builtin's own unless given.
    """

    name: Name
    file: Word | None = None
    builtin: Literal["mini", "mgsm_ja"] | None = None
    lm_eval: Word | None = None
    include_path: Word | None = None
    metric: Word | None = None
    split: Split | None = None
    items: Annotated[tuple[int, ...], Field(min_length=2, max_length=2)] | None = None
    language: Literal["ja", "en"] | None = None
    count: Positive | None = None
    seed: Seed | None = None
    template: Text | None = None
    chat: bool | None = None
    stop: tuple[Annotated[str, Field(min_length=1)], ...] | None = None
    max_new_tokens: Positive | None = None
    protocol: Protocol | None = None
    require_language: bool | None = None

    @model_validator(mode="after")
    def _check(self) -> "TaskConfig":
        if self.lm_eval is not None:
            self._check_lm_eval()
        elif self.include_path is not None or self.metric is not None:
            raise ValueError("include_path and metric belong to lm_eval")
        elif (self.file is None) != (self.builtin == "mini"):
            raise ValueError(
                "give a file (JSONL, or MGSM's table), or builtin = 'mini', or lm_eval = 'TASK'"
            )
        of_mini = (self.language, self.count, self.seed)
        if self.builtin != "mini" and any(value is not None for value in of_mini):
            raise ValueError("language, count and seed belong to the builtin 'mini'")
        if self.builtin == "mgsm_ja" and self.split not in (None, "test"):
            raise ValueError(f"split '{self.split}': MGSM is the test, nothing else")
        if self.builtin != "mgsm_ja" and self.split is None:
            raise ValueError("needs a split: train, search, validation or test")
        if self.template is not None and "{input}" not in self.template:
            raise ValueError("template must hold {input}")
        return self

    def _check_lm_eval(self) -> None:
        known = ("name", "lm_eval", "include_path", "metric", "split", "items")
        for key in type(self).model_fields:
            if key not in known and getattr(self, key) is not None:
                raise ValueError(f"{key} is not for lm_eval: its YAML says how it is asked")


class ObjectiveConfig(StrictModel):
    """A task that counts; weight: its share of the mean."""

    task: Name
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0


class EngineConfig(StrictModel):
    """Settings of the engine, see `evoserve.config.Settings`; a device is not part of the run."""

    device: Word | None = None
    dtype: DTypeName | None = None
    threads: Annotated[int, Field(ge=0)] | None = None
    kv_cache_bytes: Positive | None = None
    max_model_len: Positive | None = None
    max_num_seqs: Positive | None = None
    max_num_batched_tokens: Positive | None = None


class SearchConfig(StrictModel):
    """One search.

    combine: `mean` is one objective, the weighted mean of the tasks' scores; `separate` is one
    objective per task. generations, evaluations: whichever is reached first ends the run, after a
    whole generation. catalogue: names of sources; default: models/catalogue.toml if it is there.
    """

    name: RecipeName
    seed: Seed = 0
    description: Text = ""
    license: Word | None = None
    tokenizer: Name | None = None
    catalogue: Word | None = None
    generations: Positive | None = None
    evaluations: Positive | None = None
    sources: Annotated[dict[Name, SourceSpec], Field(min_length=1)]
    genome: GenomeConfig
    optimizer: OptimizerConfig = OptimizerConfig()
    combine: Literal["mean", "separate"] = "mean"
    objectives: Annotated[tuple[ObjectiveConfig, ...], Field(min_length=1)]
    tasks: Annotated[tuple[TaskConfig, ...], Field(min_length=1)]
    fitness: FitnessConfig = FullConfig()
    validation: ValidationConfig | None = None
    engine: EngineConfig = EngineConfig()
    executor: ExecutorConfig = ExecutorConfig()

    @field_validator("sources", mode="before")
    @classmethod
    def _short_sources(cls, value: Any) -> Any:
        """`ja = "mini/ja"` is short for `ja = { model = "mini/ja" }`."""
        if not isinstance(value, dict):
            return value
        return {k: {"model": v} if isinstance(v, str) else v for k, v in value.items()}

    @model_validator(mode="after")
    def _check(self) -> "SearchConfig":
        names = [task.name for task in self.tasks]
        counted = [objective.task for objective in self.objectives]
        for what, found in (("tasks", names), ("objectives", counted)):
            if len(set(found)) != len(found):
                raise ValueError(f"{what}: {', '.join(found)} names one twice")
        unknown = [task for task in counted if task not in names]
        if unknown:
            raise ValueError(f"objectives: no task '{unknown[0]}'; there are {', '.join(names)}")
        if self.combine == "separate" and any(o.weight != 1.0 for o in self.objectives):
            raise ValueError("objectives: weights mean nothing with combine = 'separate'")
        if self.generations is None and self.evaluations is None:
            raise ValueError("needs a budget: generations, evaluations or both")
        self._check_fitness()
        return self

    def _check_fitness(self) -> None:
        kind = self.fitness.kind
        if kind != "full" and self.combine == "separate":
            raise ValueError(f"fitness '{kind}' is for one objective, combine = 'mean'")
        if kind != "full" and self.optimizer.name == "m2n2":
            raise ValueError(f"optimizer m2n2 compares all items, fitness '{kind}' skips some")
        if self.validation is None:
            if kind == "minibatch":
                raise ValueError(
                    "fitness 'minibatch' needs a [validation] task to tell the best by"
                )
            return
        name = self.validation.task
        found = [task for task in self.tasks if task.name == name]
        if not found or name in [objective.task for objective in self.objectives]:
            raise ValueError(f"validation: '{name}' must be a task that no objective names")
        if found[0].builtin == "mgsm_ja" or found[0].split == "test":
            raise ValueError(f"validation: '{name}' is a test set, nothing may be chosen by it")
        if self.combine == "separate":
            raise ValueError("validation is for one objective, combine = 'mean'")


def load_config(file: Path) -> SearchConfig:
    """Read and check a config. Raises ConfigError that names file, key and value.

    `merges.NAME = { recipe = "file.json" }` is replaced by the one merge of that recipe.
    """
    try:
        document = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"config {file}: {error}") from None
    try:
        return parse_config(_with_recipes(document, file.absolute().parent))
    except InputError as error:
        raise ConfigError(f"config {file}: {error}") from None


def parse_config(document: object) -> SearchConfig:
    """A config from parsed TOML or JSON. Raises ConfigError that names the key and the value."""
    try:
        # As JSON, where a list may stand for a tuple although nothing else is converted.
        return SearchConfig.model_validate_json(json.dumps(document, default=str))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        shown = "" if isinstance(first["input"], dict) else f" = {first['input']!r:.100}"
        raise ConfigError(f"{where}{shown}: {message}" if where else message) from None


def _with_recipes(document: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The document with the merges of recipe files in the place of the files' names."""
    genome = document.get("genome")
    merges = genome.get("merges") if isinstance(genome, dict) else None
    if not isinstance(genome, dict) or not isinstance(merges, dict):
        return document
    filled = {
        name: _merge_of(f"genome.merges.{name}", folder / value["recipe"])
        if isinstance(value, dict) and list(value) == ["recipe"]
        else value
        for name, value in merges.items()
    }
    return {**document, "genome": {**genome, "merges": filled}}


def _merge_of(where: str, file: Path) -> dict[str, Any]:
    merges = list(load_manifest(file).merges.values())
    if len(merges) != 1:
        raise ConfigError(f"{where}: {file} holds {len(merges)} merges, it must be exactly one")
    return merges[0].model_dump(mode="json", exclude_unset=True)
