"""Threads that run compiled forward passes together."""

import threading
import weakref

import numpy as np

from evoserve.jit import call, compiled
from evoserve.model.cpu.atomic import (
    CELL_BYTES,
    PHASE_BYTES,
    SEMAPHORE_BYTES,
    fetch_add,
    init_semaphore,
    post,
    wait,
    wait_for,
)
from evoserve.model.cpu.forward import PHASES_AT_END, PHASES_PER_STEP
from evoserve.model.cpu.native import load_kernels
from evoserve.model.cpu.records import JOB, Array
from evoserve.model.cpu.scratch import Scratch, Sizes

_NUM_SLOTS = 4
_STOP, _RUN_PATH, _NUM_CELLS = 0, 1, 8


class Team:
    """`num_threads` - 1 helpers that sleep between passes, without the GIL, and the caller.

    Nobody waits for a helper that comes late: it finds all pieces taken and catches up. Until it
    has, what it looks at lives on in the pass's slot, which only the fourth pass after uses again.
    """

    def __init__(self, num_threads: int) -> None:
        """Starts no thread yet: the first `run` does."""
        self.num_threads = num_threads
        self.lock = threading.Lock()
        self._scratch: dict[Sizes, Scratch] = {}
        self._crew: _Crew | None = None

    def run(self, job: Array, steps: Array) -> None:
        """Run a pass; job: records.JOB (1,) but for `team` and `kernels`; steps: records.STEP.

        The caller holds `lock`, from before it asks for scratch memory.
        """
        if self._crew is None:
            self._crew = _Crew(self.num_threads)
            weakref.finalize(self, self._crew.release).atexit = False
        self._crew.run(job, steps)

    def scratch(self, sizes: Sizes) -> Scratch:
        """Buffers for models of these sizes; the caller holds `lock`."""
        if sizes not in self._scratch:
            self._scratch[sizes] = Scratch(sizes, self.num_threads)
        return self._scratch[sizes]

    def close(self) -> None:
        """End the helpers; a later `run` starts others."""
        with self.lock:
            if self._crew is not None:
                self._crew.release()
                self._crew.join()
                self._crew = None


class _Crew:
    """The running threads and the memory they share."""

    def __init__(self, num_threads: int) -> None:
        self._num_threads = num_threads
        self._num_passes = 0
        self._control = np.zeros(_NUM_CELLS, np.int64)
        self._control[_RUN_PATH] = load_kernels().run_path
        self._semaphores = np.zeros((num_threads, SEMAPHORE_BYTES), np.uint8)
        self._jobs = np.zeros(_NUM_SLOTS, JOB)
        self._left = np.zeros(_NUM_SLOTS, np.int64)  # helpers that are through, ever
        self._phases = [np.zeros(0, np.int64)] * _NUM_SLOTS
        self._steps = [np.zeros(0, np.int64)] * _NUM_SLOTS
        for semaphore in self._semaphores:
            init_semaphore(semaphore.ctypes.data)
        shared = (self._control, self._semaphores, self._jobs, self._left)
        self._helpers = [
            threading.Thread(
                target=_follow, args=(index, *shared), name=f"evoserve-cpu-{index}", daemon=True
            )
            for index in range(1, num_threads)
        ]
        for helper in self._helpers:
            helper.start()

    def run(self, job: Array, steps: Array) -> None:
        rounds, slot = divmod(self._num_passes, _NUM_SLOTS)
        self._num_passes += 1
        _wait_for_all(self._left, slot, rounds * len(self._helpers))
        cells = PHASE_BYTES // CELL_BYTES * (PHASES_PER_STEP * steps.size + PHASES_AT_END)
        if self._phases[slot].size < cells:
            self._phases[slot] = np.zeros(cells, np.int64)
        self._phases[slot].fill(0)
        self._steps[slot] = steps
        mine = self._jobs[slot : slot + 1]
        mine[:] = job
        mine["kernels"] = load_kernels().record
        mine["team"]["num_threads"] = self._num_threads
        mine["team"]["phases"] = self._phases[slot].ctypes.data
        mine["team"]["steps"] = steps.ctypes.data
        _lead(self._control, self._semaphores, mine)

    def release(self) -> None:
        self._control[_STOP] = 1
        for semaphore in self._semaphores[1:]:
            post(semaphore.ctypes.data)

    def join(self) -> None:
        for helper in self._helpers:
            helper.join()


@compiled
def _wait_for_all(left: Array, slot: int, count: int) -> None:
    wait_for(left.ctypes.data + CELL_BYTES * slot, count)


@compiled
def _lead(control: Array, semaphores: Array, job: Array) -> None:
    """Wake the helpers and run the pass; everything is done when this returns."""
    for index in range(1, semaphores.shape[0]):
        post(semaphores[index].ctypes.data)
    _run(control, job, 0)


@compiled
def _follow(index: int, control: Array, semaphores: Array, jobs: Array, left: Array) -> None:
    """A helper's life."""
    slot = 0
    while True:
        wait(semaphores[index].ctypes.data)
        if control[_STOP]:
            return
        _run(control, jobs[slot : slot + 1], index)
        fetch_add(left.ctypes.data + CELL_BYTES * slot, 1)
        slot = (slot + 1) % _NUM_SLOTS


@compiled
def _run(control: Array, job: Array, thread: int) -> None:
    steps, num_steps = job[0].team.steps, job[0].model.num_steps
    call(control[_RUN_PATH], (job.ctypes.data, steps, num_steps, thread))
