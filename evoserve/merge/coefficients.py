"""The numbers of one merge at one tensor: its group's coefficients and the method's options."""

from dataclasses import dataclass, replace

from evoserve.manifest.methods import COEFFICIENT_DEFAULTS, TRAITS
from evoserve.manifest.parts import MergeOptions, MergeSpec
from evoserve.merge.masks import MaskKey, mask_key


@dataclass(frozen=True)
class Options:
    """A method's switches, defaults filled in (`evoserve.manifest.methods.OPTION_DEFAULTS`).

    The values here stand for options the method does not read.
    """

    rescale: str = "none"
    normalize: bool = False
    lambda_: float = 1.0
    flatten: bool = True
    row_wise: bool = False
    filter_wise: bool = False
    max_iter: int = 1
    tol: float = 1.0


@dataclass(frozen=True)
class Coefficients:
    """One number per merged model (the base has none), in order of summation.

    split_at: flat index in this tensor from which 1 - t replaces t (split_slerp).
    mask_keys: of the random masks, one per model; empty for methods without.
    has_base: input 0 is the base, so model k is input k + 1.
    """

    weights: tuple[float, ...]
    densities: tuple[float, ...]
    gammas: tuple[float, ...]
    epsilons: tuple[float, ...]
    mask_keys: tuple[MaskKey, ...] = ()
    t: float = 0.0
    split_at: int = 0
    has_base: bool = True
    options: Options = Options()

    @property
    def first(self) -> int:
        """Input index of the first merged model."""
        return int(self.has_base)

    def select(self, models: tuple[int, ...]) -> "Coefficients":
        """Those of `models` alone."""
        return replace(
            self,
            weights=tuple(self.weights[k] for k in models),
            densities=tuple(self.densities[k] for k in models),
            gammas=tuple(self.gammas[k] for k in models),
            epsilons=tuple(self.epsilons[k] for k in models),
            mask_keys=tuple(self.mask_keys[k] for k in models) if self.mask_keys else (),
        )

    def describe(self, method: str) -> dict[str, object]:
        """What of this determines the result of `method`, as JSON."""
        traits = TRAITS[method]
        named = {"lambda": "lambda_", "split": "split_at"}
        options = {name: getattr(self.options, named.get(name, name)) for name in traits.options}
        found: dict[str, object] = {
            name: getattr(self, named.get(name, name)) for name in traits.coefficients
        }
        if traits.random and any(density < 1 for density in self.densities):
            found["mask_keys"] = self.mask_keys
        return {"options": options, **found}


def resolve_options(spec: MergeSpec) -> Options:
    """The options of a merge with the method's defaults filled in."""
    given: MergeOptions = spec.options.or_default(spec.method)
    return Options(**{k: v for k, v in given.model_dump().items() if v is not None})


def resolve_coefficients(
    spec: MergeSpec, options: Options, group: int, tensor: str, split_at: int
) -> Coefficients:
    """The coefficients of `spec` for `tensor`, which lies in its group number `group`."""
    tables = [spec.coefficients(model, group) for model in spec.inputs]

    def row(field: str) -> tuple[float, ...]:
        return tuple(table.get(field, COEFFICIENT_DEFAULTS[field]) for table in tables)

    keys: tuple[MaskKey, ...] = ()
    if TRAITS[spec.method].random:
        keys = tuple(mask_key(spec.seed, model, tensor) for model in spec.inputs)
    return Coefficients(
        weights=row("weights"),
        densities=row("densities"),
        gammas=row("gammas"),
        epsilons=row("epsilons"),
        mask_keys=keys,
        t=tables[0].get("t", 0.0),
        split_at=split_at,
        has_base=spec.base is not None,
        options=options,
    )
