"""What a token costs outside of the engine: CPU time of a real server's event loop under load."""

import os
from contextlib import suppress

from benchmarks.profile_result import Http
from benchmarks.serve_client import Load, build_body, run_load
from benchmarks.serve_prompts import write_prompts
from benchmarks.serve_server import PROC, start_server
from benchmarks.serve_subjects import MODEL, NAME, OURS_FP32, OURS_INT8, Peers, build_subjects

NUM_STREAMS, NUM_TOKENS, WARM_TOKENS = 32, 64, 4
_SERVERS = {"float32": OURS_FP32, "int8": OURS_INT8}


async def measure_http(form: str) -> Http | None:
    """One wave of streams after one that warms up; None where /proc does not tell threads."""
    subject = build_subjects(Peers(None, None, MODEL), [_SERVERS[form]])[0]
    warm, prompts = (write_prompts("main", f"http {n}", NUM_STREAMS) for n in range(2))
    async with start_server(subject, build_body(NAME, "Good morning.", 1)) as server:
        await run_load(server.port, NAME, Load(NUM_STREAMS, 1), warm, WARM_TOKENS)
        before = cpu_times(server.process.pid)
        found = await run_load(server.port, NAME, Load(NUM_STREAMS, 1), prompts, NUM_TOKENS)
        after = cpu_times(server.process.pid)
    if before is None or after is None:
        return None
    return {
        "num_streams": NUM_STREAMS,
        "num_tokens": found["num_tokens"],
        "wall_s": found["num_tokens"] / found["tokens_per_s"],
        "loop_s": after[0] - before[0],
        "others_s": after[1] - before[1],
    }


def cpu_times(process_id: int) -> tuple[float, float] | None:
    """CPU seconds of a process's first thread and of all others, user and system."""
    first = others = 0.0
    tasks = list((PROC / str(process_id) / "task").glob("[0-9]*"))
    for task in tasks:
        with suppress(OSError):  # it has just ended
            fields = (task / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
            spent_s = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            if task.name == str(process_id):
                first += spent_s
            else:
                others += spent_s
    return (first, others) if tasks else None
