"""Where batches run: in this process, or in processes of this machine. Imports nothing that takes time.

Public: `start_workers`, `Workers`, `InThisProcess`, `LocalProcesses`, `processors`, `AHEAD`.
"""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import parent_process
from threading import Thread
from typing import TYPE_CHECKING, Protocol

from sim.ask.workers.forkserver import without_main, worker_context

if TYPE_CHECKING:
    from sim.ask.workers.batch import Batch
    from sim.inputs.records import Experiment

    Fields = Callable[[Experiment], str]  # what is wanted of an experiment, as JSON

AHEAD = 2  # batches per worker that are under way, the one it is at included
BATCH_S = 0.5  # sending a batch to another process costs milliseconds


class Workers(Protocol):
    """Something that runs batches."""

    lost: tuple[type[BaseException], ...]  # what a future raises if the process that ran it died
    batch_s: float  # of work in a batch, so that sending it costs little

    @property
    def slots(self) -> int:
        """Batches to have under way, so that no worker waits."""

    def submit(self, experiments: Sequence[Experiment]) -> Future[Batch]:
        """Start a batch."""

    def renew(self) -> None:
        """Be ready again after a process died."""

    def close(self) -> None:
        """End all workers at once, whatever they are doing."""


def start_workers(number: int | None = None, scheduler: str | None = None) -> Workers:
    """Workers, who make themselves ready while their work is prepared.

    `number` processes, one per processor if None, or those of the Dask `scheduler`. Raises ConfigError.
    """
    if scheduler is not None:
        from sim.ask.workers.on_dask import OnDask

        return OnDask(scheduler)
    number = processors() if number is None else number
    return LocalProcesses(number) if number > 1 else InThisProcess()


class InThisProcess:
    """One batch at a time, here and now; `fields` as in `run_batch`."""

    lost: tuple[type[BaseException], ...] = ()
    slots = 1
    batch_s = BATCH_S  # results are kept, and progress is shown, this often

    def __init__(self, fields: Fields | None = None) -> None:
        self.fields = fields

    def submit(self, experiments: Sequence[Experiment]) -> Future[Batch]:
        """Run a batch."""
        from sim.ask.workers.batch import run_batch

        future: Future[Batch] = Future()
        future.set_result(run_batch(experiments, fields=self.fields))
        return future

    def renew(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        """Nothing to do."""


class LocalProcesses:
    """`count` processes that import the simulator once and end with this one; `fields` as in `run_batch`."""

    lost: tuple[type[BaseException], ...] = (BrokenProcessPool,)
    batch_s = BATCH_S

    def __init__(self, count: int, fields: Fields | None = None) -> None:
        self.count, self.slots, self.fields = count, AHEAD * count, fields
        self.context = worker_context()
        self.renew()

    def submit(self, experiments: Sequence[Experiment]) -> Future[Batch]:
        """Start a batch."""
        from sim.ask.workers.batch import run_batch

        try:
            with without_main():  # since this also starts processes
                return self.pool.submit(run_batch, experiments, fields=self.fields)
        except BrokenProcessPool as error:
            future: Future[Batch] = Future()
            future.set_exception(error)
            return future

    def renew(self) -> None:
        """Start new processes."""
        self.pool = ProcessPoolExecutor(self.count, mp_context=self.context, initializer=prepare_worker)

    def close(self) -> None:
        """End all workers at once, whatever they are doing."""
        stop(self.pool)


def stop(pool: ProcessPoolExecutor) -> None:
    """End the workers without waiting for what they are at."""
    workers = list((getattr(pool, "_processes", None) or {}).values())
    pool.shutdown(wait=False, cancel_futures=True)
    for worker in workers:
        worker.kill()


def prepare_worker() -> None:
    """Leave Ctrl-C to the parent, and end when it ends, however it ends; what is imported is no garbage."""
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
