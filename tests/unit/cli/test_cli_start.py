"""Commands that talk to a server or tell about themselves start without what models need."""

import subprocess
import sys
from pathlib import Path

import pytest

from evoserve.cli.lazy import LazyCommand
from evoserve.cli.main import COMMANDS

ROOT = Path(__file__).parents[3]
CLOSED = "http://127.0.0.1:1"
CODE = """
import sys
from evoserve.cli.main import main
sys.argv = ["evoserve", *sys.argv[1:]]
try:
    main()
except SystemExit as ending:
    print("code", ending.code)
heavy = ("torch", "numpy", "fastapi", "transformers", "tokenizers", "llguidance")
print("heavy", [name for name in heavy if name in sys.modules])
"""


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--version"], 0, "evoserve "),
        (["--help"], 0, "The same as `export`."),
        (["recipes", "list", "--help"], 0, "every registered recipe"),
        (["recipes", "list", "--url", CLOSED], 2, "no server answers"),
        (["aliases", "set", "a", "b", "--url", CLOSED], 2, "no server answers"),
        (["nobody"], 2, "nobody"),
    ],
)
def test_light_commands_do_not_import_models(arguments: list[str], code: int, said: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CODE, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines()[-2:] == [f"code {code}", "heavy []"], done.stderr
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_s_line_in_the_list_is_its_own(name: str) -> None:
    command = LazyCommand(name, COMMANDS[name]).load()
    assert command.name == name
    if name != "build":
        assert COMMANDS[name].help == command.help.split("\n\n")[0].replace("\n", " ")
