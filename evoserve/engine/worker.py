"""The engine's only thread: takes commands, runs steps, hands events to the event loop."""

import asyncio
import logging
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch

from evoserve.engine.core import EngineCore
from evoserve.engine.scheduler import Event

DEATH = "the engine's thread died"
Command = Callable[[EngineCore], list[Event]]
_LOG = logging.getLogger(__name__)


class Worker:
    """Owns an `EngineCore`: nobody else calls it, they post commands.

    Events go to `deliver` in the event loop, one call per turn however many there are; the last
    call, when the thread ends for whatever reason, is `on_exit`.
    """

    def __init__(
        self,
        core: EngineCore,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[list[Event]], None],
        on_exit: Callable[[], None],
        *,
        num_threads: int,
    ) -> None:
        """Starts the thread."""
        self._core = core
        self._loop = loop
        self._deliver = deliver
        self._on_exit = on_exit
        self._commands: queue.SimpleQueue[Command | None] = queue.SimpleQueue()
        self._is_stopping = False
        self._busy_since_s: float | None = None
        self._thread = threading.Thread(
            target=self._run, args=(num_threads,), name="evoserve-engine", daemon=True
        )
        self._thread.start()

    @property
    def stalled_s(self) -> float:
        """Seconds since the current turn began; 0 when idle, infinite when the thread is gone."""
        if not self._thread.is_alive():
            return math.inf
        since = self._busy_since_s
        return 0.0 if since is None else time.monotonic() - since

    def post(self, command: Command) -> None:
        """Run `command` in the engine's thread before its next step, in order of posting."""
        self._commands.put(command)

    def stop(self) -> None:
        """Abort all sequences after the commands posted so far, and end the thread."""
        self._commands.put(None)

    def join(self) -> None:
        """Wait for the thread to end; blocks."""
        self._thread.join()

    def _run(self, num_threads: int) -> None:
        end_all: Callable[[], list[Event]] = partial(self._core.fail_all, DEATH)
        try:
            torch.set_num_threads(num_threads)
            while not self._is_stopping:
                self._send(self._turn())
            end_all = self._core.abort_all
        except Exception:
            _LOG.critical(DEATH, exc_info=True)
        finally:
            try:
                self._send(end_all())
            finally:
                self._call(self._on_exit)

    def _turn(self) -> list[Event]:
        """All commands that wait, then one step. Blocks while there is nothing to do."""
        events: list[Event] = []
        for command in self._take():
            events += command(self._core)
        self._busy_since_s = time.monotonic()
        return events if self._is_stopping else events + self._core.step()

    def _take(self) -> Iterator[Command]:
        may_block = not self._core.has_work
        if may_block:
            self._busy_since_s = None
        while not self._is_stopping:
            try:
                command = self._commands.get(block=may_block)
            except queue.Empty:
                return
            may_block = False
            if command is None:
                self._is_stopping = True
            else:
                yield command

    def _send(self, events: list[Event]) -> None:
        if events:
            self._call(self._deliver, events)

    def _call(self, function: Callable[..., None], *args: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop is closed: nobody is left to serve
            self._is_stopping = True
