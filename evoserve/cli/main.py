"""The `evoserve` command: its subcommands, and how errors become exit codes.

Exit codes: 0 done, 1 our fault or a check that failed, 2 the caller's input, 130 interrupted.
"""

import sys
from typing import Annotated

import typer

from evoserve import __version__
from evoserve.cli import lifecycle
from evoserve.cli.lazy import Place, lazy_group
from evoserve.cli.output import errors
from evoserve.errors import EvoServeError, InputError

COMMANDS = {
    "serve": Place(
        "serve.serve", "Build the recipes from their sources and serve them behind OpenAI's API."
    ),
    "check": Place(
        "examine.check",
        "Hold recipes against their sources' headers: shapes, vocabularies, memory, time.",
    ),
    "inspect": Place(
        "examine.inspect", "Show a recipe: sources, groups, the path drawn, scales, memory, digest."
    ),
    "diff": Place(
        "examine.diff",
        "List the fields in which two manifests differ; exit code 1 if the recipes do.",
    ),
    "verify": Place(
        "verify.verify",
        "Check sources against their digests, build the weights, compare them with the provenance.",
    ),
    "export": Place(
        "build.export",
        "Write a recipe as a checkpoint that transformers loads with no custom code.",
    ),
    "build": Place("build.export", "The same as `export`."),
    "import": Place(
        "build.import_",
        "Make a manifest from mergekit's YAML or from Sakana's released DFS format.",
    ),
    "pin": Place(
        "build.pin",
        "Write the digests of sources and built weights, as they are here, into the manifest.",
    ),
    "chat": Place("chat.chat", "Chat with a recipe; an empty line or Ctrl-D ends it."),
}

app = typer.Typer(
    name="evoserve",
    cls=lazy_group(COMMANDS),
    help="Evolve model-merge recipes and serve them by recipe.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(lifecycle.recipes, name="recipes")
app.add_typer(lifecycle.aliases, name="aliases")


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except InputError as error:
        _fail(error, 2)
    except EvoServeError as error:
        _fail(error, 1)
    except KeyboardInterrupt:
        sys.exit(130)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"evoserve {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and exit.",
            is_eager=True,
            callback=_print_version,
        ),
    ] = False,
) -> None:
    del version


def _fail(error: EvoServeError, code: int) -> None:
    errors.print(f"error: {error}", style="red", markup=False, soft_wrap=True, highlight=False)
    sys.exit(code)
