"""Expressions: keys that say what determines a tensor, groups, shortcuts, clear errors."""

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from model_lab import make_checkpoint

from evoserve.errors import IncompatibleSources, ManifestError, SourceError
from evoserve.manifest.load import build_manifest
from evoserve.merge.expression import Leaf, Merge, RecipeTensors
from evoserve.sources.architecture import EMBED, FINAL_NORM, LM_HEAD, tensor_shapes
from evoserve.sources.checkpoint import open_checkpoint
from evoserve.sources.recipe import Recipe

GATE = "model.layers.{}.mlp.gate_proj.weight"
QUERY = "model.layers.{}.self_attn.q_proj.weight"
NAMES = ("base", "ja", "math")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    return {
        name: make_checkpoint(root / name, seed=seed, model_type="llama", num_hidden_layers=4)
        for seed, name in enumerate(NAMES)
    }


def make_recipe(folders: dict[str, Path], merges: dict[str, Any], **sources: Any) -> Recipe:
    given = {name: {"model": name} for name in folders} | sources
    manifest = build_manifest(
        {
            "format": "evoserve/1",
            "name": "r",
            "sources": given,
            "merges": merges,
            "path": ["base[0]"],
        }
    )
    return Recipe(manifest, {name: open_checkpoint(path) for name, path in folders.items()})


def merge(**changes: Any) -> dict[str, Any]:
    spec = {
        "method": "dare_ties",
        "base": "base",
        "weights": {"ja": 0.9, "math": 0.5},
        "densities": {"ja": 0.6, "math": 0.7},
    }
    return {**spec, **changes}


def key(folders: dict[str, Path], name: str = GATE.format(1), **changes: Any) -> str:
    recipe = make_recipe(folders, {"ps": merge(**changes)})
    return RecipeTensors(recipe).expression("ps", name).key


CHANGES: list[dict[str, Any]] = [
    {},
    {"weights": {"ja": 0.9, "math": 0.6}},
    {"weights": {"ja": 0.5, "math": 0.9}},
    {"densities": {"ja": 0.6, "math": 0.71}},
    {"seed": 1},
    {"dtype": "bfloat16"},
    {"options": {"rescale": "l1"}},
    {"options": {"normalize": True}},
    {"options": {"lambda": 0.5}},
    {"models": ["math", "ja"]},
    {"method": "dare_linear"},
]


def test_everything_that_determines_a_tensor_changes_its_key(folders: dict[str, Path]) -> None:
    keys = [key(folders, **change) for change in CHANGES]
    keys.append(key(folders, GATE.format(2)))
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize(
    "change",
    [
        {"options": {"rescale": "density", "lambda": 1.0, "normalize": False}},
        {"groups": ["all"]},
        {"groups": ["layers[0:2]", "all"], "weights": {"ja": [0.9, 0.1], "math": [0.5, 0.3]}},
    ],
)
def test_what_does_not_determine_a_tensor_leaves_its_key(
    folders: dict[str, Path], change: dict[str, Any]
) -> None:
    assert key(folders, **change) == key(folders)


def test_seed_matters_only_where_something_is_dropped(folders: dict[str, Path]) -> None:
    whole = {"densities": {"ja": 1.0, "math": 1.0}}
    assert key(folders, seed=1, **whole) == key(folders, seed=2, **whole)


def test_name_of_a_merge_or_of_an_unmasked_source_is_no_part_of_the_key(
    folders: dict[str, Path],
) -> None:
    spec = {"method": "linear", "weights": {"ja": 0.5, "math": 0.5}}
    other = {"method": "linear", "weights": {"zh": 0.5, "math": 0.5}, "models": ["zh", "math"]}
    tensors = RecipeTensors(make_recipe(folders, {"one": spec, "two": spec}))
    assert tensors.expression("one", EMBED).key == tensors.expression("two", EMBED).key
    renamed = {"base": folders["base"], "zh": folders["ja"], "math": folders["math"]}
    recipe = make_recipe(renamed, {"one": other}, zh={"model": "ja"})
    assert (
        RecipeTensors(recipe).expression("one", EMBED).key == tensors.expression("one", EMBED).key
    )


def test_verified_digest_stands_for_a_source_wherever_it_lies(folders: dict[str, Path]) -> None:
    moved = {**folders, "ja": folders["math"]}
    digests = ["sha256:" + "0" * 64, "sha256:" + "0" * 64, "sha256:" + "1" * 64, None, None]
    places = [folders, moved, folders, folders, moved]
    keys = []
    for digest, place in zip(digests, places, strict=True):
        recipe = make_recipe(place, {})
        checkpoint = replace(recipe.checkpoints["ja"], digest=digest)
        recipe = replace(recipe, checkpoints={**recipe.checkpoints, "ja": checkpoint})
        keys.append(RecipeTensors(recipe).expression("ja", EMBED).key)
    assert keys[0] == keys[1]
    assert len(set(keys)) == 4


@pytest.mark.parametrize(
    ("spec", "same"),
    [
        (merge(weights={"ja": 1.0, "math": 0.0}, densities={}), "ja"),
        (merge(weights={"ja": 0.0, "math": 0.0}), "base"),
        (merge(options={"lambda": 0.0}), "base"),
        (merge(method="ties", weights={"ja": 0.3, "math": 0.0}, densities={}), "ja"),
        (merge(method="task_arithmetic", weights={"ja": 0, "math": 1}, densities={}), "math"),
        ({"method": "linear", "weights": {"ja": 0.2, "math": 0.0}}, "ja"),
        ({"method": "passthrough", "models": ["math"]}, "math"),
        ({"method": "slerp", "base": "base", "models": ["ja"], "t": 1.0}, "ja"),
        ({"method": "slerp", "base": "base", "models": ["ja"], "t": 0.0}, "base"),
        ({"method": "nuslerp", "weights": {"ja": 0.0, "math": 2.0}}, "math"),
        ({"method": "nuslerp", "base": "base", "weights": {"ja": 1.0, "math": 0.0}}, "ja"),
        ({"method": "karcher", "weights": {"ja": 0.0, "math": 0.5}}, "math"),
        ({"method": "split_slerp", "base": "base", "models": ["ja"], "t": 1.0, "split": 1.0}, "ja"),
        (
            {"method": "split_slerp", "base": "base", "models": ["ja"], "t": 1.0, "split": 0.0},
            "base",
        ),
    ],
)
def test_a_merge_that_equals_an_input_is_that_input(
    folders: dict[str, Path], spec: dict[str, Any], same: str
) -> None:
    tensors = RecipeTensors(make_recipe(folders, {"ps": spec}))
    assert (
        tensors.expression("ps", QUERY.format(2)).key
        == tensors.expression(same, QUERY.format(2)).key
    )


def test_rounding_keeps_a_one_hot_merge_apart_from_its_source(folders: dict[str, Path]) -> None:
    spec = {"method": "linear", "weights": {"ja": 1.0}, "dtype": "bfloat16"}
    tensors = RecipeTensors(make_recipe(folders, {"ps": spec}))
    assert isinstance(tensors.expression("ps", EMBED).node, Merge)


def test_models_of_weight_zero_are_not_read(folders: dict[str, Path]) -> None:
    spec = merge(weights={"ja": 0.5, "math": 0.0})
    node = RecipeTensors(make_recipe(folders, {"ps": spec})).expression("ps", EMBED).node
    assert isinstance(node, Merge)
    assert len(node.inputs) == 2
    assert node.coefficients.weights == (0.5,)


GROUPS = ["embed", "layers[0:2].self_attn", "layers[0:2]", "layers", "head"]


@pytest.mark.parametrize(
    ("name", "weight"),
    [
        (EMBED, 0.1),
        (QUERY.format(0), 0.2),
        (QUERY.format(1), 0.2),
        (GATE.format(1), 0.3),
        (QUERY.format(2), 0.4),
        (GATE.format(3), 0.4),
        (FINAL_NORM, 0.5),
        (LM_HEAD, 0.5),
    ],
)
def test_first_matching_group_gives_the_coefficients(
    folders: dict[str, Path], name: str, weight: float
) -> None:
    weights = {"ja": [0.1, 0.2, 0.3, 0.4, 0.5], "math": 0.7}
    spec = merge(groups=GROUPS, weights=weights, densities={})
    node = RecipeTensors(make_recipe(folders, {"ps": spec})).expression("ps", name).node
    assert isinstance(node, Merge)
    assert node.coefficients.weights == (weight, 0.7)


def test_a_tensor_without_a_group_is_refused(folders: dict[str, Path]) -> None:
    tensors = RecipeTensors(make_recipe(folders, {"ps": merge(groups=["embed", "layers[0:2]"])}))
    tensors.expression("ps", GATE.format(1))
    with pytest.raises(
        ManifestError, match=r"merges.ps.groups.*'ps'.*model.layers.2.mlp.gate_proj"
    ):
        tensors.expression("ps", GATE.format(2))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"method": "linear", "weights": {"ja": 0.5, "math": -0.5}}, "sum to 0"),
        (
            merge(method="della", densities={"ja": 0.9, "math": 0.5}),
            "density 0.9 -\\+ epsilon 0.15",
        ),
        (merge(method="della_linear", epsilons={"ja": 0.2, "math": 0.7}), "model 'math'"),
    ],
)
def test_coefficients_without_sense_are_refused(
    folders: dict[str, Path], spec: dict[str, Any], message: str
) -> None:
    with pytest.raises(ManifestError, match=message):
        RecipeTensors(make_recipe(folders, {"ps": spec})).expression("ps", EMBED)


def test_unknown_models_and_tensors_are_refused(folders: dict[str, Path]) -> None:
    tensors = RecipeTensors(make_recipe(folders, {"ps": merge()}))
    with pytest.raises(ManifestError, match="unknown model 'nobody'"):
        tensors.expression("nobody", EMBED)
    for model in ("ja", "ps"):
        with pytest.raises(SourceError, match=r"no\.such"):
            tensors.expression(model, "no.such")


def test_shapes_that_differ_name_both_models(folders: dict[str, Path], tmp_path: Path) -> None:
    wide = make_checkpoint(tmp_path / "wide", model_type="llama", intermediate_size=52)
    recipe = make_recipe({**folders, "math": wide}, {"ps": merge()})
    tensors = RecipeTensors(recipe)
    tensors.expression("ps", QUERY.format(0))
    with pytest.raises(IncompatibleSources, match=r"'ps'.*gate_proj.*\[48, 32\] of 'base'.*'math'"):
        tensors.expression("ps", GATE.format(0))


def test_merges_nest(folders: dict[str, Path]) -> None:
    merges = {
        "ps": merge(),
        "two": {"method": "slerp", "base": "ps", "models": ["math"], "t": 0.5},
    }
    tensors = RecipeTensors(make_recipe(folders, merges))
    node = tensors.expression("two", EMBED).node
    assert isinstance(node, Merge)
    assert node.inputs == (tensors.expression("ps", EMBED), tensors.expression("math", EMBED))
    assert isinstance(node.inputs[1].node, Leaf)


@pytest.mark.parametrize("split", [0.0, 0.1, 0.5, 0.77, 1.0])
@pytest.mark.parametrize("groups", [["all"], ["layers.mlp", "all"]])
def test_split_points_lie_along_the_flattened_group(
    folders: dict[str, Path], split: float, groups: list[str]
) -> None:
    spec = {
        "method": "split_slerp",
        "base": "base",
        "models": ["ja"],
        "t": 0.25,
        "split": split,
        "groups": groups,
    }
    recipe = make_recipe(folders, {"ps": spec})
    tensors = RecipeTensors(recipe)
    sizes = {n: torch.Size(s).numel() for n, s in tensor_shapes(recipe.architecture("ps")).items()}
    parts = [sizes] if groups == ["all"] else split_by(sizes, "mlp")
    for part in parts:
        ats = [tensors.expression("ps", n).node.coefficients.split_at for n in part]  # type: ignore[union-attr]
        assert sum(ats) == round(split * sum(part.values()))
        beyond = itertools.dropwhile(
            lambda pair: pair[0] == pair[1], zip(ats, part.values(), strict=True)
        )
        assert all(at == 0 for at, _ in itertools.islice(beyond, 1, None))


def split_by(sizes: dict[str, int], word: str) -> list[dict[str, int]]:
    inside = {name: size for name, size in sizes.items() if f".{word}." in name}
    return [inside, {name: size for name, size in sizes.items() if name not in inside}]


def test_rows_are_part_of_key_and_shape(folders: dict[str, Path]) -> None:
    recipe = make_recipe(folders, {"ps": merge()})
    one, two = torch.arange(100).clamp(max=96), torch.arange(100).clamp(max=95)
    found = [
        RecipeTensors(recipe, {"base": one, "ja": rows, "math": one}).expression("ps", EMBED)
        for rows in (one, two)
    ]
    assert found[0].shape == (100, 32)
    assert found[0].key != found[1].key
    plain = RecipeTensors(recipe, {"base": None}).expression("ps", EMBED)
    assert plain.key == RecipeTensors(recipe).expression("ps", EMBED).key


@pytest.mark.parametrize("rows", [torch.tensor([0, 97]), torch.tensor([-2]), torch.tensor([0.0])])
def test_rows_outside_of_the_table_are_refused(
    folders: dict[str, Path], rows: torch.Tensor
) -> None:
    tensors = RecipeTensors(make_recipe(folders, {}), {"ja": rows})
    with pytest.raises(SourceError, match="rows of source 'ja'"):
        tensors.expression("ja", EMBED)
