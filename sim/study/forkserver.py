"""The process that local workers are copies of: it imports the simulator once, beside what the parent does.

Public: `worker_context`, `start_early`. Imports nothing that takes time.
"""

from __future__ import annotations

import os
import signal
from multiprocessing import forkserver, get_context, resource_tracker
from multiprocessing.context import BaseContext

PRELOADED = "sim.study.batch"


def worker_context() -> BaseContext:
    """How processes are started here."""
    start_early()
    return get_context("forkserver" if hasattr(os, "fork") else "spawn")


def start_early(*main: str) -> None:
    """Let it begin while there is something else to do; Ctrl-C, held back while it starts, is none of its business.

    main: a module that workers import anyway, since the parent's program does.
    """
    if not hasattr(os, "fork"):
        return
    resource_tracker.ensure_running()  # would let Ctrl-C through again if it had to start later
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.set_forkserver_preload([PRELOADED, *main])
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, held)
