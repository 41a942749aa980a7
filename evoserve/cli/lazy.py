"""Commands that are imported when they are run, so that the others start at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True)
class Place:
    """Where a command is (`module.function` below evoserve.cli), and its line in the list."""

    function: str
    help: str


class LazyCommand(TyperCommand):
    """Stands in the list for a command that is imported when its arguments are to be read."""

    def __init__(self, name: str, place: Place) -> None:
        """Imports nothing."""
        super().__init__(name, help=place.help)
        self._place = place

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        """The parser's: the context is that of the command itself."""
        return self.load().make_context(info_name, args, parent, **extra)

    def load(self) -> Any:
        """The command, imported."""
        module, _, function = self._place.function.rpartition(".")
        app = typer.Typer(add_completion=False)
        app.command(self.name)(getattr(import_module(f"evoserve.cli.{module}"), function))
        return typer.main.get_command(app)


def lazy_group(places: Mapping[str, Place]) -> type[TyperGroup]:
    """A group with the commands of `places` before those that are added to it."""

    class LazyGroup(TyperGroup):
        def __init__(self, **given: Any) -> None:
            super().__init__(**given)
            lazy = {name: LazyCommand(name, place) for name, place in places.items()}
            self.commands = {**lazy, **self.commands}

    return LazyGroup
