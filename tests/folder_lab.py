"""Shipped recipes as files of a watched folder."""

import os
import shutil
from pathlib import Path

RECIPES = Path(__file__).parents[1] / "models" / "recipes"
OLD = (1_700_000_000, 1_700_000_000)  # seconds since 1970: such a file is not being written


def put(file: Path, name: str) -> Path:
    """The shipped recipe mini-NAME as an old file."""
    shutil.copy(RECIPES / f"mini-{name}.json", file)
    os.utime(file, OLD)
    return file
