"""The `evosearch` command; says so in one line if the libraries of the search are missing."""

import sys


def main() -> None:
    """Run the command. Exit code 2 without the `search` extra."""
    try:
        from search.cli import main as run
    except ModuleNotFoundError as error:
        if error.name not in ("cma", "pymoo"):
            raise
        sys.exit(_refuse(error.name))
    run()


def _refuse(library: str) -> int:
    print(f"error: {library} is not installed: pip install 'evoserve[search]'", file=sys.stderr)
    return 2


if __name__ == "__main__":
    main()
