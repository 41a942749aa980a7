"""`evoserve serve`: load recipes, then answer OpenAI requests until told to stop."""

import asyncio
import logging
from pathlib import Path
from typing import Annotated

import typer

from evoserve.api.registry import Registry, describe
from evoserve.api.server import serve as run_server
from evoserve.cli.options import with_settings
from evoserve.cli.output import console, format_bytes
from evoserve.cli.recipes import find_recipes, open_recipe
from evoserve.config import Settings
from evoserve.engine.protocol import Engine, ModelInfo
from evoserve.engine.torch_engine import TorchEngine
from evoserve.sources.recipe import Recipe

RecipePaths = Annotated[
    list[Path], typer.Argument(metavar="RECIPE...", help="Manifests, or folders of them.")
]


@with_settings()
def serve(recipes: RecipePaths, settings: Settings) -> None:
    """Build the recipes from their sources and serve them behind OpenAI's API."""
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    opened = [open_recipe(file, settings) for file in find_recipes(recipes)]
    asyncio.run(_serve(opened, settings))


async def _serve(recipes: list[Recipe], settings: Settings) -> None:
    engine = TorchEngine(settings)
    registry = Registry()
    try:
        for recipe in recipes:
            await _load(recipe, engine, registry)
        held = format_bytes(engine.stats().weight_bytes)
        console.print(f"{len(recipes)} recipes, {held} of weights; shared ones are held once")
        default = recipes[-1].manifest.name
        await run_server(
            settings,
            engine,
            registry,
            on_bound=lambda port: _announce(settings.host, port, default, settings.api_key),
        )
    except BaseException:
        await engine.close()
        raise


async def _load(recipe: Recipe, engine: Engine, registry: Registry) -> None:
    info = await engine.load(recipe)
    registry.add(describe(recipe, info))
    for warning in recipe.warnings:
        console.print(f"  warning: {warning}", markup=False)
    console.print(_describe(info), markup=False, soft_wrap=True)


def _describe(info: ModelInfo) -> str:
    shape = f"{info.num_steps} steps over {info.num_layers} layers"
    return f"  {info.model_id}: {shape}, {format_bytes(info.weight_bytes)}, {info.build_s:.2f} s"


def _announce(host: str, port: int, model: str, api_key: str | None) -> None:
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    shown = f"[{shown}]" if ":" in shown else shown
    key = ' -H "Authorization: Bearer $EVOSERVE_API_KEY"' if api_key else ""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "{QUESTION}"}}]}}'
    console.print(f"\nServing on http://{shown}:{port} - try:\n", markup=False)
    console.print(
        f"curl -s http://{shown}:{port}/v1/chat/completions "
        f"-H 'Content-Type: application/json'{key} -d '{body}'\n",
        markup=False,
        soft_wrap=True,
    )


QUESTION = "What is the capital of France?"
