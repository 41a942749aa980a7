"""The parts of a manifest as immutable pydantic models; unknown keys are refused."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from evoserve.manifest.methods import COEFFICIENT_DEFAULTS, OPTION_DEFAULTS, TRAITS, MethodName
from evoserve.manifest.refs import MAX_PATH_STEPS, NAME_PATTERN

Name = Annotated[str, Field(pattern=NAME_PATTERN, max_length=64)]
RecipeName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._\-]*$", max_length=128)]
Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
MAX_SCALE = 10_000
Finite = Annotated[float, Field(allow_inf_nan=False)]
Scale = Annotated[float, Field(ge=-MAX_SCALE, le=MAX_SCALE, allow_inf_nan=False)]
PerGroup = Finite | tuple[Finite, ...]
MergeDType = Literal["float32", "bfloat16", "float16"]
Word = Annotated[str, Field(max_length=256)]
Text = Annotated[str, Field(max_length=65536)]
Integer = Annotated[int, Field(ge=-(2**53), le=2**53)]
JsonValue = Text | Integer | Finite | bool | None


class StrictModel(BaseModel):
    """Frozen; no unknown keys, no silent conversion."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, populate_by_name=True, protected_namespaces=()
    )


class AdapterSpec(StrictModel):
    """A PEFT LoRA adapter that is folded into its source when the source is read."""

    model: Annotated[str, Field(min_length=1, max_length=1024)]
    revision: Word | None = None
    digest: Digest | None = None


class SourceSpec(StrictModel):
    """A checkpoint: a local folder, a catalogue name, or a Hugging Face id with its revision."""

    model: Annotated[str, Field(min_length=1, max_length=1024)]
    revision: Word | None = None
    digest: Digest | None = None
    adapter: AdapterSpec | None = None


class MergeOptions(StrictModel):
    """Switches of a merge method; None means the method's default, see `OPTION_DEFAULTS`."""

    rescale: Literal["density", "l1", "none"] | None = None
    normalize: bool | None = None
    lambda_: Annotated[Scale | None, Field(alias="lambda")] = None
    flatten: bool | None = None
    row_wise: bool | None = None
    filter_wise: bool | None = None
    max_iter: Annotated[int | None, Field(ge=1, le=10_000)] = None
    tol: Annotated[float | None, Field(gt=0, allow_inf_nan=False)] = None

    def or_default(self, method: MethodName) -> "MergeOptions":
        """The same options, with those the method reads and the file omits at their default."""
        given = self.model_dump(by_alias=True, exclude_none=True)
        return MergeOptions.model_validate({**OPTION_DEFAULTS[method], **given})

    def given(self) -> frozenset[str]:
        """The names, as in the file, of the options that are set."""
        return frozenset(self.model_dump(by_alias=True, exclude_none=True))


class MergeSpec(StrictModel):
    """One parameter-space merge.

    `models` are the merged models in order of summation; by default the keys of `weights`, sorted.
    Every coefficient is one number for all groups or one number per group.
    """

    method: MethodName
    base: Name | None = None
    models: Annotated[tuple[Name, ...], Field(max_length=64)] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0
    dtype: MergeDType = "float32"
    options: MergeOptions = MergeOptions()
    groups: Annotated[tuple[Word, ...], Field(max_length=65536)] = ("all",)
    weights: dict[Name, PerGroup] = {}
    densities: dict[Name, PerGroup] = {}
    gammas: dict[Name, PerGroup] = {}
    epsilons: dict[Name, PerGroup] = {}
    t: PerGroup | None = None
    split: PerGroup | None = None

    @property
    def inputs(self) -> tuple[str, ...]:
        """The merged models (without the base) in order of summation."""
        return self.models if self.models is not None else tuple(sorted(self.weights))

    @property
    def reads(self) -> tuple[str, ...]:
        """Every model this merge reads, base first."""
        return self.inputs if self.base is None else (self.base, *self.inputs)

    def coefficients(self, model: str, group: int) -> dict[str, float]:
        """What the method reads for `model` in group number `group`, defaults filled in.

        Keys are weights, densities, gammas, epsilons (those the method reads) and, alike for all
        models, t and split.
        """
        traits = TRAITS[self.method]
        found = {
            field: _in_group(getattr(self, field).get(model, default), group)
            for field, default in COEFFICIENT_DEFAULTS.items()
            if field in traits.coefficients
        }
        for field in ("t", "split"):
            value = getattr(self, field)
            if value is not None:
                found[field] = _in_group(value, group)
        return found


class NetworkScaling(StrictModel):
    """The scaling network pi_theta(i, j, t): tanh layers, then W = 1 + a linear output.

    Inputs are (i + 1) / M, j / M and t / T: i, j are positions of the layers that the hop leaves
    and enters in the concatenation of all layers of `pool` (M in total; i = -1 is the embedding),
    t is the hop's number and T the path's length.
    weights: one matrix (num_out, num_in) per network layer; biases: one vector per network layer.
    """

    pool: Annotated[tuple[Name, ...], Field(min_length=1)]
    weights: Annotated[tuple[tuple[tuple[Finite, ...], ...], ...], Field(min_length=1)]
    biases: Annotated[tuple[tuple[Finite, ...], ...], Field(min_length=1)]


class ScalingSpec(StrictModel):
    """What each hop of the path multiplies its input by; at most one of the three forms is given.

    target: `mlp_output` scales the previous hop's MLP branch (and the embedding at hop 0),
    `hidden_state` the whole hidden state.
    """

    target: Literal["mlp_output", "hidden_state"] = "mlp_output"
    default: Scale = 1.0
    matrix: tuple[tuple[Word, Word, Scale], ...] | None = None
    per_hop: Annotated[tuple[Scale, ...], Field(max_length=MAX_PATH_STEPS)] | None = None
    network: NetworkScaling | None = None


class GenerationSpec(StrictModel):
    """Sampling defaults for requests that do not say."""

    temperature: Annotated[float | None, Field(ge=0, le=2, allow_inf_nan=False)] = None
    top_p: Annotated[float | None, Field(gt=0, le=1, allow_inf_nan=False)] = None
    top_k: Annotated[int | None, Field(ge=0)] = None
    min_p: Annotated[float | None, Field(ge=0, le=1, allow_inf_nan=False)] = None
    repetition_penalty: Annotated[float | None, Field(gt=0, le=2, allow_inf_nan=False)] = None
    max_tokens: Annotated[int | None, Field(ge=1)] = None


class EvaluationSpec(StrictModel):
    """One score of this recipe; `items` are the per-item results in the task's order."""

    task: Word
    split: Word | None = None
    protocol: Word | None = None
    metric: Word
    score: Finite
    interval: tuple[Finite, Finite] | None = None
    num_items: Annotated[int, Field(ge=0)]
    items: tuple[Finite, ...] | None = None
    task_digest: Digest | None = None
    outputs_digest: Digest | None = None


def _in_group(value: PerGroup, group: int) -> float:
    return value[group] if isinstance(value, tuple) else value
