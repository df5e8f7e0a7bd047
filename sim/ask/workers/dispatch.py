"""Hands experiments to workers in batches, until none is left.

Public: `dispatch`, `Job`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import islice

from sim.ask.sweep.judge import ERROR
from sim.ask.sweep.store import Outcome
from sim.ask.workers.batch import Batch, first_line
from sim.ask.workers.pool import Workers
from sim.inputs.records import Experiment

MOST = 1024  # experiments in a batch
GROWTH = 4
PARTS = 40  # of a batch; the last ones are small, but not so small that sending them takes longer than they do

Job = tuple[str, Experiment]  # content key, and what to simulate
Recorder = Callable[[dict[str, Outcome]], None]


def dispatch(jobs: Iterator[Job], workers: Workers, record: Recorder, left: Callable[[], int]) -> None:
    """Run all jobs and record each batch as it ends; `left` says how many are not recorded yet, at most.

    If a worker dies, the jobs that were under way are run again one at a time; one that kills its worker
    once more gets an error for an outcome.
    """
    size, flying = 1, dict[Future[Batch], list[Job]]()
    suspects: list[Job] = []
    while True:
        if not suspects:
            _fill(flying, jobs, workers, size, left)
        if not flying:
            if not suspects:
                return
            _run_alone(suspects, workers, record)
            suspects = []
            continue
        for future in wait(flying, return_when=FIRST_COMPLETED).done:
            batch = flying.pop(future)
            try:
                outcomes, seconds = future.result()
            except workers.lost:
                suspects += batch
            else:
                record(_keyed(batch, outcomes))
                size = _size(seconds / len(batch), size, workers)


def _fill(
    flying: dict[Future[Batch], list[Job]], jobs: Iterator[Job], workers: Workers, size: int, left: Callable[[], int]
) -> None:
    """Send batches until all slots are taken. The last ones are small, so that all workers end together."""
    while len(flying) < (slots := workers.slots):
        share = (left() - sum(map(len, flying.values()))) // slots
        batch = list(islice(jobs, max(1, size // PARTS, min(size, share))))
        if not batch:
            return
        flying[_send(workers, batch)] = batch


def _send(workers: Workers, batch: list[Job]) -> Future[Batch]:
    return workers.submit([experiment for _, experiment in batch])


def _keyed(batch: list[Job], outcomes: list[Outcome]) -> dict[str, Outcome]:
    return {key: outcome for (key, _), outcome in zip(batch, outcomes, strict=True)}


def _size(seconds: float, before: int, workers: Workers) -> int:
    """Jobs in the next batch, if one takes `seconds`."""
    return max(1, min(int(workers.batch_s / max(seconds, 1e-6)), GROWTH * before, MOST))


def _run_alone(suspects: list[Job], workers: Workers, record: Recorder) -> None:
    workers.renew()
    for job in suspects:
        try:
            outcomes, _ = _send(workers, [job]).result()
        except workers.lost as error:
            outcomes = [Outcome(ERROR, f"the process that ran it died: {first_line(error)}")]
            workers.renew()
        record(_keyed([job], outcomes))
