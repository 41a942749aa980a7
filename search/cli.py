"""The `evosearch` command: run and resume searches, look at them, export what they found.

Exit codes: 0 done, 1 our fault, 2 the caller's input, 130 interrupted.
"""

import signal
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from evoserve import __version__
from evoserve.errors import ConfigError, EvoServeError, InputError
from evoserve.manifest.canonical import model_id
from evoserve.manifest.load import save_manifest, write_text
from search.check import check_search
from search.export import What, export_run
from search.loop import Stopped
from search.progress import open_reporter
from search.record import parse_record
from search.report.baselines import score_baselines
from search.report.gather import gather_report
from search.report.page import build_page
from search.session import load_order, run_order
from search.store import Store, StoreError

app = typer.Typer(
    name="evosearch",
    help="Evolve model-merge recipes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
StoreFile = Annotated[Path, typer.Option("--store", help="The SQLite file of runs.")]
DEFAULT_STORE = Path("evosearch.sqlite")


class StopSwitch:
    """Set by the first ctrl-C; the second one interrupts at once."""

    def __init__(self) -> None:
        self.is_set = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        del number, frame
        self.is_set = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
        print("stopping after this evaluation; ctrl-C again stops now", file=sys.stderr)


def main() -> None:
    """Entry point of the console script."""
    try:
        app()
    except InputError as error:
        _fail(error, 2)
    except EvoServeError as error:
        _fail(error, 1)
    except (KeyboardInterrupt, Stopped):
        sys.exit(130)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"evosearch {__version__}")
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


@app.command()
def run(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A search as TOML.")],
    store: StoreFile = DEFAULT_STORE,
    force: Annotated[
        bool, typer.Option("--force", help="Search even on a test split, which voids its score.")
    ] = False,
) -> None:
    """Run a search, or go on with it; ctrl-C stops after the running evaluation."""
    with _stop_switch() as switch, open_reporter() as reporter:
        run_order(load_order(config, store, force=force), reporter, lambda: switch.is_set)


@app.command()
def check(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A search as TOML.")],
    num_layers: Annotated[
        int | None,
        typer.Option(min=1, help="Layers assumed of sources that are not on this machine."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="As of `run`.")] = False,
) -> None:
    """Dry run: resolve everything but the weights, and say what a run would do."""
    for line in check_search(config, num_layers=num_layers, force=force):
        print(line)


@app.command()
def status(store: StoreFile = DEFAULT_STORE) -> None:
    """List the runs of a store: generations, individuals, best objectives."""
    with closing(_open(store)) as opened:
        for number, name, text in opened.runs():
            record = parse_record(text)
            individuals = opened.individuals(number)
            last = opened.last_generation(number)
            generations = 0 if last is None else last[0] + 1
            columns = zip(*(one.objectives.tolist() for one in individuals), strict=True)
            best = " ".join(f"{max(column):.3f}" for column in columns)
            print(
                f"{name}: {record.config.optimizer.name}, {generations} generations, "
                f"{len(individuals)} individuals, best {best or '-'}"
            )


@app.command()
def export(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the manifests.")],
    store: StoreFile = DEFAULT_STORE,
    what: Annotated[What, typer.Option(help="Which recipes.")] = "best",
) -> None:
    """Write recipes of a run as manifests that `evoserve serve` loads."""
    with closing(_open(store)) as opened:
        manifests = export_run(opened, run_name, what)
    for label, manifest in manifests:
        file = output / f"{run_name}-{label}.json"
        try:
            save_manifest(manifest, file)
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror or error}") from None
        print(f"{file} written: {model_id(manifest)}")


@app.command()
def report(
    run_name: Annotated[str, typer.Argument(metavar="RUN", help="The run's name.")],
    store: StoreFile = DEFAULT_STORE,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The page; default RUN.html.")
    ] = None,
    baselines: Annotated[
        Path | None,
        typer.Option(metavar="CONFIG", help="Score sources and default merges first."),
    ] = None,
) -> None:
    """Write one HTML page about a run: progress, recipes, scores."""
    with closing(_open(store)) as opened:
        found = gather_report(opened, run_name)
        if baselines is not None:
            order = load_order(baselines, store)
            if order.config.name != run_name:
                raise ConfigError(f"{baselines} is of run '{order.config.name}', not '{run_name}'")
            score_baselines(order)
            found = gather_report(opened, run_name)
    file = output or Path(f"{run_name}.html")
    try:
        write_text(file, build_page(run_name, [found]))
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror or error}") from None
    print(f"{file} written")


def _open(file: Path) -> Store:
    if not file.is_file():
        raise StoreError(f"{file}: no such store; `evosearch run` makes one")
    return Store(file)


@contextmanager
def _stop_switch() -> Iterator[StopSwitch]:
    switch = StopSwitch()
    before = signal.signal(signal.SIGINT, switch)
    try:
        yield switch
    finally:
        signal.signal(signal.SIGINT, before)


def _fail(error: EvoServeError, code: int) -> None:
    print(f"error: {error}", file=sys.stderr)
    sys.exit(code)
