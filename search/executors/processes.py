"""A crew of processes on this machine, each at the other end of a pipe."""

import contextlib
import multiprocessing
import os
import pickle
import queue
import signal
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from search.executors.crew import Lost, Message, Plan, Ready, Workbench
from search.executors.protocol import Job

_JOIN_S = 10.0


@dataclass(frozen=True)
class _Member:
    process: SpawnProcess
    pipe: Connection


class ProcessCrew:
    """Workers are started afresh, not forked; they end with this process, however that ends."""

    def __init__(self, plan: Plan, num_workers: int) -> None:
        """Starts the processes. plan: pickled, its module must be importable by a new process."""
        self._plan = pickle.dumps(plan)
        self._members = [self._start() for _ in range(num_workers)]

    @property
    def num_workers(self) -> int:
        """As given."""
        return len(self._members)

    @property
    def pids(self) -> list[int]:
        """Process ids by worker."""
        return [member.process.pid or 0 for member in self._members]

    def hand(self, worker: int, jobs: Sequence[Job]) -> None:
        """Send the jobs."""
        with contextlib.suppress(OSError):  # it is gone, as the end of its pipe will tell
            self._members[worker].pipe.send_bytes(pickle.dumps(list(jobs)))

    def wait(self) -> list[tuple[int, Message]]:
        """One message of every worker that has something to say."""
        numbers = {member.pipe: number for number, member in enumerate(self._members)}
        return [
            (numbers[pipe], self._receive(pipe, self._members[numbers[pipe]].process))
            for pipe in wait(list(numbers))
            if isinstance(pipe, Connection)
        ]

    def replace(self, worker: int) -> None:
        """Kill the process if it still runs, and start another."""
        _end(self._members[worker])
        self._members[worker] = self._start()

    def close(self) -> None:
        """Kill all processes; nothing is lost with one but what it was computing."""
        while self._members:
            _end(self._members.pop())

    def _start(self) -> _Member:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=serve, args=(theirs,), name="evosearch", daemon=True)
        process.start()
        theirs.close()  # or its end would never be seen here
        with contextlib.suppress(OSError):
            ours.send_bytes(self._plan)
        return _Member(process, ours)

    def _receive(self, pipe: Connection, process: SpawnProcess) -> Message:
        try:
            message: Message = pipe.recv()
        except (EOFError, OSError):
            process.join(_JOIN_S)
            return Lost(f"its process {process.pid} {_how(process.exitcode)}")
        return message


def serve(pipe: Connection) -> None:
    """The life of a worker process: a plan comes first, then jobs, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C is for the process that searches
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(pipe, inbox), name="evosearch-pipe", daemon=True).start()
    bench = Workbench(pickle.loads(inbox.get()))
    message = bench.begin()
    pipe.send(message)
    while isinstance(message, Ready):
        jobs = pickle.loads(inbox.get())
        bench.work(jobs)
        for _ in jobs:
            result = bench.advance()
            pipe.send(result)
            if isinstance(result, Lost):
                return


def _read(pipe: Connection, inbox: "queue.SimpleQueue[bytes]") -> None:
    """Takes in what is sent; without a sender there is nothing left to do."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            inbox.put(pipe.recv_bytes())
    os._exit(1)  # from this thread nothing else ends a computation


def _end(member: _Member) -> None:
    member.process.kill()
    member.process.join(_JOIN_S)
    member.pipe.close()


def _how(exitcode: int | None) -> str:
    if exitcode is None:
        return "closed its pipe"
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    hint = " (out of memory?)" if name == "SIGKILL" else ""
    return f"was killed by {name}{hint}"
