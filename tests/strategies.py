"""Hypothesis strategies for manifests: `documents()` as plain JSON, `manifests()` built."""

from itertools import pairwise
from typing import Any

from hypothesis import strategies as st

from evoserve.manifest.load import build_manifest
from evoserve.manifest.methods import TRAITS
from evoserve.manifest.refs import LayerRef, expand_path
from evoserve.manifest.schema import Manifest

Document = dict[str, Any]

names = st.from_regex(r"[A-Za-z_][A-Za-z0-9_\-]{0,8}", fullmatch=True).filter(
    lambda name: name not in ("union", "embed")
)
texts = st.text(st.characters(codec="utf-8"), max_size=40)
words = st.text(st.characters(codec="ascii", min_codepoint=33), min_size=1, max_size=20)
digests = st.from_regex(r"sha256:[0-9a-f]{64}", fullmatch=True)
finite = st.floats(allow_nan=False, allow_infinity=False)
scales = st.floats(-1e4, 1e4)
units = st.floats(0, 1)
densities = st.floats(0, 1, exclude_min=True)
COEFFICIENTS = {
    "weights": scales,
    "densities": densities,
    "gammas": units,
    "epsilons": units,
    "t": units,
    "split": units,
}
OPTIONS: dict[str, st.SearchStrategy[Any]] = {
    "rescale": st.sampled_from(["density", "l1", "none"]),
    "normalize": st.booleans(),
    "lambda": scales,
    "flatten": st.booleans(),
    "row_wise": st.booleans(),
    "filter_wise": st.booleans(),
    "max_iter": st.integers(1, 10_000),
    "tol": st.floats(1e-12, 1),
}


@st.composite
def spans(draw: st.DrawFn) -> str:
    """`[3]` or `[0:4]`."""
    start = draw(st.integers(0, 30))
    return f"[{start}]" if draw(st.booleans()) else f"[{start}:{draw(st.integers(start + 1, 40))}]"


@st.composite
def groups(draw: st.DrawFn) -> str:
    """One group: a part, maybe a range, maybe a filter."""
    part = draw(st.sampled_from(["all", "embed", "head", "layers"]))
    span = draw(spans()) if part == "layers" and draw(st.booleans()) else ""
    filter_ = draw(st.sampled_from(["", ".mlp", ".self_attn", ".self_attn.q_proj", ".weight"]))
    return part + span + filter_


@st.composite
def sources(draw: st.DrawFn) -> Document:
    """A source, sometimes with an adapter."""
    optional = {"revision": words, "digest": digests}
    located = st.fixed_dictionaries({"model": words}, optional=optional)
    return draw(st.fixed_dictionaries({"model": words}, optional={**optional, "adapter": located}))


def _per_group(numbers: st.SearchStrategy[float], count: int) -> st.SearchStrategy[Any]:
    return numbers | st.lists(numbers, min_size=count, max_size=count)


@st.composite
def merges(draw: st.DrawFn, known: list[str]) -> Document:
    """A merge of any method that `known` has enough models for, with what the method reads."""
    fits = [m for m, traits in TRAITS.items() if _least(m) <= len(known)]
    method = draw(st.sampled_from(sorted(fits)))
    traits = TRAITS[method]
    order = draw(st.permutations(known))
    takes_base = traits.base == "required" or (
        traits.base == "optional" and len(known) > traits.models[0] and draw(st.booleans())
    )
    base, rest = (order[0], order[1:]) if takes_base else (None, order)
    least, most = traits.models
    models = rest[: draw(st.integers(least, min(most or len(rest), len(rest))))]
    merge: Document = {"method": method, "models": models}
    if base is not None:
        merge["base"] = base
    merge["groups"] = draw(st.lists(groups(), min_size=1, max_size=4, unique=True))
    for field in sorted(traits.coefficients):
        number = _per_group(COEFFICIENTS[field], len(merge["groups"]))
        if field in ("t", "split"):
            merge[field] = draw(number)
        elif field in traits.required or draw(st.booleans()):
            merge[field] = {model: draw(number) for model in models}
    wanted = {name: OPTIONS[name] for name in sorted(traits.options)}
    merge["options"] = draw(st.fixed_dictionaries({}, optional=wanted))
    merge["seed"] = draw(st.integers(0, 2**53 - 1))
    merge["dtype"] = draw(st.sampled_from(["float32", "bfloat16", "float16"]))
    return merge


def _least(method: str) -> int:
    traits = TRAITS[method]
    return traits.models[0] + (traits.base == "required")


@st.composite
def paths(draw: st.DrawFn, known: list[str]) -> list[str]:
    """A path over the known models."""
    step = st.builds(lambda model, span: model + span, st.sampled_from(known), spans())
    return draw(st.lists(step, min_size=1, max_size=6))


@st.composite
def networks(draw: st.DrawFn, pool: list[str]) -> Document:
    """A scaling network of one or two layers."""
    widths = [3, *draw(st.lists(st.integers(1, 3), max_size=1)), 1]
    shapes = list(pairwise(widths))
    return {
        "pool": draw(st.permutations(pool)),
        "weights": [[[draw(finite) for _ in range(i)] for _ in range(o)] for i, o in shapes],
        "biases": [[draw(finite) for _ in range(o)] for _, o in shapes],
    }


@st.composite
def scalings(draw: st.DrawFn, path: list[LayerRef] | None) -> Document:
    """Any of the forms, or none."""
    scaling: Document = {"target": draw(st.sampled_from(["mlp_output", "hidden_state"]))}
    if draw(st.booleans()):
        scaling["default"] = draw(scales)
    form = draw(st.sampled_from(["none", "per_hop", "matrix", "network"]))
    if form == "per_hop":
        count = len(path) if path is not None else draw(st.integers(1, 8))
        scaling["per_hop"] = draw(st.lists(scales, min_size=count, max_size=count))
    elif form == "matrix" and path is not None:
        hops = list(dict.fromkeys(zip(["embed", *map(str, path)], map(str, path), strict=False)))
        kept = draw(st.lists(st.sampled_from(hops), unique=True))
        scaling["matrix"] = [[*hop, draw(scales)] for hop in kept]
    elif form == "network" and path is not None:
        pool = list(dict.fromkeys(ref.model for ref in path))
        scaling["network"] = draw(networks(pool))
    return scaling


@st.composite
def evaluations(draw: st.DrawFn) -> Document:
    """One score."""
    required = {"task": words, "metric": words, "score": finite, "num_items": st.integers(0, 9)}
    optional = {"split": words, "items": st.lists(finite, max_size=3), "task_digest": digests}
    return draw(st.fixed_dictionaries(required, optional=optional))


@st.composite
def documents(draw: st.DrawFn) -> Document:
    """A valid manifest as plain JSON: nested merges of any method, a path, a scaling."""
    known = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    document: Document = {
        "format": "evoserve/1",
        "name": draw(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,8}", fullmatch=True)),
        "sources": {name: draw(sources()) for name in known},
        "merges": {},
    }
    new = draw(st.lists(names, max_size=3, unique=True))
    for name in [name for name in new if name not in known]:
        document["merges"][name] = draw(merges(known))
        known = [*known, name]
    path = None
    if not _has_one_top(document) or draw(st.booleans()):
        document["path"] = draw(paths(known))
        path = expand_path(document["path"])
        for field, ref in (("embed", path[0]), ("head", path[-1])):
            if draw(st.booleans()):
                document[field] = ref.model
    document["scaling"] = draw(scalings(path))
    if draw(st.booleans()):
        document["tokenizer"] = draw(st.sampled_from([*known, "union"]))
    optional = {
        "description": texts,
        "license": words,
        "chat_template": texts,
        "generation": st.fixed_dictionaries({}, optional={"temperature": st.floats(0, 2)}),
        "evaluation": st.lists(evaluations(), max_size=2),
        "provenance": st.dictionaries(texts, texts | st.integers(-99, 99) | st.none(), max_size=2),
    }
    return document | draw(st.fixed_dictionaries({}, optional=optional))


def manifests() -> st.SearchStrategy[Manifest]:
    """A valid manifest."""
    return documents().map(build_manifest)


def layer_refs() -> st.SearchStrategy[list[LayerRef]]:
    """The steps of a path."""
    ref = st.builds(LayerRef, st.sampled_from(["a", "b-1", "_c"]), st.integers(0, 65_535))
    return st.lists(ref, max_size=20)


def _has_one_top(document: Document) -> bool:
    merges_ = document["merges"]
    used = {m for merge in merges_.values() for m in [*merge["models"], merge.get("base")]}
    return len([name for name in (merges_ or document["sources"]) if name not in used]) == 1
