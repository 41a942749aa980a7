"""The serving benchmark's result: its JSON form, ratios beside the floors, and tables of both."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from statistics import median
from typing import Any, TypedDict, TypeGuard

from benchmarks.serve_client import Measured
from benchmarks.serve_subjects import LLAMA, OURS_FP32, OURS_INT8, SUBJECTS, VLLM

Three = tuple[float, float, float]


class Visit(TypedDict):
    """One server in one round; loads: by set of prompts, then by number of streams."""

    start_s: float
    peak_bytes: int
    loads: dict[str, dict[str, Measured]]


class Failure(TypedDict):
    """Why a server has no numbers in a round."""

    error: str


Round = dict[str, Visit | Failure]


class Result(TypedDict):
    """All that was measured, and where; rounds: by subject."""

    benchmark: str
    model: str
    num_tokens: int
    seed: int
    waves: dict[str, int]
    machine: dict[str, Any]
    versions: dict[str, dict[str, str]]
    commit: str | None
    rounds: list[Round]


@dataclass(frozen=True)
class Measure:
    """A number of a visit, None if it was not measured. per_set: one for each set of prompts."""

    label: str
    read: Callable[[Visit, str], float | None]
    per_set: bool = True


def _load_measure(label: str, streams: str, key: str) -> Measure:
    def read(visit: Visit, kind: str) -> float | None:
        found: Any = visit["loads"].get(kind, {}).get(streams)
        return None if found is None else float(found[key])

    return Measure(label, read)


RATES = {
    streams: _load_measure(f"tokens/s, {words}", streams, "tokens_per_s")
    for streams, words in {"1": "1 stream", "8": "8 streams", "32": "32 streams"}.items()
}
FIRST = _load_measure("first token at 32 streams", "32", "first_token_s")
START = Measure("process start to first token", lambda visit, _: visit["start_s"], per_set=False)


@dataclass(frozen=True)
class Floor:
    """What `ours` / `peer` should be: at least, or (is_time) at most `bound`."""

    measure: Measure
    ours: str
    peer: str
    bound: float
    is_time: bool = False


FLOORS = (
    Floor(RATES["1"], OURS_FP32, VLLM, 1.5),
    Floor(RATES["8"], OURS_FP32, VLLM, 1.3),
    Floor(RATES["32"], OURS_FP32, VLLM, 1.3),
    Floor(FIRST, OURS_FP32, VLLM, 1.0, is_time=True),
    Floor(START, OURS_FP32, VLLM, 0.5, is_time=True),
    Floor(RATES["1"], OURS_INT8, LLAMA, 1.0),
    Floor(RATES["8"], OURS_INT8, LLAMA, 2.0),
    Floor(RATES["8"], OURS_INT8, VLLM, 2.0),
    Floor(RATES["32"], OURS_INT8, LLAMA, 3.0),
    Floor(RATES["32"], OURS_INT8, VLLM, 2.5),
    Floor(FIRST, OURS_INT8, VLLM, 1.0, is_time=True),
    Floor(FIRST, OURS_INT8, LLAMA, 1.0, is_time=True),
    Floor(START, OURS_INT8, VLLM, 0.7, is_time=True),
)


def format_tables(result: Result) -> str:
    """Markdown: numbers by server, ratios beside the floors, and what failed."""
    kinds = [kind for kind in ("main", "second") if _subjects(result, kind)]
    parts = ["\n".join(_numbers(result, kind)) for kind in kinds]
    parts.append("\n".join(_ratios(result, kinds)))
    return "\n\n".join([*parts, *_failures(result)])


def values(result: Result, subject: str, measure: Measure, kind: str) -> list[float]:
    """One number for each round in which it was measured."""
    visits = [found[subject] for found in result["rounds"] if subject in found]
    read = [measure.read(visit, kind) for visit in visits if _is_visit(visit)]
    return [value for value in read if value is not None]


def ratios(result: Result, floor: Floor, kind: str) -> list[float]:
    """Ours over the peer's, within each round that has both."""
    found = []
    for each in result["rounds"]:
        ours, peer = each.get(floor.ours), each.get(floor.peer)
        if ours and peer and _is_visit(ours) and _is_visit(peer):
            pair = floor.measure.read(ours, kind), floor.measure.read(peer, kind)
            found += [pair[0] / pair[1]] if pair[0] and pair[1] else []
    return found


def three(numbers: Sequence[float]) -> Three:
    """(median, least, most)."""
    return median(numbers), min(numbers), max(numbers)


def spread(numbers: Sequence[float], digits: int) -> str:
    """`median (least - most)`, one number as it is, a dash for none."""
    if not numbers:
        return "-"
    middle, least, most = (f"{value:.{digits}f}" for value in three(numbers))
    return middle if len(numbers) == 1 else f"{middle} ({least} - {most})"


def agreement(result: Result, subject: str, kind: str) -> list[float]:
    """Share of the replies that is, from their start on, ours in float32; by round."""
    found = []
    for each in result["rounds"]:
        ours, other = each.get(OURS_FP32), each.get(subject)
        if ours and other and _is_visit(ours) and _is_visit(other):
            pairs = zip(_texts(ours, kind), _texts(other, kind), strict=True)
            shares = [_shared(a, b) for a, b in pairs]
            found.append(sum(shares) / len(shares))
    return found


def write_result(file: Path, result: Result) -> None:
    """Write the JSON beside and rename it: whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    work = file.with_suffix(".part")
    work.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    os.replace(work, file)


def load_result(file: Path) -> Result:
    """What `write_result` wrote. Raises ValueError if it is another benchmark's."""
    result: Result = json.loads(file.read_text(encoding="utf-8"))
    if result.get("benchmark") != "serve":
        raise ValueError(f"{file} is not a result of benchmarks.serve")
    return result


def _numbers(result: Result, kind: str) -> Iterator[str]:
    yield (
        f"| {kind} prompts | tokens/s, 1 stream | 8 streams | 32 streams | first token at 32, s "
        "| slowest, s | start, s | peak memory, MB | text as ours fp32, % |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    slowest = _load_measure("", "32", "first_token_max_s")
    memory = Measure("", lambda visit, _: visit["peak_bytes"] / 1e6)
    columns = [(measure, 1) for measure in RATES.values()]
    columns += [(FIRST, 2), (slowest, 2), (START, 1), (memory, 0)]
    for subject in _subjects(result, kind):
        cells = [spread(values(result, subject, m, kind), digits) for m, digits in columns]
        same = [100 * share for share in agreement(result, subject, kind)]
        yield f"| {subject} | " + " | ".join([*cells, spread(same, 0)]) + " |"


def _ratios(result: Result, kinds: Sequence[str]) -> Iterator[str]:
    yield "| ours | peer | | prompts | ours / peer | floor | |"
    yield "|---|---|---|---|---|---|---|"
    for floor in FLOORS:
        for kind in kinds if floor.measure.per_set else kinds[:1]:
            numbers = ratios(result, floor, kind)
            if numbers:
                sign = "<=" if floor.is_time else ">="
                cells = [floor.ours, floor.peer, floor.measure.label, kind, spread(numbers, 2)]
                cells += [f"{sign} {floor.bound}", _verdict(floor, median(numbers))]
                yield "| " + " | ".join(cells) + " |"


def _verdict(floor: Floor, ratio: float) -> str:
    is_met = ratio <= floor.bound if floor.is_time else ratio >= floor.bound
    return "reached" if is_met else "**missed**"


def _failures(result: Result) -> Iterator[str]:
    for number, each in enumerate(result["rounds"], start=1):
        for visit in each.values():
            if not _is_visit(visit):
                yield f"Round {number}: {visit.get('error')}"


def _subjects(result: Result, kind: str) -> list[str]:
    """Those with numbers for a set of prompts."""
    seen = {
        name
        for each in result["rounds"]
        for name, visit in each.items()
        if _is_visit(visit) and kind in visit["loads"]
    }
    return [name for name in SUBJECTS if name in seen]


def _is_visit(visit: Visit | Failure) -> TypeGuard[Visit]:
    return "loads" in visit


def _texts(visit: Visit, kind: str) -> list[str]:
    return [text for load in visit["loads"][kind].values() for text in load["texts"]]


def _shared(text: str, other: str) -> float:
    """Length of the common beginning over the longer length; 1 for two empty texts."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(text, other, strict=False))
    longest = max(len(text), len(other))
    return len(list(same)) / longest if longest else 1.0
