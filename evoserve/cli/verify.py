"""`evoserve verify`: is this the recipe it claims to be, and does it still build to the same?"""

from pathlib import Path
from typing import Annotated

import torch
import typer

from evoserve.cli.build import SOURCE_SETTINGS, WEIGHTS_DIGEST
from evoserve.cli.options import with_settings
from evoserve.cli.output import console
from evoserve.cli.recipes import find_recipes, open_recipe
from evoserve.cli.rescore import rescore
from evoserve.config import Settings
from evoserve.model.fingerprint import weights_digest
from evoserve.sources.recipe import Recipe


@with_settings(*SOURCE_SETTINGS, "threads")
def verify(
    recipes: Annotated[
        list[Path], typer.Argument(metavar="RECIPE...", help="Manifests, or folders of them.")
    ],
    settings: Settings,
    search: Annotated[
        Path | None,
        typer.Option(
            "--search", exists=True, dir_okay=False, help="A search's TOML: score on its tasks too."
        ),
    ] = None,
) -> None:
    """Check sources against their digests, build the weights, compare them with the provenance.

    With --search also ask the tasks again and compare scores and replies. Exit code 2 if a source
    is not the one named, 1 if weights, scores or replies differ.
    """
    failed = False
    for file in find_recipes(recipes):
        recipe = open_recipe(file, settings)
        failed |= not _verify(recipe, settings.threads or torch.get_num_threads())
        if search is not None:
            failed |= not rescore(recipe, search)
    if failed:
        raise typer.Exit(1)


def _verify(recipe: Recipe, num_threads: int) -> bool:
    loose = [name for name, source in recipe.manifest.sources.items() if source.digest is None]
    built = weights_digest(recipe, num_threads)
    expected = recipe.manifest.provenance.get(WEIGHTS_DIGEST)
    if expected is not None and expected != built:
        console.print(
            f"differs {recipe.model_id}: weights {built}, the manifest says {expected}",
            markup=False,
            soft_wrap=True,
            style="red",
        )
        return False
    state = "as in the manifest" if expected else "no digest in the manifest to compare with"
    console.print(f"ok {recipe.model_id}: weights {built} ({state})", markup=False, soft_wrap=True)
    if loose:
        console.print(f"  not pinned: {', '.join(loose)}; see `evoserve pin`", markup=False)
    return True
