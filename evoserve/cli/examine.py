"""`evoserve check`, `inspect` and `diff`: what a recipe is and needs, from headers alone."""

import json
from pathlib import Path
from typing import Annotated

import typer

from evoserve.cli.options import with_settings
from evoserve.cli.output import console, format_bytes
from evoserve.cli.picture import coefficient_table, describe_scales, draw_path
from evoserve.cli.recipes import find_recipes, open_recipe
from evoserve.config import Settings
from evoserve.engine.factory import resolve_placement
from evoserve.manifest.canonical import digest, model_id
from evoserve.manifest.load import load_manifest
from evoserve.manifest.schema import Manifest
from evoserve.model.estimate import Estimate, estimate
from evoserve.model.plan import plan_path
from evoserve.sources.recipe import Recipe

SETTINGS = (
    "catalogue", "source_roots", "device", "dtype", "quantization", "enforce_eager", "threads",
)  # fmt: skip
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A manifest.")]
RecipeFiles = Annotated[
    list[Path], typer.Argument(metavar="RECIPE...", help="Manifests, or folders of them.")
]


@with_settings(*SETTINGS)
def check(recipes: RecipeFiles, settings: Settings) -> None:
    """Hold recipes against their sources' headers: shapes, vocabularies, memory, time."""
    for file in find_recipes(recipes):
        recipe = open_recipe(file, settings, verify=False)
        needs = _estimate(recipe, settings)
        for warning in recipe.warnings:
            console.print(f"warning: {warning}", markup=False, soft_wrap=True)
        console.print(f"ok {recipe.model_id}: {_needs(needs)}", markup=False, soft_wrap=True)


@with_settings(*SETTINGS)
def inspect(recipe: RecipeFile, settings: Settings) -> None:
    """Show a recipe: sources, groups, the path drawn, scales, memory, digest."""
    opened = open_recipe(recipe, settings, verify=False)
    _show_identity(opened.manifest)
    _show_sources(opened)
    for name, merge in opened.manifest.merges.items():
        console.print(coefficient_table(name, merge))
    plan = plan_path(opened)
    steps = [step.ref for step in plan.steps]
    scales = [step.scale for step in plan.steps]
    console.print("\n".join(["path", *draw_path(steps)]), markup=False, soft_wrap=True)
    console.print(f"{plan.target}: {describe_scales(steps, scales)}", markup=False, soft_wrap=True)
    console.print(f"needs {_needs(_estimate(opened, settings))}", markup=False, soft_wrap=True)
    _show_evaluation(opened.manifest)


def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A manifest.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another.")],
) -> None:
    """List the fields in which two manifests differ; exit code 1 if the recipes do."""
    one, other = load_manifest(first), load_manifest(second)
    mine, theirs = _flatten("", _dump(one)), _flatten("", _dump(other))
    for where in sorted(mine.keys() | theirs.keys()):
        before, after = mine.get(where, "-"), theirs.get(where, "-")
        if before != after:
            console.print(f"{where}: {before} -> {after}", markup=False, soft_wrap=True)
    if digest(one) != digest(other):
        console.print(f"{model_id(one)} != {model_id(other)}", markup=False)
        raise typer.Exit(1)
    console.print(f"same weights and path: {model_id(one)}", markup=False)


def _estimate(recipe: Recipe, settings: Settings) -> Estimate:
    return estimate(recipe, resolve_placement(settings), num_threads=settings.threads)


def _needs(needs: Estimate) -> str:
    return (
        f"{needs.num_steps} steps over {needs.num_layers} layers, "
        f"{format_bytes(needs.weight_bytes)} of weights, "
        f"{format_bytes(needs.kv_bytes_per_token)} of KV cache per token, "
        f"reads {format_bytes(needs.read_bytes)}, about {needs.build_s:.1f} s to build"
    )


def _show_identity(manifest: Manifest) -> None:
    console.print(model_id(manifest), style="bold", markup=False)
    console.print(digest(manifest), markup=False, soft_wrap=True)
    for text in (manifest.description, manifest.license and f"license: {manifest.license}"):
        if text:
            console.print(text, markup=False, soft_wrap=True)


def _show_sources(recipe: Recipe) -> None:
    for name, source in recipe.manifest.sources.items():
        arch = recipe.checkpoints[name].architecture
        at = f"@{source.revision}" if source.revision else ""
        adapter = f" + {source.adapter.model}" if source.adapter else ""
        pinned = source.digest.removeprefix("sha256:")[:12] if source.digest else "not pinned"
        shape = f"{arch.family}, {arch.num_layers} layers of {arch.hidden_size}"
        console.print(
            f"source {name}: {source.model}{at}{adapter} ({shape}; {pinned})",
            markup=False,
            soft_wrap=True,
        )


def _show_evaluation(manifest: Manifest) -> None:
    for entry in manifest.evaluation:
        low, high = entry.interval or (float("nan"), float("nan"))
        console.print(
            f"{entry.task} {entry.metric}: {entry.score:.4g} [{low:.4g}, {high:.4g}] "
            f"n={entry.num_items}",
            markup=False,
        )


def _dump(manifest: Manifest) -> object:
    return json.loads(manifest.model_dump_json(by_alias=True, exclude_none=True))


def _flatten(where: str, value: object) -> dict[str, str]:
    if isinstance(value, dict) and value:
        inside = ((f"{where}.{key}" if where else key, item) for key, item in value.items())
    elif isinstance(value, list) and value:
        inside = ((f"{where}[{index}]", item) for index, item in enumerate(value))
    else:
        return {where: json.dumps(value, ensure_ascii=False)}
    return {path: text for key, item in inside for path, text in _flatten(key, item).items()}
