"""The process that local workers are copies of: it imports the simulator once, beside what the parent does.

Public: `worker_context`, `without_main`, `preload`. Imports nothing that takes time.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from multiprocessing import forkserver, get_context, resource_tracker
from multiprocessing.context import BaseContext
from types import ModuleType

PRELOADED = ("sim.ask.workers.batch", "sim.ask.run.simulate", "sim.ask.run.lives")
ALONE = "OPENBLAS_NUM_THREADS"  # a worker has one processor: more threads only wait for one another


def preload() -> None:
    """Import the simulator into this process."""
    for name in PRELOADED:
        import_module(name)


def worker_context() -> BaseContext:
    """How processes are started here. The one that they are copies of begins at once.

    Ctrl-C, held back while it starts, is none of its business.
    """
    if not hasattr(os, "fork"):
        return get_context("spawn")
    resource_tracker.ensure_running()  # would let Ctrl-C through again if it had to start later
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    unsaid = ALONE not in os.environ
    try:
        os.environ.setdefault(ALONE, "1")
        forkserver.set_forkserver_preload([*PRELOADED])
        forkserver.ensure_running()
    finally:
        if unsaid:
            del os.environ[ALONE]
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
    return get_context("forkserver")


@contextmanager
def without_main() -> Iterator[None]:
    """Processes that start meanwhile do not run the script of this one again: they need nothing of it.

    It may be a script that would start them once more, or none that could be run again, as what comes through a pipe.
    """
    main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
