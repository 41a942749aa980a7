"""What can be checked of a manifest without its sources; every error names the JSON path."""

from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter

from evoserve.errors import ManifestError
from evoserve.manifest.methods import TRAITS, MethodTraits
from evoserve.manifest.parts import (
    MAX_SCALE,
    MergeSpec,
    NetworkScaling,
    PerGroup,
    ScalingSpec,
    SourceSpec,
)
from evoserve.manifest.refs import MAX_PATH_STEPS, LayerRef, expand_path, parse_group, parse_layer

EMBED_HOP = "embed"
UNION = "union"
_DENSITY_LIMITS = "(0, 1]"


def check_merges(merges: Mapping[str, MergeSpec], sources: Mapping[str, SourceSpec]) -> None:
    """Raises ManifestError for a name clash, an unknown model, a cycle or a wrong coefficient."""
    for name, merge in merges.items():
        where = f"merges.{name}"
        if name in sources:
            raise ManifestError(f"'{name}' is also the name of a source", where=where)
        field = "models" if merge.models is not None else "weights"
        for at, model in [("base", merge.base), *((field, model) for model in merge.inputs)]:
            if model is not None and model not in sources and model not in merges:
                raise ManifestError(
                    f"unknown model '{model}'; known: {_names(sources, merges)}",
                    where=f"{where}.{at}",
                )
        _check_merge(where, merge)
    _check_acyclic(merges)


def check_names(
    fields: Mapping[str, str | None],
    sources: Mapping[str, SourceSpec],
    merges: Mapping[str, MergeSpec],
) -> None:
    """Each given field (tokenizer, embed, head) must name a model; tokenizer may be UNION."""
    for field, model in fields.items():
        if field == "tokenizer" and model == UNION:
            continue
        if model is not None and model not in sources and model not in merges:
            raise ManifestError(
                f"unknown model '{model}'; known: {_names(sources, merges)}", where=field
            )


def check_path(path: Sequence[str], known: Sequence[str], embed: str, head: str) -> list[LayerRef]:
    """The expanded path. Raises ManifestError if it is malformed, or starts or ends elsewhere."""
    if not path:
        raise ManifestError("is empty; leave it out for the model's own layers", where="path")
    layers: list[LayerRef] = []
    for index, text in enumerate(path):
        where = f"path[{index}]"
        try:
            steps = expand_path([text])
        except ValueError as error:
            raise ManifestError(str(error), where=where) from None
        if steps[0].model not in known:
            raise ManifestError(
                f"unknown model '{steps[0].model}'; known: {', '.join(known)}", where=where
            )
        layers.extend(steps)
        if len(layers) > MAX_PATH_STEPS:
            raise ManifestError(f"the path has more than {MAX_PATH_STEPS} steps", where=where)
    _check_ends(layers, embed, head)
    return layers


def check_scaling(
    scaling: ScalingSpec, path: Sequence[LayerRef] | None, known: Sequence[str]
) -> None:
    """Raises ManifestError if forms are mixed or do not fit the path (None: not written out)."""
    given = [f for f in ("matrix", "per_hop", "network") if getattr(scaling, f) is not None]
    if len(given) > 1:
        raise ManifestError(f"give only one of {' and '.join(given)}", where="scaling")
    if scaling.per_hop is not None and path is not None and len(scaling.per_hop) != len(path):
        raise ManifestError(
            f"has {len(scaling.per_hop)} numbers for a path of {len(path)} steps",
            where="scaling.per_hop",
        )
    if scaling.matrix is not None:
        _check_matrix(scaling.matrix, path)
    if scaling.network is not None:
        _check_network(scaling.network, path, known)


def check_coefficient(where: str, field: str, number: float, model: str = "") -> None:
    """Raises ManifestError if `number` is out of the range of `field` (weights, densities, ...)."""
    of = f" of model '{model}'" if model else ""
    if field == "densities" and not 0 < number <= 1:
        raise ManifestError(f"density {number}{of} must be in {_DENSITY_LIMITS}", where=where)
    if field == "weights" and abs(number) > MAX_SCALE:
        raise ManifestError(
            f"weight {number}{of} must be between -{MAX_SCALE} and {MAX_SCALE}", where=where
        )
    if field in ("t", "split", "gammas", "epsilons") and not 0 <= number <= 1:
        name = {"gammas": "gamma", "epsilons": "epsilon"}.get(field, field)
        raise ManifestError(f"{name} {number}{of} must be in [0, 1]", where=where)


def _check_merge(where: str, merge: MergeSpec) -> None:
    traits = TRAITS[merge.method]
    _check_models(where, merge, traits)
    _check_groups(where, merge.groups)
    _check_options(where, merge, traits)
    for field in ("weights", "densities", "gammas", "epsilons"):
        _check_per_model(f"{where}.{field}", field, merge, traits)
    for field in ("t", "split"):
        value: PerGroup | None = getattr(merge, field)
        if value is not None:
            _check_used(f"{where}.{field}", field, merge, traits)
            _check_values(f"{where}.{field}", field, value, len(merge.groups), "")
        elif field in traits.required:
            raise ManifestError(f"{merge.method} needs '{field}'", where=where)


def _check_models(where: str, merge: MergeSpec, traits: MethodTraits) -> None:
    if traits.base == "required" and merge.base is None:
        raise ManifestError(f"{merge.method} needs a base model", where=f"{where}.base")
    if traits.base == "none" and merge.base is not None:
        raise ManifestError(f"{merge.method} takes no base model", where=f"{where}.base")
    least, most = traits.models
    count = len(merge.inputs)
    if count < least or (most is not None and count > most):
        limit = f"exactly {least}" if least == most else f"at least {least}"
        raise ManifestError(
            f"{merge.method} needs {limit} model(s) in weights or models, got {count}", where=where
        )
    if len(set(merge.inputs)) != count:
        raise ManifestError("a model is listed twice", where=f"{where}.models")
    if merge.base in merge.inputs:
        raise ManifestError(
            f"'{merge.base}' is the base; its task vector is zero", where=f"{where}.models"
        )


def _check_groups(where: str, groups: Sequence[str]) -> None:
    if not groups:
        raise ManifestError('is empty; use ["all"]', where=f"{where}.groups")
    for index, text in enumerate(groups):
        try:
            parse_group(text)
        except ValueError as error:
            raise ManifestError(str(error), where=f"{where}.groups[{index}]") from None
    if len(set(groups)) != len(groups):
        raise ManifestError("a group is listed twice", where=f"{where}.groups")


def _check_options(where: str, merge: MergeSpec, traits: MethodTraits) -> None:
    unused = sorted(merge.options.given() - traits.options)
    if unused:
        takes = ", ".join(sorted(traits.options)) or "none"
        raise ManifestError(
            f"{merge.method} does not use option '{unused[0]}'; its options: {takes}",
            where=f"{where}.options.{unused[0]}",
        )


def _check_per_model(where: str, field: str, merge: MergeSpec, traits: MethodTraits) -> None:
    table: dict[str, PerGroup] = getattr(merge, field)
    if table:
        _check_used(where, field, merge, traits)
    for model, value in table.items():
        if model not in merge.inputs:
            raise ManifestError(
                f"'{model}' is not merged here; models: {', '.join(merge.inputs)}",
                where=f"{where}.{model}",
            )
        _check_values(f"{where}.{model}", field, value, len(merge.groups), model)
    if field in traits.required:
        missing = [model for model in merge.inputs if model not in table]
        if missing:
            raise ManifestError(f"no number for model '{missing[0]}'", where=where)


def _check_used(where: str, field: str, merge: MergeSpec, traits: MethodTraits) -> None:
    if field not in traits.coefficients:
        raise ManifestError(f"{merge.method} does not use '{field}'", where=where)


def _check_values(where: str, field: str, value: PerGroup, num_groups: int, model: str) -> None:
    values = value if isinstance(value, tuple) else (value,)
    if isinstance(value, tuple) and len(value) != num_groups:
        raise ManifestError(f"has {len(value)} numbers for {num_groups} groups", where=where)
    for index, number in enumerate(values):
        at = f"{where}[{index}]" if isinstance(value, tuple) else where
        check_coefficient(at, field, number, model)


def _check_acyclic(merges: Mapping[str, MergeSpec]) -> None:
    graph = {name: [m for m in merge.reads if m in merges] for name, merge in merges.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        raise ManifestError(f"merges form a cycle: {cycle}", where="merges") from None


def _check_ends(layers: Sequence[LayerRef], embed: str, head: str) -> None:
    if layers[0].model != embed:
        raise ManifestError(
            f"starts with {layers[0]} but the embedding is that of '{embed}'; the first step must "
            "be a layer of the model that gives the embedding",
            where="path[0]",
        )
    if layers[-1].model != head:
        raise ManifestError(
            f"ends with {layers[-1]} but the head is that of '{head}'; the last step must be a "
            "layer of the model that gives the head",
            where="path[-1]",
        )


def _check_matrix(
    matrix: Sequence[tuple[str, str, float]], path: Sequence[LayerRef] | None
) -> None:
    if path is None:
        raise ManifestError("needs a path that is written out", where="scaling.matrix")
    hops = {(EMBED_HOP if i == 0 else str(path[i - 1]), str(ref)) for i, ref in enumerate(path)}
    seen: set[tuple[str, str]] = set()
    for index, (source, target, _) in enumerate(matrix):
        where = f"scaling.matrix[{index}]"
        for text in (source, target) if source != EMBED_HOP else (target,):
            try:
                parse_layer(text)
            except ValueError as error:
                raise ManifestError(str(error), where=where) from None
        if (source, target) in seen:
            raise ManifestError(f"{source} -> {target} is listed twice", where=where)
        if (source, target) not in hops:
            raise ManifestError(f"the path has no hop {source} -> {target}", where=where)
        seen.add((source, target))


def _check_network(
    network: NetworkScaling, path: Sequence[LayerRef] | None, known: Sequence[str]
) -> None:
    if path is None:
        raise ManifestError("needs a path that is written out", where="scaling.network")
    if len(network.weights) != len(network.biases):
        raise ManifestError("needs one bias vector per weight matrix", where="scaling.network")
    width = 3
    for index, (matrix, bias) in enumerate(zip(network.weights, network.biases, strict=True)):
        where = f"scaling.network.weights[{index}]"
        if not matrix or any(len(row) != width for row in matrix):
            raise ManifestError(f"rows must hold {width} numbers", where=where)
        if len(bias) != len(matrix):
            raise ManifestError(
                f"has {len(bias)} numbers for {len(matrix)} rows",
                where=f"scaling.network.biases[{index}]",
            )
        width = len(matrix)
    if width != 1:
        raise ManifestError(f"the last layer must have 1 row, not {width}", where="scaling.network")
    for index, model in enumerate(network.pool):
        if model not in known or model in network.pool[:index]:
            fault = "listed twice" if model in known else f"unknown; known: {', '.join(known)}"
            raise ManifestError(f"'{model}' is {fault}", where=f"scaling.network.pool[{index}]")
    missing = sorted({ref.model for ref in path} - set(network.pool))
    if missing:
        raise ManifestError(
            f"the path visits '{missing[0]}', which is not in the pool",
            where="scaling.network.pool",
        )


def _names(sources: Mapping[str, SourceSpec], merges: Mapping[str, MergeSpec]) -> str:
    return ", ".join([*sources, *merges])
