"""Where the command prints: answers to stdout, errors and progress to stderr."""

from rich.console import Console

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)


def format_bytes(count: float) -> str:
    """`count` bytes with a binary unit, such as 513.2 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(count) < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
