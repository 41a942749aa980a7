"""The `evoserve` command: its subcommands, and how errors become exit codes.

Exit codes: 0 done, 1 our fault or a check that failed, 2 the caller's input, 130 interrupted.
"""

import sys
from typing import Annotated

import typer

from evoserve import __version__
from evoserve.cli import build, chat, examine, lifecycle, serve, verify
from evoserve.cli.output import errors
from evoserve.errors import EvoServeError, InputError

app = typer.Typer(
    name="evoserve",
    help="Evolve model-merge recipes and serve them by recipe.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(serve.serve)
app.command()(examine.check)
app.command()(examine.inspect)
app.command()(examine.diff)
app.command()(verify.verify)
app.command()(build.export)
app.command("build", help="The same as `export`.")(build.export)
app.command("import")(build.import_)
app.command()(build.pin)
app.command()(chat.chat)
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
