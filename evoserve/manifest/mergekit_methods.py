"""mergekit 0.1.5's merge methods as data: what each parameter is in a manifest, and its default."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from evoserve.manifest.methods import METHOD_NAMES, OptionValue

Kind = Literal["bool", "int", "float"]


@dataclass(frozen=True)
class InputParameter:
    """A parameter that mergekit reads per model; `default` None: it must be given."""

    field: str
    default: float | None = None


@dataclass(frozen=True)
class SharedParameter:
    """A parameter that mergekit reads once per tensor and a manifest once per merge."""

    option: str
    kind: Kind
    default: OptionValue


@dataclass(frozen=True)
class MergekitMethod:
    """What mergekit declares for a method.

    base: required, optional (its task vectors are merged), or ignored (a model like the others);
    inputs: per-model parameters by mergekit's word; shared: per-merge ones; has_t: slerp's `t`;
    idle: declared by mergekit, but without effect on the result of this method.
    """

    base: Literal["required", "optional", "ignored"]
    inputs: Mapping[str, InputParameter] = field(default_factory=dict)
    shared: Mapping[str, SharedParameter] = field(default_factory=dict)
    has_t: bool = False
    idle: frozenset[str] = frozenset()

    @property
    def shared_words(self) -> list[str]:
        """Words that may stand in the parameters of a slice or at the top, not of a model."""
        words = set(self.shared) | ({"t"} if self.has_t else set())
        return sorted(words | (self.idle - {"density"}))

    @property
    def input_words(self) -> list[str]:
        """Words that may stand in the parameters of a model, of a slice or at the top."""
        return sorted(set(self.inputs) | (self.idle & {"density"}))


_WEIGHT = InputParameter("weights")
_DENSITY = InputParameter("densities", 1.0)
_GAMMA = InputParameter("gammas", 0.01)
_EPSILON = InputParameter("epsilons", 0.15)
_LAMBDA = SharedParameter("lambda", "float", 1.0)


def _task_vectors(
    extra: Mapping[str, InputParameter] | None = None,
    *,
    normalize: bool = False,
    rescale: bool = False,
) -> MergekitMethod:
    return MergekitMethod(
        base="required",
        inputs={"weight": _WEIGHT, "density": _DENSITY, **(extra or {})},
        shared={
            "normalize": SharedParameter("normalize", "bool", normalize),
            "rescale": SharedParameter("rescale", "bool", rescale),
            "lambda": _LAMBDA,
        },
        idle=frozenset({"int8_mask"}),
    )


MERGEKIT_METHODS: Mapping[str, MergekitMethod] = {
    "linear": MergekitMethod(
        base="ignored",
        inputs={"weight": _WEIGHT},
        shared={"normalize": SharedParameter("normalize", "bool", True)},
    ),
    "task_arithmetic": MergekitMethod(
        base="required",
        inputs={"weight": _WEIGHT},
        shared={"normalize": SharedParameter("normalize", "bool", False), "lambda": _LAMBDA},
        idle=frozenset({"int8_mask", "rescale", "density"}),
    ),
    "ties": _task_vectors(normalize=True),
    "dare_linear": _task_vectors(rescale=True),
    "dare_ties": _task_vectors(rescale=True),
    "breadcrumbs": _task_vectors({"gamma": _GAMMA}),
    "breadcrumbs_ties": _task_vectors({"gamma": _GAMMA}),
    "della": _task_vectors({"epsilon": _EPSILON}, normalize=True, rescale=True),
    "della_linear": _task_vectors({"epsilon": _EPSILON}, rescale=True),
    "slerp": MergekitMethod(base="required", has_t=True),
    "nuslerp": MergekitMethod(
        base="optional",
        inputs={"weight": _WEIGHT},
        shared={
            "nuslerp_flatten": SharedParameter("flatten", "bool", True),
            "nuslerp_row_wise": SharedParameter("row_wise", "bool", False),
        },
    ),
    "model_stock": MergekitMethod(
        base="required", shared={"filter_wise": SharedParameter("filter_wise", "bool", False)}
    ),
    "karcher": MergekitMethod(
        base="ignored",
        shared={
            "max_iter": SharedParameter("max_iter", "int", 10),
            "tol": SharedParameter("tol", "float", 1e-5),
        },
    ),
    "passthrough": MergekitMethod(base="ignored", inputs={"scale": InputParameter("weights", 1.0)}),
}
"""The methods both have; of mergekit's, arcee_fusion, multislerp, nearswap, ram, ramplus_tl and
sce are missing here, of ours split_slerp there."""

SHARED_METHODS = tuple(name for name in METHOD_NAMES if name in MERGEKIT_METHODS)
