"""Command-line flags made from `Settings`, so that each setting is declared once."""

import inspect
import types
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from evoserve.config import Settings, load_settings


def with_settings(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Replace a command's `settings` parameter by one flag per setting, and `--config FILE`.

    names: the settings to offer; none means all. The command receives a loaded `Settings`.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(command, eval_str=True).parameters
        chosen = {n: f for n, f in Settings.model_fields.items() if not names or n in names}

        @wraps(command)
        def run(**given: Any) -> None:
            flags = {name: given.pop(name) for name in chosen}
            settings = load_settings(given.pop("config"), **_plain(flags))
            command(settings=settings, **given)

        parameters = [p for name, p in own.items() if name != "settings"]
        parameters += [_parameter(name, field) for name, field in chosen.items()]
        parameters.append(_config_parameter())
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        del run.__wrapped__
        return run

    return decorate


def _parameter(name: str, field: FieldInfo) -> inspect.Parameter:
    flag = "--" + name.replace("_", "-")
    declared = f"{flag}/--no-{flag[2:]}" if field.annotation is bool else flag
    default = field.get_default()
    shown = "" if default in (None, ()) else f"default: {default}; "
    text = f"{field.description} ({shown}env: EVOSERVE_{name.upper()})"
    option = typer.Option(declared, help=text, show_default=False, rich_help_panel="Settings")
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[_optional(field.annotation), option],
    )


def _config_parameter() -> inspect.Parameter:
    option = typer.Option(
        "--config", help="TOML file with settings.", exists=True, rich_help_panel="Settings"
    )
    return inspect.Parameter(
        "config",
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[Path | None, option],
    )


def _optional(annotation: Any) -> Any:
    if get_origin(annotation) is tuple:
        return list[get_args(annotation)[0]] | None  # type: ignore[misc]
    if get_origin(annotation) in (Union, types.UnionType):
        return annotation
    return annotation | None if isinstance(annotation, type) else Union[annotation, None]  # noqa: UP007


def _plain(flags: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value == [] else value for name, value in flags.items()}
