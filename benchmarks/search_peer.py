"""The peer's side of `benchmarks.search`: its processes, and the fastest way to run it."""

import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmarks.search_cases import ROOT, Case, Way

DRIVER = ROOT / "benchmarks" / "peers" / "mergekit_evolve.py"
Answer = dict[str, float]


class Peer:
    """One process of the driver; idle between calls."""

    def __init__(self, python: Path, job: dict[str, object]) -> None:
        """Writes the job into its `work` folder and starts; imports go on meanwhile."""
        folder = Path(str(job["work"]))
        folder.mkdir(parents=True)
        file, self._log = folder / "job.json", folder / "log"
        file.write_text(json.dumps(job), encoding="utf-8")
        self._errors = self._log.open("w", encoding="utf-8")
        self._process = subprocess.Popen(
            [str(python), str(DRIVER), str(file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={
                **os.environ,
                "OMP_NUM_THREADS": str(job["threads"]),
                "HF_HUB_OFFLINE": "1",
                "PYTHONFAULTHANDLER": "1",
            },
        )

    def evaluate(self, genotypes: Sequence[Sequence[float]]) -> list[Answer]:
        """What the driver measured of each. Raises RuntimeError with its log if it died."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(genotypes), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            lines = self._log.read_text(encoding="utf-8").splitlines()[-20:]
            code = self._process.wait()
            raise RuntimeError("\n".join([f"the peer ended with code {code}:", *lines]))
        answers: list[Answer] = json.loads(line)
        return answers

    def close(self) -> None:
        """End the process."""
        self._process.communicate()
        self._errors.close()


def fastest(
    python: Path, case: Case, work: Path, genotypes: Sequence[Sequence[float]]
) -> tuple[Way, Peer, dict[str, float]]:
    """The way with the least seconds for the last genotype, its process, and all ways' seconds.

    Every way evaluates all genotypes, the first to warm up; the processes of the others end.
    """
    items = write_items(case, work)
    seconds: dict[str, float] = {}
    best: tuple[Way, Peer] | None = None
    for number, way in enumerate(case.ways):
        peer = Peer(python, case.job(way, items, work / f"{case.name}-{number}"))
        with ExitStack() as stack:
            stack.callback(peer.close)
            took = peer.evaluate(genotypes)[-1]["total_s"]
            if all(took < other for other in seconds.values()):
                stack.pop_all()
                if best:
                    best[1].close()
                best = way, peer
        seconds[way.describe()] = took
    assert best is not None
    return *best, seconds


def write_items(case: Case, work: Path) -> Path:
    """The case's items as JSONL."""
    from models.mini.train.data import build_items

    file = work / f"{case.name}.jsonl"
    lines = [json.dumps(dict(item)) for item in build_items("search", "en", case.num_items)]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file
