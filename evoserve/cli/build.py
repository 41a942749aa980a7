"""`evoserve export`, `import` and `pin`: recipes and checkpoints in and out."""

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from evoserve.cli.options import with_settings
from evoserve.cli.output import console, format_bytes
from evoserve.cli.recipes import open_recipe
from evoserve.config import Settings
from evoserve.errors import ManifestError
from evoserve.manifest.canonical import model_id
from evoserve.manifest.load import load_manifest, save_manifest, write_text
from evoserve.manifest.mergekit_export import export_mergekit
from evoserve.manifest.mergekit_import import import_mergekit
from evoserve.manifest.parts import SourceSpec
from evoserve.manifest.schema import Manifest
from evoserve.model.evomistral import import_evomistral
from evoserve.model.export import export_checkpoint
from evoserve.model.fingerprint import weights_digest
from evoserve.sources.architecture import parse_architecture
from evoserve.sources.checkpoint import read_json
from evoserve.sources.locate import build_locator
from evoserve.sources.resolve import pinned

RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="A manifest.")]
WEIGHTS_DIGEST = "weights_digest"
SOURCE_SETTINGS = ("catalogue", "source_roots", "verify_digests")
DTypeOption = Annotated[
    Literal["float32", "bfloat16", "float16"] | None,
    typer.Option(help="Of the written tensors; default: the merge's, else the source's."),
]


@with_settings(*SOURCE_SETTINGS)
def export(
    recipe: RecipeFile,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="New folder, or file for --format mergekit.")
    ],
    settings: Settings,
    format_: Annotated[
        Literal["checkpoint", "mergekit"],
        typer.Option("--format", help="A stock Hugging Face checkpoint, or mergekit's YAML."),
    ] = "checkpoint",
    dtype: DTypeOption = None,
    max_shard_size: Annotated[float, typer.Option(help="Of one safetensors file, in GB.")] = 5.0,
) -> None:
    """Write a recipe as a checkpoint that transformers loads with no custom code."""
    if format_ == "mergekit":
        write_text(output, export_mergekit(load_manifest(recipe)))
        console.print(f"{output} written", markup=False)
        return
    report = export_checkpoint(
        open_recipe(recipe, settings),
        output,
        dtype=getattr(torch, dtype) if dtype else None,
        max_shard_bytes=int(max_shard_size * 1e9),
    )
    for warning in report.warnings:
        console.print(f"warning: {warning}", markup=False, soft_wrap=True)
    console.print(f"{output} written: {format_bytes(report.num_bytes)}", markup=False)


@with_settings(*SOURCE_SETTINGS)
def import_(
    source: Annotated[
        Path, typer.Argument(help="mergekit's YAML, or an evomistral checkpoint's folder.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The manifest to write.")],
    settings: Settings,
    name: Annotated[str | None, typer.Option(help="Of the recipe; default: the file's.")] = None,
) -> None:
    """Make a manifest from mergekit's YAML or from Sakana's released DFS format."""
    if source.is_dir():
        manifest = import_evomistral(source, name=name or output.stem)
    else:
        manifest = _import_yaml(source, name or output.stem, settings)
    save_manifest(manifest, output)
    console.print(f"{output} written: {model_id(manifest)}", markup=False)


@with_settings(*SOURCE_SETTINGS, "threads")
def pin(recipe: RecipeFile, settings: Settings) -> None:
    """Write the digests of sources and built weights, as they are here, into the manifest."""
    opened = open_recipe(recipe, settings)
    built = weights_digest(opened, settings.threads or torch.get_num_threads())
    manifest = pinned(opened.manifest, opened)
    provenance = {**manifest.provenance, WEIGHTS_DIGEST: built}
    manifest = manifest.model_copy(update={"provenance": provenance})
    save_manifest(manifest, recipe)
    console.print(f"{recipe} pinned: {model_id(manifest)}", markup=False)


def _import_yaml(file: Path, name: str, settings: Settings) -> Manifest:
    locator = build_locator(settings, file.parent)

    def num_layers(model: str) -> int:
        folder = locator.locate(model, SourceSpec(model=model))
        return parse_architecture(read_json(folder / "config.json")).num_layers

    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(str(error), file=str(file)) from None
    try:
        return import_mergekit(text, name=name, num_layers=num_layers)
    except ManifestError as error:
        raise error.in_file(str(file)) from None
