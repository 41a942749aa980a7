"""Where a number was measured: the commit and the machine."""

import os
import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def find_commit() -> str | None:
    """The checked-out commit, None outside of a repository."""
    done = subprocess.run(
        ["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or None


def machine() -> dict[str, str | int]:
    """The processor, the cores that a program may use, the system."""
    return {"processor": processor(), "num_cpus": num_cpus(), "system": platform.platform()}


def num_cpus() -> int:
    """Cores that a program may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    """The CPU's name where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
