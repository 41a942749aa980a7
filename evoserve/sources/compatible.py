"""Do the architectures that meet fit: every shape inside a merge, the seams along a path?"""

from collections.abc import Iterator, Mapping, Sequence

from evoserve.errors import IncompatibleSources
from evoserve.manifest.refs import parse_group
from evoserve.manifest.schema import Manifest
from evoserve.sources.architecture import Architecture, layer_shapes

# A merge adds tensors element by element; the vocabulary is checked in `vocabulary`.
_MERGED_FIELDS = (
    "hidden_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "intermediate_size",
    "attention_bias",
    "output_bias",
    "mlp_bias",
    "qk_norm",
)
# Layers of a path hand one hidden state on and share one KV cache layout.
_PATH_FIELDS = ("hidden_size", "num_kv_heads", "head_dim")
# The merged model keeps the base's; its weights were trained with their own.
_NUMERIC_FIELDS = ("family", "rms_norm_eps", "rope", "windows", "max_position_embeddings")


def check_compatible(manifest: Manifest, sources: Mapping[str, Architecture]) -> tuple[str, ...]:
    """Warnings of one line each. Raises IncompatibleSources that names both models and the field.

    `sources` gives the architecture of every source by name.
    """

    def architecture(model: str) -> Architecture:
        return sources[manifest.base_source(model)]

    warnings: list[str] = []
    for name, merge in manifest.merges.items():
        first, *others = merge.reads
        for other in others:
            pair = (first, other)
            _check_fields(
                f"merge '{name}'", pair, _MERGED_FIELDS, architecture(first), architecture(other)
            )
            warnings.extend(_differences(name, pair, architecture(first), architecture(other)))
        _check_groups(name, merge.groups, architecture(first).num_layers)
    first = manifest.embed_model
    models = [*(ref.model for ref in manifest.steps(1)), manifest.head_model]
    for other in dict.fromkeys(models):
        _check_fields(
            "the path", (first, other), _PATH_FIELDS, architecture(first), architecture(other)
        )
    _check_heads(manifest, sources)
    return tuple(dict.fromkeys(warnings))


def table_sources(manifest: Manifest) -> tuple[str, ...]:
    """The sources whose embedding or head is read, in the order a merge sums them."""
    return tuple(
        dict.fromkeys(
            source
            for model in (manifest.embed_model, manifest.head_model)
            for source in _leaves(manifest, model)
        )
    )


def _leaves(manifest: Manifest, model: str) -> Iterator[str]:
    if model not in manifest.merges:
        yield model
        return
    for part in manifest.merges[model].reads:
        yield from _leaves(manifest, part)


def _check_fields(
    where: str,
    names: tuple[str, str],
    fields: Sequence[str],
    first: Architecture,
    other: Architecture,
) -> None:
    for field in fields:
        mine, theirs = getattr(first, field), getattr(other, field)
        if mine != theirs:
            raise IncompatibleSources(
                f"{where}: {field} {mine} of '{names[0]}' != {theirs} of '{names[1]}'"
                f"{_tensor_example(first, other)}"
            )


def _tensor_example(first: Architecture, other: Architecture) -> str:
    """The first tensor of a layer whose shape differs, for the message."""
    mine, theirs = layer_shapes(first), layer_shapes(other)
    for name in dict.fromkeys([*mine, *theirs]):
        if mine.get(name) != theirs.get(name):
            pair = [list(shapes[name]) if name in shapes else "absent" for shapes in (mine, theirs)]
            return f" (tensor {name}: {pair[0]} and {pair[1]})"
    return ""


def _differences(
    merge: str, names: tuple[str, str], first: Architecture, other: Architecture
) -> Iterator[str]:
    for field in _NUMERIC_FIELDS:
        mine, theirs = getattr(first, field), getattr(other, field)
        if mine != theirs:
            detail = "" if field == "windows" else f" ({mine} and {theirs})"
            yield (
                f"merge '{merge}': {field} of '{names[0]}' and '{names[1]}' differ{detail}; the "
                f"merged model uses that of '{names[0]}'"
            )


def _check_groups(merge: str, groups: Sequence[str], num_layers: int) -> None:
    for index, text in enumerate(groups):
        group = parse_group(text)
        if group.stop is not None and group.stop > num_layers:
            raise IncompatibleSources(
                f"merges.{merge}.groups[{index}] '{text}' goes beyond the last layer: the merged "
                f"models have layers 0 to {num_layers - 1}"
            )


def _check_heads(manifest: Manifest, sources: Mapping[str, Architecture]) -> None:
    """A tied source merges its embedding into an untied head; a tied base would drop a head."""
    for model in dict.fromkeys((manifest.embed_model, manifest.head_model)):
        first, *others = dict.fromkeys(_leaves(manifest, model))
        for other in others:
            mine = sources[first].tie_word_embeddings
            theirs = sources[other].tie_word_embeddings
            if mine and not theirs:
                raise IncompatibleSources(
                    f"'{model}' would drop the head of '{other}': tie_word_embeddings {mine} of "
                    f"'{first}' != {theirs} of '{other}'; take '{other}' as the base"
                )
