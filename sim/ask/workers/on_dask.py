"""Batches on an existing Dask cluster.

Public: `OnDask`, `run_sealed`, `rarely_watched`. Needs the extra: `pip install 'clustersim[dask]'`.
"""

from __future__ import annotations

import ctypes
import pickle
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any

from sim.ask.workers.forkserver import preload
from sim.ask.workers.pool import AHEAD
from sim.errors import ConfigError, Problem

if TYPE_CHECKING:
    from sim.ask.workers.batch import Batch
    from sim.inputs.records import Experiment

TIMEOUT_S = 15
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # names of mallopt: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
MOST_FREE = 32 << 20  # bytes: malloc's own upper bound of the latter; the former is twice as much
COUNTED_S = 1.0  # for how long a count of the workers is good
BATCH_S = 2.0  # the client, the scheduler and a worker have some 15 ms of work with each batch
RARELY_MS = 500.0


class OnDask:
    """The workers of a Dask scheduler; a batch whose worker dies is run again elsewhere by Dask itself."""

    batch_s = BATCH_S

    def __init__(self, scheduler: str) -> None:
        distributed = _distributed()
        try:
            self.client: Any = distributed.Client(scheduler, timeout=TIMEOUT_S, set_as_default=False)
        except (OSError, ValueError) as error:
            message = f"no Dask scheduler answers at {scheduler!r}: {error}".splitlines()[0]
            raise ConfigError(Problem("--scheduler", "", message, "start one with `dask scheduler`")) from None
        self.lost: tuple[type[BaseException], ...] = (distributed.KilledWorker,)
        self.executor = self.client.get_executor(pure=False)
        self._count()
        self.preloading = [self.client.submit(preload, workers=[address], pure=False) for address in self.threads]

    @property
    def slots(self) -> int:
        """Batches to have under way: two for each thread of all workers, and some for the first worker to come."""
        if time.monotonic() > self.counted + COUNTED_S:
            self._count()
        return AHEAD * max(1, sum(self.threads.values()))

    def _count(self) -> None:
        """Ask the scheduler for the threads of each worker, by its address."""
        self.threads: dict[str, int] = self.client.nthreads()
        self.counted = time.monotonic()

    def submit(self, experiments: Sequence[Experiment]) -> Future[Batch]:
        """Start a batch."""
        from sim.ask.workers.batch import code_version

        sealed = pickle.dumps(experiments)  # else the scheduler would open it, for which it needs the simulator
        future: Future[Batch] = self.executor.submit(run_sealed, sealed, code_version())
        return future

    def renew(self) -> None:
        """Dask sees to its workers itself."""

    def close(self) -> None:
        """Give up what is under way; the cluster stays."""
        self.executor.shutdown(wait=False)
        self.client.close()


def run_sealed(experiments: bytes, version: str) -> Batch:
    """Run a batch that was pickled; done by a worker. Raises ConfigError as `run_batch` does."""
    from sim.ask.workers.batch import run_batch

    _keep_freed_memory()
    with rarely_watched():
        return run_batch(pickle.loads(experiments), version)


@contextmanager
def rarely_watched() -> Iterator[None]:
    """Let the timers of this worker look at it less often: its profiler, the lag of its event loop, its memory.

    To be interrupted 160 times a second costs a simulation a tenth of its time.
    """
    timers = _distributed().get_worker().periodic_callbacks.values()
    often = [timer for timer in timers if timer.callback_time < RARELY_MS]
    usual = [timer.callback_time for timer in often]  # none where another batch of this worker did so
    for timer in often:
        timer.callback_time = RARELY_MS
    try:
        yield
    finally:
        for timer, time_ms in zip(often, usual, strict=True):
            timer.callback_time = time_ms


@cache  # once for a process
def _keep_freed_memory() -> None:
    """Let this process keep memory that it has freed, for the next point, as far as malloc does by itself.

    Dask starts workers with MALLOC_TRIM_THRESHOLD_=65536, for data that come and go; to ask the system for the same
    memory again and again costs a point a tenth of its time. https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None  # not in every libc
    if mallopt is not None:
        mallopt(TRIM_THRESHOLD, 2 * MOST_FREE)
        mallopt(MMAP_THRESHOLD, MOST_FREE)


def _distributed() -> Any:
    try:
        import distributed
    except ImportError:
        way_out = "pip install 'clustersim[dask]'"
        raise ConfigError(Problem("--on dask", "", "dask.distributed is not installed", way_out)) from None
    return distributed
