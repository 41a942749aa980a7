"""Lets builds give way: a thread that puts itself, and the threads it starts, behind all others."""

import contextlib
import os
import sys
import threading

# Not the lowest: a thread that gets next to no time and holds the interpreter's lock would make
# the others wait. At 5 a build still gets a quarter of the cores that streams could use up.
NICENESS = 5


def lower_priority() -> None:
    """Lower the calling thread's priority; threads that it starts later inherit that.

    On Linux a thread has a priority of its own; elsewhere this would slow the whole process down,
    so nothing is done.
    """
    if sys.platform == "linux":
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
