"""A mergekit YAML as typed data: every form is brought to slices, every unknown key refused."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evoserve.errors import ManifestError
from evoserve.manifest.document import join_path
from evoserve.manifest.mergekit_methods import MERGEKIT_METHODS, SHARED_METHODS, MergekitMethod
from evoserve.manifest.mergekit_models import ModelRef, check_list, check_object, parse_model
from evoserve.manifest.mergekit_values import Scope, parse_scope

LayerCounts = Callable[[str], int] | Mapping[str, int]

_TOP = (
    "merge_method",
    "models",
    "slices",
    "modules",
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
)
_MODULE = "default"


@dataclass(frozen=True)
class Input:
    """A model of a slice with its parameters."""

    model: ModelRef
    scope: Scope


@dataclass(frozen=True)
class Slice:
    """Output layers that are merged from layers [start, stop) of each input."""

    inputs: tuple[Input, ...]
    start: int
    stop: int
    base: ModelRef | None
    scope: Scope
    where: str


@dataclass(frozen=True)
class MergekitConfig:
    """The whole file; `scopes` are the parameters beyond the slices', narrowest first."""

    method: str
    slices: tuple[Slice, ...]
    scopes: tuple[Scope, ...]
    base: ModelRef | None
    dtype: str | None
    tokenizer: ModelRef | str | None
    chat_template: str | None

    @property
    def declared(self) -> MergekitMethod:
        """What mergekit declares for the method."""
        return MERGEKIT_METHODS[self.method]


def parse_config(document: object, num_layers: LayerCounts) -> MergekitConfig:
    """The configuration in a parsed YAML file. Raises ManifestError that names the YAML path."""
    top = check_object(document, "", _TOP)
    method = _method(top.get("merge_method"))
    base = _optional_model(top, "base_model", "")
    body, where, scopes = _body(top)
    own = parse_scope(top.get("parameters"), "parameters")
    slices = _slices(body, where, base, method, num_layers)
    config = MergekitConfig(
        method=method,
        slices=slices,
        scopes=(*scopes, own),
        base=base,
        dtype=_dtype(top),
        tokenizer=_tokenizer(top),
        chat_template=_chat_template(top.get("chat_template")),
    )
    _check_words(config)
    return config


def layer_count(num_layers: LayerCounts, model: str, where: str) -> int:
    """The layers of `model`. Raises ManifestError if a mapping does not have it."""
    if callable(num_layers):
        return num_layers(model)
    if model not in num_layers:
        raise ManifestError(f"the number of layers of model '{model}' is not known", where=where)
    return num_layers[model]


def _body(top: Mapping[str, Any]) -> tuple[Mapping[str, Any], str, tuple[Scope, ...]]:
    """Where `models` or `slices` stand: at the top or in the one module of a language model."""
    given = [key for key in ("models", "slices", "modules") if top.get(key)]
    if len(given) != 1:
        raise ManifestError("give exactly one of models, slices and modules", where="")
    if given[0] != "modules":
        return top, "", ()
    modules = check_object(top["modules"], "modules", (_MODULE,))
    where = f"modules.{_MODULE}"
    module = check_object(modules[_MODULE], where, ("models", "slices", "parameters"))
    if bool(module.get("models")) == bool(module.get("slices")):
        raise ManifestError("give exactly one of models and slices", where=where)
    return module, where, (parse_scope(module.get("parameters"), f"{where}.parameters"),)


def _slices(
    body: Mapping[str, Any],
    where: str,
    base: ModelRef | None,
    method: str,
    num_layers: LayerCounts,
) -> tuple[Slice, ...]:
    if body.get("models"):
        slices: tuple[Slice, ...] = (
            _whole_models(body["models"], join_path(where, "models"), base, num_layers),
        )
    else:
        at = join_path(where, "slices")
        items = check_list(body["slices"], at)
        slices = tuple(_slice(s, join_path(at, i), base, num_layers) for i, s in enumerate(items))
    for slice_ in slices:
        _check_inputs(slice_, method)
    return slices


def _whole_models(
    value: object, where: str, base: ModelRef | None, num_layers: LayerCounts
) -> Slice:
    """All layers of each model; mergekit adds a base that is not among them at the end."""
    inputs = []
    for index, item in enumerate(check_list(value, where)):
        at = join_path(where, index)
        given = check_object(item, at, ("model", "parameters"))
        scope = parse_scope(given.get("parameters"), f"{at}.parameters")
        inputs.append(Input(parse_model(given.get("model"), f"{at}.model"), scope))
    if base is not None and all(item.model != base for item in inputs):
        inputs.append(Input(base, Scope("base_model", {})))
    counts = {item.model.model: layer_count(num_layers, item.model.model, where) for item in inputs}
    if len(set(counts.values())) != 1:
        listed = ", ".join(f"{model} has {count}" for model, count in counts.items())
        raise ManifestError(f"the models differ in their number of layers: {listed}", where=where)
    stop = next(iter(counts.values()))
    return Slice(tuple(inputs), 0, stop, base, Scope(where, {}), where)


def _slice(value: object, where: str, base: ModelRef | None, num_layers: LayerCounts) -> Slice:
    given = check_object(value, where, ("sources", "base_model", "parameters"))
    at = f"{where}.sources"
    inputs, ranges = [], []
    for index, item in enumerate(check_list(given.get("sources"), at)):
        place = join_path(at, index)
        source = check_object(item, place, ("model", "layer_range", "parameters"))
        model = parse_model(source.get("model"), f"{place}.model")
        scope = parse_scope(source.get("parameters"), f"{place}.parameters")
        inputs.append(Input(model, scope))
        count = layer_count(num_layers, model.model, place)
        ranges.append(_range(source.get("layer_range"), f"{place}.layer_range", count))
    if len(set(ranges)) != 1:
        listed = ", ".join(f"[{start}, {stop}]" for start, stop in ranges)
        raise ManifestError(
            f"the sources of a slice must have the same layer_range, got {listed}; layers of "
            "different number cannot be merged here",
            where=at,
        )
    own = _optional_model(given, "base_model", where) or base
    scope = parse_scope(given.get("parameters"), f"{where}.parameters")
    return Slice(tuple(inputs), *ranges[0], own, scope, where)


def _range(value: object, where: str, count: int) -> tuple[int, int]:
    items = value if isinstance(value, list) else []
    if len(items) != 2 or any(isinstance(i, bool) or not isinstance(i, int) for i in items):
        raise ManifestError("must be [first, past the last]", where=where)
    start, stop = items
    if not 0 <= start < stop <= count:
        raise ManifestError(f"[{start}, {stop}] must lie within [0, {count}]", where=where)
    return start, stop


def _check_inputs(slice_: Slice, method: str) -> None:
    """What mergekit's input contract of the method demands."""
    declared = MERGEKIT_METHODS[method]
    models = [item.model for item in slice_.inputs]
    if len(set(models)) != len(models):
        raise ManifestError("a model is listed twice", where=slice_.where)
    if declared.base == "required" and slice_.base is None:
        raise ManifestError(f"{method} needs a base_model", where=slice_.where)
    if declared.base != "ignored" and slice_.base is not None and slice_.base not in models:
        raise ManifestError("the base_model must be among the sources", where=slice_.where)
    if method == "passthrough" and len(models) != 1:
        names = ", ".join(model.model for model in models)
        raise ManifestError(
            f"passthrough takes one model, got {len(models)} (the base_model counts): {names}",
            where=slice_.where,
        )


def _check_words(config: MergekitConfig) -> None:
    """Refuse a parameter that mergekit would not read at its place."""
    declared = config.declared
    inputs, both = declared.input_words, declared.input_words + declared.shared_words
    for scope in (*config.scopes, *(s.scope for s in config.slices)):
        _check_scope(scope, both, config.method)
    for slice_ in config.slices:
        for item in slice_.inputs:
            _check_scope(item.scope, inputs, config.method)


def _check_scope(scope: Scope, allowed: Sequence[str], method: str) -> None:
    for name in scope.settings:
        if name not in allowed:
            raise ManifestError(
                f"mergekit's {method} does not read this parameter here; it reads: "
                f"{', '.join(allowed) or 'none'}",
                where=join_path(scope.where, name),
            )


def _method(value: object) -> str:
    if not isinstance(value, str) or value not in MERGEKIT_METHODS:
        raise ManifestError(
            f"method {value!r:.60} is not supported; supported: {', '.join(SHARED_METHODS)}",
            where="merge_method",
        )
    return value


def _dtype(top: Mapping[str, Any]) -> str | None:
    """`out_dtype`, else `dtype`: what the merged tensors are rounded to."""
    found = None
    for key in ("dtype", "out_dtype"):
        value = top.get(key)
        if value is None:
            continue
        name = value.removeprefix("torch.") if isinstance(value, str) else None
        if name not in ("float32", "bfloat16", "float16"):
            raise ManifestError(f"{value!r:.60} must be float32, bfloat16 or float16", where=key)
        found = name
    return found


def _tokenizer(top: Mapping[str, Any]) -> ModelRef | str | None:
    source, where = top.get("tokenizer_source"), "tokenizer_source"
    if top.get("tokenizer") is not None:
        if source is not None:
            raise ManifestError("give either tokenizer or tokenizer_source", where="tokenizer")
        given = check_object(
            top["tokenizer"], "tokenizer", ("source", "tokens", "pad_to_multiple_of")
        )
        for key in ("tokens", "pad_to_multiple_of"):
            if given.get(key):
                raise ManifestError("is not supported here", where=f"tokenizer.{key}")
        source, where = given.get("source", "union"), "tokenizer.source"
    if source is None or source in ("union", "base"):
        return source
    return parse_model(source, where)


def _chat_template(value: object) -> str | None:
    if value is None or (isinstance(value, str) and "{" in value):
        return value
    raise ManifestError(
        f"{value!r:.60} is not a Jinja template; write the template itself, names and 'auto' are "
        "not supported",
        where="chat_template",
    )


def _optional_model(given: Mapping[str, Any], key: str, where: str) -> ModelRef | None:
    value = given.get(key)
    return None if value is None else parse_model(value, join_path(where, key))
