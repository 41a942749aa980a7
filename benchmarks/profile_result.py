"""The profile's JSON form and its Markdown: every part of a step beside the machine's limit."""

from collections.abc import Iterator, Sequence
from statistics import median
from typing import Any, TypedDict

from benchmarks.serve_table import spread

WAITING = "waiting, cold rows"
PYTHON = ("schedule", "batch and call", "sample", "commit")


class Limits(TypedDict):
    """By repetition; the best of each is the limit."""

    bytes_per_s: list[float]
    operations_per_s: list[float]


class Part(TypedDict):
    """One kind of work of a whole pass; num_bytes: of weights or KV that it must read."""

    name: str
    seconds: list[float]
    num_bytes: int
    operations: int


class Scenario(TypedDict):
    """One kind of step. seconds: of the whole step by repetition, native: of its native pass,
    python: of what surrounds it, by name; parts: of the native pass, each measured alone."""

    name: str
    num_tokens: int
    seconds: list[float]
    native: list[float]
    python: dict[str, list[float]]
    parts: list[Part]


class Http(TypedDict):
    """A server under load: CPU seconds of its event loop and of its other threads."""

    num_streams: int
    num_tokens: int
    wall_s: float
    loop_s: float
    others_s: float


class Form(TypedDict, total=False):
    """What was measured with one form of the weights."""

    limits: Limits
    scenarios: list[Scenario]
    http: Http | None


class Result(TypedDict):
    """The whole file; forms: by float32 or int8."""

    benchmark: str
    model: str
    machine: dict[str, Any]
    commit: str | None
    forms: dict[str, Form]


def limit_s(part: Part, limits: Limits) -> float:
    """The time that the part's bytes or its operations need at least, whichever is more."""
    by_memory = part["num_bytes"] / max(limits["bytes_per_s"])
    return max(by_memory, part["operations"] / max(limits["operations_per_s"]))


def waiting_s(scenario: Scenario) -> float:
    """What is left of the native pass without its parts; below zero if they were slower alone."""
    parts = sum(median(part["seconds"]) for part in scenario["parts"])
    return median(scenario["native"]) - parts


def format_limits(form: str, limits: Limits) -> str:
    """One line."""
    gigabytes = [value / 1e9 for value in limits["bytes_per_s"]]
    operations = [value / 1e9 for value in limits["operations_per_s"]]
    return (
        f"Limits, {form}: memory {max(gigabytes):.1f} GB/s (least seen {min(gigabytes):.1f}), "
        f"multiply-adds {max(operations):.0f} GOP/s (least seen {min(operations):.0f})."
    )


def format_scenario(form: str, scenario: Scenario, limits: Limits) -> Iterator[str]:
    """A table: parts of the native pass, then the Python around it, then both."""
    whole = median(scenario["seconds"])
    yield f"| {scenario['name']}, {form} | ms | % of the step | limit, ms | x limit | bound by |"
    yield "|---|---|---|---|---|---|"
    floor = 0.0
    for part in scenario["parts"]:
        least = limit_s(part, limits)
        floor += least
        cells = _cells(part["seconds"], whole)
        yield f"| {part['name']} | {cells} | {_against(part['seconds'], least)} | " + (
            f"{_bound(part, limits)} |"
        )
    yield f"| {WAITING} | {_cells([waiting_s(scenario)], whole)} | - | - | |"
    native = _cells(scenario["native"], whole)
    yield f"| native pass | {native} | {_against(scenario['native'], floor)} | |"
    for name, seconds in scenario["python"].items():
        yield f"| Python: {name} | {_cells(seconds, whole)} | - | - | |"
    rate = [scenario["num_tokens"] / seconds for seconds in scenario["seconds"]]
    against = _against(scenario["seconds"], floor)
    step = _cells(scenario["seconds"], whole)
    yield f"| step: {spread(rate, 0)} tokens/s | {step} | {against} | |"


def format_http(form: str, found: Http) -> str:
    """One line, in microseconds per token."""
    count = found["num_tokens"]
    seconds = (found["loop_s"], found["others_s"], found["wall_s"])
    loop, others, wall = (1e6 * value / count for value in seconds)
    return (
        f"HTTP, {form}, {found['num_streams']} streams: {count / found['wall_s']:.0f} tokens/s; "
        f"CPU time per token {loop:.0f} us in the event loop (HTTP, text, SSE), {others:.0f} us in "
        f"the engine's threads; {wall:.0f} us by the clock."
    )


def _cells(seconds: Sequence[float], whole: float) -> str:
    numbers = [1e3 * value for value in seconds]
    return f"{spread(numbers, 3)} | {100 * median(seconds) / whole:.1f}"


def _against(seconds: Sequence[float], least: float) -> str:
    return f"{1e3 * least:.3f} | {median(seconds) / least:.2f}" if least > 0 else "- | -"


def _bound(part: Part, limits: Limits) -> str:
    if not part["operations"]:
        return ""
    by_memory = part["num_bytes"] / max(limits["bytes_per_s"])
    return "memory" if limit_s(part, limits) == by_memory else "arithmetic"
