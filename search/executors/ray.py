"""A crew of Ray actors, on a cluster of its own on this machine or on one that is there."""

import contextlib
import logging
import math
import os
import re
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np

from evoserve.errors import ConfigError
from search.executors.crew import Lost, Message, Plan, Ready, Result, Workbench
from search.executors.protocol import Job

_LOG = logging.getLogger(__name__)
_STORE_BYTES = 80 * 2**20  # jobs and scores are small, weights never travel
_PATIENCE_S = 30.0
_MAX_REASON = 400
_COLOUR = re.compile("\x1b\\[[0-9;]*m")


@dataclass(frozen=True)
class RayOptions:
    """address: None for an own local cluster, else as `ray.init` takes it; num_*: per worker."""

    address: str | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0


@dataclass
class _Member:
    """answers: object references in the order in which they are made."""

    actor: Any
    answers: deque[Any] = field(default_factory=deque)
    pid: int = 0


class RayCrew:
    """One actor per worker, never restarted by Ray itself."""

    def __init__(self, plan: Plan, num_workers: int, options: RayOptions | None = None) -> None:
        """Joins or starts the cluster and asks for the actors.

        The program must be installed on every node. Raises ConfigError without the library, for a
        cluster that cannot be reached and for more than this machine has.
        """
        self._ray = _import_ray()
        self._plan = plan
        self._options = options or RayOptions()
        self._members: list[_Member] = []
        self._is_ours = _join(self._ray, self._options, num_workers)
        try:
            self._members += [self._start() for _ in range(num_workers)]
        except BaseException:
            self.close()
            raise

    @property
    def num_workers(self) -> int:
        """As given."""
        return len(self._members)

    @property
    def pids(self) -> list[int]:
        """Process ids by worker, each on its node; 0 before it has begun."""
        return [member.pid for member in self._members]

    def hand(self, worker: int, jobs: Sequence[Job]) -> None:
        """Ask for the results, which an actor makes one after the other."""
        member = self._members[worker]
        # Not put among the answers: if it fails, so does the first of them.
        member.actor.work.remote(list(jobs))
        member.answers.extend(member.actor.advance.remote() for _ in jobs)

    def wait(self) -> list[tuple[int, Message]]:
        """The next message; says so once in a while when the cluster has no room for a worker."""
        heads = {
            member.answers[0]: number
            for number, member in enumerate(self._members)
            if member.answers
        }
        while True:
            ready, _ = self._ray.wait(list(heads), num_returns=1, timeout=_PATIENCE_S)
            if ready:
                number = heads[ready[0]]
                return [(number, self._receive(self._members[number]))]
            self._complain()

    def replace(self, worker: int) -> None:
        """Kill the actor if it still runs, and ask for another, on whatever node has room."""
        self._end(self._members[worker])
        self._members[worker] = self._start()

    def close(self) -> None:
        """Kill all actors; leave the cluster, and end it if it was started here."""
        while self._members:
            self._end(self._members.pop())
        if self._is_ours:
            self._is_ours = False
            self._ray.shutdown()

    def _start(self) -> _Member:
        remote = self._ray.remote(Workbench).options(
            num_cpus=self._options.num_cpus,
            num_gpus=self._options.num_gpus,
            max_restarts=0,
            max_task_retries=0,
        )
        actor = remote.remote(self._plan)
        return _Member(actor, deque([actor.begin.remote()]))

    def _receive(self, member: _Member) -> Message:
        try:
            message: Message = self._ray.get(member.answers.popleft())
        except self._ray.exceptions.RayError as error:
            member.answers.clear()
            return Lost(_reason(error))
        if isinstance(message, Ready):
            member.pid = message.pid
        if isinstance(message, Lost):
            member.answers.clear()
        return _detached(message)

    def _end(self, member: _Member) -> None:
        member.answers.clear()
        with contextlib.suppress(self._ray.exceptions.RayError, ValueError):
            self._ray.kill(member.actor, no_restart=True)

    def _complain(self) -> None:
        missing = sum(not member.pid for member in self._members)
        if missing:
            _LOG.warning(
                "waiting for the Ray cluster to start %d of %d workers of %g CPUs and %g GPUs "
                "each; it has %s",
                missing,
                len(self._members),
                self._options.num_cpus,
                self._options.num_gpus,
                _describe(self._ray.cluster_resources()),
            )


def _import_ray() -> ModuleType:
    try:
        import ray
        import ray.exceptions
    except ImportError:
        raise ConfigError("ray is not installed: pip install 'evoserve[ray]'") from None
    found: ModuleType = ray
    return found


def _join(ray: ModuleType, options: RayOptions, num_workers: int) -> bool:
    """Whether leaving the cluster is up to us: not where the caller has joined it before."""
    if ray.is_initialized():
        return False
    # Read by the processes of a cluster that starts here; whoever wants the reports sets it.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if options.address is not None:
        try:
            ray.init(address=options.address, **quiet)
        except (ConnectionError, ImportError, RuntimeError, ValueError) as error:
            why = " ".join(str(error).split())[:_MAX_REASON]
            raise ConfigError(f"executor.address '{options.address}': {why}") from None
        return True
    ray.init(
        address="local",
        num_cpus=max(1, math.ceil(num_workers * options.num_cpus)),
        object_store_memory=_STORE_BYTES,
        include_dashboard=False,
        **quiet,
    )
    there, needed = ray.cluster_resources().get("GPU", 0.0), num_workers * options.num_gpus
    if needed > there:
        ray.shutdown()
        raise ConfigError(
            f"executor: {num_workers} workers with num_gpus = {options.num_gpus:g} need "
            f"{needed:g} GPUs, this machine has {there:g}; take fewer, or share them: 0.5 each"
        )
    return True


def _detached(message: Message) -> Message:
    """With scores of its own, not a read-only view into the object store."""
    if isinstance(message, Result):
        evaluation = message.evaluation
        scores = np.array(evaluation.scores)
        return replace(message, evaluation=replace(evaluation, scores=scores))
    return message


def _describe(resources: dict[str, float]) -> str:
    return ", ".join(f"{resources.get(key, 0.0):g} {key}s" for key in ("CPU", "GPU"))


def _reason(error: Exception) -> str:
    """What happened comes first in such a text, and what it came from last."""
    lines = [line for line in _COLOUR.sub("", str(error)).splitlines() if line.strip(" ^~")]
    text = " ".join(" ".join(lines).split())
    if len(text) > _MAX_REASON:
        text = f"{text[: _MAX_REASON // 2]} ... {text[-_MAX_REASON // 2 :]}"
    return f"{type(error).__name__}: {text}"
