"""Which merge methods exist and which coefficients and options each one takes.

The manifest refuses what a method would ignore, so this table lives beside the schema; the
arithmetic of each method is in `evoserve.merge`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

MethodName = Literal[
    "linear",
    "task_arithmetic",
    "ties",
    "dare_linear",
    "dare_ties",
    "slerp",
    "nuslerp",
    "breadcrumbs",
    "breadcrumbs_ties",
    "della",
    "della_linear",
    "model_stock",
    "karcher",
    "passthrough",
    "split_slerp",
]
METHOD_NAMES: tuple[str, ...] = get_args(MethodName)
OptionValue = str | bool | int | float

COEFFICIENT_DEFAULTS: Mapping[str, float] = {
    "weights": 1.0,
    "densities": 1.0,
    "gammas": 0.01,
    "epsilons": 0.15,
}


@dataclass(frozen=True)
class MethodTraits:
    """What a method takes.

    base: required, optional or none. For slerp and split_slerp the base is the model at t = 0.
    models: least and most number of models beside the base (None: no limit).
    coefficients: which of weights, densities, gammas, epsilons (per model) and t, split (per
        group) it reads; those in `required` must be given.
    options: which keys of `options` it reads.
    random: its result depends on the merge's seed.
    """

    base: Literal["required", "optional", "none"]
    models: tuple[int, int | None]
    coefficients: frozenset[str]
    required: frozenset[str]
    options: frozenset[str]
    random: bool = False


def _traits(
    base: Literal["required", "optional", "none"],
    models: tuple[int, int | None],
    required: str = "",
    optional: str = "",
    options: str = "",
    *,
    random: bool = False,
) -> MethodTraits:
    needed = frozenset(required.split())
    return MethodTraits(
        base=base,
        models=models,
        coefficients=needed | frozenset(optional.split()),
        required=needed,
        options=frozenset(options.split()),
        random=random,
    )


_MANY = (1, None)

TRAITS: dict[str, MethodTraits] = {
    "linear": _traits("none", _MANY, "weights", options="normalize"),
    "task_arithmetic": _traits("required", _MANY, "weights", options="normalize lambda"),
    "ties": _traits("required", _MANY, "weights", "densities", "normalize lambda"),
    "dare_linear": _traits(
        "required", _MANY, "weights", "densities", "rescale normalize lambda", random=True
    ),
    "dare_ties": _traits(
        "required", _MANY, "weights", "densities", "rescale normalize lambda", random=True
    ),
    "slerp": _traits("required", (1, 1), "t"),
    "nuslerp": _traits("optional", (2, 2), "weights", options="flatten row_wise"),
    "breadcrumbs": _traits("required", _MANY, "weights", "densities gammas", "normalize lambda"),
    "breadcrumbs_ties": _traits(
        "required", _MANY, "weights", "densities gammas", "normalize lambda"
    ),
    "della": _traits(
        "required",
        _MANY,
        "weights",
        "densities epsilons",
        "rescale normalize lambda",
        random=True,
    ),
    "della_linear": _traits(
        "required",
        _MANY,
        "weights",
        "densities epsilons",
        "rescale normalize lambda",
        random=True,
    ),
    "model_stock": _traits("required", (2, None), options="filter_wise"),
    "karcher": _traits("none", _MANY, optional="weights", options="max_iter tol"),
    "passthrough": _traits("none", (1, 1), optional="weights"),
    "split_slerp": _traits("required", (1, 1), "t split"),
}

_DELTA: Mapping[str, OptionValue] = {"normalize": False, "lambda": 1.0}
_SCALED: Mapping[str, OptionValue] = {"rescale": "density", **_DELTA}

OPTION_DEFAULTS: Mapping[str, Mapping[str, OptionValue]] = {
    "linear": {"normalize": True},
    "task_arithmetic": _DELTA,
    "ties": {**_DELTA, "normalize": True},
    "dare_linear": _SCALED,
    "dare_ties": _SCALED,
    "slerp": {},
    "nuslerp": {"flatten": True, "row_wise": False},
    "breadcrumbs": _DELTA,
    "breadcrumbs_ties": _DELTA,
    "della": {**_SCALED, "normalize": True},
    "della_linear": _SCALED,
    "model_stock": {"filter_wise": False},
    "karcher": {"max_iter": 10, "tol": 1e-5},
    "passthrough": {},
    "split_slerp": {},
}
