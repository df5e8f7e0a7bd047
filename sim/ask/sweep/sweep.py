"""A sweep: every point of a study once, results kept by content.

Public: `sweep`, `Sweep`, `Progress`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any

from sim.ask.sweep.fields import input_lookup
from sim.ask.sweep.judge import CONSTRAINT, INVALID, Judge, Verdict
from sim.ask.sweep.points import Point
from sim.ask.sweep.store import Outcome, PointEntry, Store
from sim.ask.sweep.sweep_file import LoadedStudy
from sim.ask.sweep.sweep_table import SweepTable, write_points
from sim.ask.workers.batch import content_key, first_line
from sim.ask.workers.dispatch import Job, dispatch
from sim.ask.workers.pool import Workers
from sim.errors import ConfigError
from sim.inputs.records import Experiment
from sim.record import Record

FEWEST, MOST = 8, 256  # points that are listed in one transaction: few at first, so that workers can begin
SHOWN = ("parallelism", "training")  # parts of the experiment that are always parameters of the table

Progress = Callable[[int, int], None]  # rows that are done, rows in all


def sweep(study: LoadedStudy, store: Store, workers: Workers, progress: Progress | None = None) -> SweepTable:
    """Compute what `store` does not hold yet, and make the table of all points.

    Also made, of what is there, when the sweep is interrupted.
    """
    running = Sweep(study, store, workers, progress or (lambda done, total: None))
    try:
        if study.study.search:
            from sim.ask.sweep.sweep_search import search

            search(running, study.study.search)
        else:
            running.run(enumerate(study.points()), running.total)
    finally:
        table = write_points(store, running.judge, study)
    return table


@dataclass
class Sweep:
    """A sweep under way."""

    study: LoadedStudy
    store: Store
    workers: Workers
    progress: Progress
    judge: Judge = field(init=False)
    total: int = field(init=False)
    done: int = 0
    sent: set[str] = field(default_factory=set)  # keys under way

    def __post_init__(self) -> None:
        self.judge = Judge(self.study)
        self.total = self.study.size
        self.store.begin()

    def run(self, points: Iterable[tuple[int, Point]], rows: int) -> None:
        """List numbered points, with so many rows, simulate those that are not known, and return when all are done."""
        self.progress(self.done, self.total)
        end = self.done + rows
        dispatch(self._jobs(iter(points)), self.workers, self._record, lambda: end - self.done)

    def skip(self, points: int) -> None:
        """Count points that need no row of their own."""
        self._count(points * self.study.study.seeds)

    def verdicts(self, first: int) -> dict[int, list[Verdict]]:
        """What the study says of the points from number `first` on, one verdict for each seed."""
        found = defaultdict[int, list[Verdict]](list)
        for row in self.store.rows(first):
            found[row.point].append(self.judge.verdict(row))
        return found

    def _record(self, outcomes: dict[str, Outcome]) -> None:
        self.store.record(outcomes)
        self.sent -= outcomes.keys()
        self._count(len(outcomes))

    def _count(self, number: int) -> None:
        self.done += number
        self.progress(self.done, self.total)

    def _jobs(self, points: Iterator[tuple[int, Point]]) -> Iterator[Job]:
        """What must be simulated; each content once."""
        rows = chain.from_iterable(self._rows(number, point) for number, point in points)
        size = FEWEST
        while chunk := list(islice(rows, size)):
            size = min(2 * size, MOST)
            self.store.list_entries([entry for entry, _ in chunk])
            jobs = {entry.key: experiment for entry, experiment in chunk if entry.key and experiment}
            missing = jobs.keys() - self.store.known(jobs) - self.sent
            self._count(len(chunk) - len(missing))
            self.sent |= missing
            yield from ((key, experiment) for key, experiment in jobs.items() if key in missing)

    def _rows(self, number: int, point: Point) -> Iterator[tuple[PointEntry, Experiment | None]]:
        """A row for each seed of the point, and what to simulate for it."""
        try:
            experiment = self.study.base.changed(point.changes)
        except ConfigError as error:
            experiment, reason = None, first_line(error)
        seeds = range(self.study.study.seeds)
        first = (experiment or self.study.base.experiment).seed
        if experiment is None:
            yield from (self._left_out(number, first + seed, INVALID, reason, point.shown) for seed in seeds)
            return
        inputs = self._inputs(point, experiment)
        objection = self.judge.objects(experiment)
        for seed in seeds:
            if objection:
                yield self._left_out(number, first + seed, CONSTRAINT, objection, inputs)
            else:
                seeded = experiment.model_copy(update={"seed": first + seed})
                yield PointEntry(number, first + seed, content_key(seeded), "", "", json.dumps(inputs)), seeded

    def _left_out(
        self, number: int, seed: int, status: str, reason: str, inputs: dict[str, Any]
    ) -> tuple[PointEntry, Experiment | None]:
        return PointEntry(number, seed, None, status, reason, json.dumps(inputs)), None

    def _inputs(self, point: Point, experiment: Experiment) -> dict[str, Any]:
        """The parameters of a point: what varies, what expressions ask for, and the parallel plan."""
        lookup = input_lookup(experiment)
        parts = {f"{part}.{name}": value for part in SHOWN for name, value in _scalars(getattr(experiment, part))}
        asked = {name: lookup(name) for name in self.judge.asks_for}
        return {**asked, **parts, **point.shown}


def _scalars(record: Record) -> Iterator[tuple[str, Any]]:
    for name in type(record).model_fields:
        value = getattr(record, name)
        if value is None or isinstance(value, bool | int | float | str):
            yield name, value
