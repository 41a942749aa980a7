"""`evoserve serve`: load recipes, then answer OpenAI requests until told to stop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from evoserve.api.logs import configure_logging
from evoserve.api.registry import Registry
from evoserve.api.server import run
from evoserve.api.server import serve as run_server
from evoserve.cli.options import with_settings
from evoserve.cli.output import console, format_bytes
from evoserve.cli.recipes import find_recipes
from evoserve.config import Settings
from evoserve.engine.protocol import ModelInfo
from evoserve.engine.torch_engine import TorchEngine
from evoserve.lifecycle.lifecycle import Lifecycle
from evoserve.lifecycle.store import StateStore
from evoserve.lifecycle.watch import FolderWatch
from evoserve.manifest.load import load_manifest
from evoserve.manifest.schema import Manifest

RecipePaths = Annotated[
    list[Path] | None,
    typer.Argument(metavar="[RECIPE...]", help="Manifests, or folders of them."),
]


@with_settings()
def serve(settings: Settings, recipes: RecipePaths = None) -> None:
    """Build the recipes from their sources and serve them behind OpenAI's API.

    More can be registered, loaded and named while it runs: `evoserve recipes`, `evoserve aliases`.
    """
    configure_logging(settings)
    manifests = [(load_manifest(file), file) for file in find_recipes(recipes or [])]
    store = StateStore(settings.state)
    run(_serve(manifests, settings, store))


async def _serve(
    manifests: Sequence[tuple[Manifest, Path]], settings: Settings, store: StateStore
) -> None:
    """Listen at once, so that probes are answered; then load, and follow the watched folder."""
    engine, registry = TorchEngine(settings), Registry()
    lifecycle = Lifecycle(settings, engine, registry, store)
    watch = None
    if settings.watch is not None:
        watch = FolderWatch(lifecycle, settings.watch, settings.watch_s)

    async def manage(port: int) -> None:
        with lifecycle.starting():
            for manifest, file in manifests:
                await _load(lifecycle, manifest, file)
            if watch is not None:
                await watch.poll()
            await lifecycle.restore()
        ready = [each.manifest.name for each in lifecycle.recipes if each.is_loaded]
        held = format_bytes(engine.stats().weight_bytes)
        console.print(f"{len(ready)} recipes, {held} of weights; shared ones are held once")
        default = manifests[-1][0].name if manifests else next(iter(ready), "NAME")
        _announce(port, default, settings)
        if watch is not None:
            await watch.run(settings.watch_s)

    try:
        await run_server(settings, engine, registry, lifecycle, beside=manage)
    except BaseException:
        await lifecycle.close()
        await engine.close()
        raise


async def _load(lifecycle: Lifecycle, manifest: Manifest, file: Path) -> None:
    entry = await lifecycle.follow(manifest, file.absolute(), "file")
    for warning in entry.warnings:
        console.print(f"  warning: {warning}", markup=False)
    if entry.info is not None:
        console.print(_describe(entry.info), markup=False, soft_wrap=True)


def _describe(info: ModelInfo) -> str:
    shape = f"{info.num_steps} steps over {info.num_layers} layers"
    return f"  {info.model_id}: {shape}, {format_bytes(info.weight_bytes)}, {info.build_s:.2f} s"


def _announce(port: int, model: str, settings: Settings) -> None:
    host, has_key = settings.host, settings.api_key or settings.api_key_file
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else host
    shown = f"[{shown}]" if ":" in shown else shown
    key = ' -H "Authorization: Bearer $EVOSERVE_API_KEY"' if has_key else ""
    body = f'{{"model": "{model}", "messages": [{{"role": "user", "content": "{QUESTION}"}}]}}'
    console.print(f"\nServing on http://{shown}:{port} - try:\n", markup=False)
    console.print(
        f"curl -s http://{shown}:{port}/v1/chat/completions "
        f"-H 'Content-Type: application/json'{key} -d '{body}'\n",
        markup=False,
        soft_wrap=True,
    )


QUESTION = "What is the capital of France?"
