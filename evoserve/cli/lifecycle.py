"""`evoserve recipes` and `evoserve aliases`: what a running server serves, and changes to it."""

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from evoserve.cli.output import console, format_bytes
from evoserve.cli.remote import Json, Remote, in_path
from evoserve.errors import ConfigError, ManifestError
from evoserve.manifest.load import read_text

recipes = typer.Typer(help="Recipes of a running server.", no_args_is_help=True)
aliases = typer.Typer(help="Aliases of a running server.", no_args_is_help=True)

Url = Annotated[str, typer.Option("--url", envvar="EVOSERVE_URL", help="Of the server.")]
Key = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar=["EVOSERVE_ADMIN_KEY", "EVOSERVE_API_KEY"],
        help="The admin key, or the API key of a loopback server without one.",
    ),
]
Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="An id or a plain name.")]
Alias = Annotated[str, typer.Argument(metavar="ALIAS", help="Its name.")]
Retire = Annotated[
    bool, typer.Option("--retire", help="Unload what the alias led to, once it is idle.")
]
Wait = Annotated[
    bool, typer.Option("--wait/--no-wait", help="Until it is done; a failure is an event if not.")
]
DEFAULT_URL = "http://127.0.0.1:8000"


@recipes.command("list")
def list_recipes(url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Show every registered recipe, its state and memory."""
    table = Table("recipe", "state", "weights", "KV cache", "aliases", box=None)
    for card in Remote(url, key).ask("GET", "/v1/recipes")["data"]:
        sizes = card["loaded"] or card["needs"] or {}
        state = card["state"] + (", pinned" if card["pinned"] else "")
        shown = [format_bytes(sizes.get(name, 0)) for name in ("weight_bytes", "kv_cache_bytes")]
        table.add_row(card["id"], state, *shown, ", ".join(card["aliases"]))
    console.print(table)


@recipes.command("show")
def show_recipe(recipe: Recipe, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Print one recipe as JSON: state, sizes, progress of a build, manifest."""
    _print(Remote(url, key).ask("GET", _recipe(recipe)))


@recipes.command("register")
def register(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A manifest.")],
    load: Annotated[bool, typer.Option("--load", help="Load it, too.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Register a manifest; its relative sources count from the server's working directory."""
    remote = Remote(url, key)
    media = "application/json" if file.suffix == ".json" else "application/yaml"
    try:
        text = read_text(file)
    except ManifestError as error:
        raise error.in_file(str(file)) from None
    card = remote.ask("POST", "/v1/recipes", raw=(text.encode(), media))
    if load:
        card = remote.ask("POST", _recipe(card["id"], "load"))
    _tell(card)


@recipes.command("load")
def load_recipe(recipe: Recipe, wait: Wait = True, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Build a recipe; its plain name means it once it is served."""
    _tell(Remote(url, key).ask("POST", _recipe(recipe, "load") + _waiting(wait)))


@recipes.command("unload")
def unload_recipe(
    recipe: Recipe,
    drain: Annotated[bool, typer.Option(help="Let running requests end first.")] = True,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Free a recipe's memory; it stays registered, and a request for it loads it again."""
    flag = str(drain).lower()
    _tell(Remote(url, key).ask("POST", f"{_recipe(recipe, 'unload')}?drain={flag}"))


@recipes.command("pin")
def pin_recipe(recipe: Recipe, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Never unload a recipe to make room for others."""
    _tell(Remote(url, key).ask("POST", _recipe(recipe, "pin")))


@recipes.command("unpin")
def unpin_recipe(recipe: Recipe, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Let a recipe be unloaded to make room for others."""
    _tell(Remote(url, key).ask("POST", _recipe(recipe, "unpin")))


@recipes.command("delete")
def delete_recipe(recipe: Recipe, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Unload and forget a recipe; refused while an alias leads to it."""
    gone = Remote(url, key).ask("DELETE", _recipe(recipe))
    console.print(f"{gone['id']} deleted", markup=False)


@recipes.command("events")
def events(url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Print what happens to recipes and aliases, one JSON object a line, until interrupted."""
    for event in Remote(url, key).events("/v1/recipes/events"):
        console.print(json.dumps(event, ensure_ascii=False), markup=False, soft_wrap=True)


@aliases.command("list")
def list_aliases(url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Show every alias and where it leads."""
    for card in Remote(url, key).ask("GET", "/v1/aliases")["data"]:
        _tell_alias(card)


@aliases.command("show")
def show_alias(alias: Alias, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Print an alias and its history, the newest version first."""
    for card in Remote(url, key).ask("GET", _alias(alias))["history"]:
        _tell_alias(card)


@aliases.command("set")
def set_alias(
    alias: Alias,
    targets: Annotated[
        list[str],
        typer.Argument(metavar="RECIPE[=WEIGHT]...", help="Ids or plain names; weight 1 if none."),
    ],
    retire: Retire = False,
    wait: Wait = True,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Load recipes, then point an alias at them; on failure it stays as it was."""
    body = {"targets": [_parse_target(text) for text in targets], "retire": retire}
    card = Remote(url, key).ask("PUT", _alias(alias) + _waiting(wait), body)
    if wait:
        _tell_alias(card)
    else:
        console.print(f"{card['id']} {card['state']}", markup=False)


@aliases.command("rollback")
def rollback(
    alias: Alias,
    version: Annotated[
        int | None, typer.Option(min=1, help="Default: the one before the last change.")
    ] = None,
    retire: Retire = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
) -> None:
    """Go back to an earlier version of an alias."""
    body = {"version": version, "retire": retire}
    _tell_alias(Remote(url, key).ask("POST", f"{_alias(alias)}/rollback", body))


@aliases.command("delete")
def delete_alias(alias: Alias, url: Url = DEFAULT_URL, key: Key = None) -> None:
    """Remove an alias; its recipes and its history stay."""
    Remote(url, key).ask("DELETE", _alias(alias))
    console.print(f"{alias} deleted", markup=False)


def _parse_target(text: str) -> Json:
    recipe, _, weight = text.partition("=")
    try:
        return {"recipe": recipe, "weight": float(weight or 1)}
    except ValueError:
        raise ConfigError(f"target '{text}' must be RECIPE or RECIPE=WEIGHT") from None


def _waiting(wait: bool) -> str:
    return "" if wait else "?wait=false"


def _recipe(name: str, action: str = "") -> str:
    return f"/v1/recipes/{in_path(name)}" + (f"/{action}" if action else "")


def _alias(name: str) -> str:
    return f"/v1/aliases/{in_path(name)}"


def _tell(card: Json) -> None:
    pinned = ", pinned" if card["pinned"] else ""
    reason = f": {card['reason']}" if card["reason"] else ""
    line = f"{card['id']} {card['state']}{pinned}{reason}"
    console.print(line, markup=False, soft_wrap=True)


def _tell_alias(card: Json) -> None:
    targets = [f"{each['recipe']}={each['weight']:g}" for each in card["targets"]]
    shown = ", ".join(targets) or "nothing"
    line = f"{card['id']} -> {shown} (version {card['version']}, {card['action']})"
    console.print(line, markup=False, soft_wrap=True)


def _print(value: Json) -> None:
    console.print(json.dumps(value, indent=2, ensure_ascii=False), markup=False, soft_wrap=True)
