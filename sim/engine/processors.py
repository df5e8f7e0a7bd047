"""Processors shared by computation and the collectives that run beside it.

A collective kernel occupies some processors: while one runs beside it, computation is slower by a
fixed share. Data-parallel collectives also slow the collectives inside layers, which take processors
too; so a chain of operations slows down as a whole, however finely it is cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sim.engine.program import Action


@dataclass(slots=True)
class Job:
    """Work in progress on a stream: seconds left at full speed, its speed, since when."""

    action: Action
    left: float
    speed: float
    since: float


class Processors:
    """Speeds of running work by rank class; `ring(stream, seconds)` sets a stream's alarm anew."""

    def __init__(self, slowdown: float, ring: Callable[[int, float], None]) -> None:
        self.share, self.ring = 1.0 - slowdown, ring
        self.outer: dict[int, int] = {}  # rank class -> data-parallel collectives running
        self.inner: dict[int, int] = {}  # rank class -> collectives of layers running beside computation
        self.running = 0  # collectives that run beside work, over all ranks
        self.jobs: dict[int, Job] = {}  # stream -> its work
        self.on_rank: dict[int, dict[int, None]] = {}  # rank class -> streams at work on it

    def begin(self, stream: int, action: Action, now: float) -> None:
        """Start an action of a stream on all its ranks."""
        speed = self._speed(action) if self.running else 1.0
        self.jobs[stream] = job = Job(action, action.duration, speed, now)
        for rank in action.ranks:
            self.on_rank.setdefault(rank, {})[stream] = None
        self.ring(stream, job.left / job.speed)

    def end(self, stream: int) -> None:
        """The action of a stream is over."""
        job = self.jobs.pop(stream, None)
        if job is not None:
            for rank in job.action.ranks:
                del self.on_rank[rank][stream]

    def steal(self, action: Action, change: int, now: float) -> None:
        """A collective starts (+1) or ends (-1) beside the work of `action.steals`."""
        load = self.outer if action.category == "data_comm" else self.inner
        self.running += change
        touched: dict[int, None] = {}
        for rank in action.steals:
            load[rank] = load.get(rank, 0) + change
            touched |= self.on_rank.get(rank, {})
        for stream in touched:
            self._retime(stream, now)

    def put_off(self, stream: int, later: float) -> None:
        """The work of a stream rests for `later` s."""
        if stream in self.jobs:
            self.jobs[stream].since += later

    def _retime(self, stream: int, now: float) -> None:
        job = self.jobs[stream]
        speed = self._speed(job.action)
        if speed != job.speed:
            job.left = max(job.left - job.speed * (now - job.since), 0.0)
            job.speed, job.since = speed, now
            self.ring(stream, job.left / speed)

    def _speed(self, action: Action) -> float:
        beside_outer = any(self.outer.get(rank) for rank in action.ranks)
        beside_inner = action.is_computation and any(self.inner.get(rank) for rank in action.ranks)
        return (self.share if beside_outer else 1.0) * (self.share if beside_inner else 1.0)
