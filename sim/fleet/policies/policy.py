"""What a policy is: who gets boards next, and whose are taken away.

A policy is one file with one class. It sees the fleet by `FleetView`, and starts jobs with `start`, or says with
`run_only` which jobs run from now on. Most need no more than a key by which the queue is ordered.

Public: `Policy`, `InRounds`, `FleetView`, `Grant`, `live_jobs`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import inf
from typing import Any, ClassVar, Protocol

from sim.fleet.jobs import FleetJob, JobRequest

Grant = tuple[FleetJob, int, str]  # a job, how many boards it is to have, and of which kind of node: any if empty


class FleetView(Protocol):
    """What a policy may know and do."""

    now: float
    waiting: list[FleetJob]  # in the order of the policy's key
    running: dict[int, FleetJob]  # that hold boards, by number, in the order in which they got them

    @property
    def free(self) -> int:
        """Boards that are free now."""

    @property
    def has_room(self) -> bool:
        """Whether any board, or a part of one, is free."""

    @property
    def capacity(self) -> int:
        """Boards of nodes in use."""

    def start(self, job: FleetJob, gpus: int = 0) -> bool:
        """Start a waiting job if there is a place for it."""

    def run_only(self, order: Iterable[FleetJob] | Iterable[Grant]) -> None:
        """Give boards in that order to each job that fits; jobs that get none are stopped."""

    def speed(self, job: JobRequest, gpus: int, kind: str) -> float:
        """Work in a second on so many boards of a kind of node, alone and on as few nodes as there can be."""

    def kinds(self) -> Mapping[str, int]:
        """Boards in use by kind of node."""


class Policy:
    """Base of all: jobs in the order of `key`, each started where it fits.

    blocks: the first that does not fit keeps the others waiting. preempts: running jobs may be stopped, for the report.
    options: what the file says under `scheduler`, by key.
    """

    blocks: ClassVar[bool] = True
    preempts: ClassVar[bool] = False
    wants: ClassVar[tuple[str, ...]] = ()  # keys of `scheduler` that it reads

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self.options: Mapping[str, Any] = options or {}

    def key(self, job: FleetJob) -> tuple[Any, ...]:
        """By what the queue is ordered; does not change while a job waits."""
        return (job.number,)

    def arrived(self, job: FleetJob, fleet: FleetView) -> None:
        """A job has come."""

    def ended(self, job: FleetJob, fleet: FleetView) -> None:
        """A job is gone."""

    def schedule(self, fleet: FleetView) -> None:
        """One pass, after something has changed."""
        if self.blocks:
            while fleet.waiting and fleet.start(fleet.waiting[0]):
                pass
            return
        for job in list(fleet.waiting):
            if not fleet.has_room:
                return
            fleet.start(job)

    def alarm(self, fleet: FleetView) -> float:
        """When the next pass is due though nothing happens; inf if never. Asked after each pass."""
        return inf


class InRounds(Policy):
    """Base of policies that divide time: every `round` s all boards are given anew; in between, those that are free."""

    preempts = True
    wants: ClassVar[tuple[str, ...]] = ("round",)

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self.step = float(self.options.get("round") or 360.0)
        self.due = 0.0

    def order(self, fleet: FleetView) -> Sequence[Grant]:
        """All live jobs in the order in which they get boards."""
        raise NotImplementedError

    def schedule(self, fleet: FleetView) -> None:
        """See `Policy`."""
        if not fleet.waiting and not fleet.running:
            return
        if fleet.now >= self.due:
            self.due = (fleet.now // self.step + 1) * self.step
            fleet.run_only(self.order(fleet))
            return
        for job in list(fleet.waiting):
            if not fleet.has_room:
                return
            fleet.start(job)

    def alarm(self, fleet: FleetView) -> float:
        """The next round, while there is anything to divide."""
        return max(self.due, fleet.now) if fleet.waiting else inf


def live_jobs(fleet: FleetView) -> list[FleetJob]:
    """All jobs that wait or hold boards, by number."""
    return sorted([*fleet.waiting, *fleet.running.values()], key=lambda job: job.number)
