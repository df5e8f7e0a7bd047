"""A job of a fleet: what it asks for, and how far it has come.

Public: `JobRequest`, `FleetJob`, `JobPhase`, `Places`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import Literal

JobPhase = Literal["pending", "waiting", "loading", "running", "saving", "ended", "refused"]
Places = tuple[tuple[int, int], ...]  # (node, boards) each; (node, -1 - board) for a share of one board


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a job asks for. Times in s; `work` is its run time at speed 1 on `gpus` boards.

    share, memory: of one board, for a job that needs less than a whole one. cores: of hosts, for all of its boards.
    kinds: of nodes that it may use, any if empty. least, most: boards of an elastic job. save, load: s to stop and to
    start again, those of the fleet if None.
    """

    name: str
    submit: float
    work: float
    gpus: int = 1
    user: str = ""
    group: str = ""
    queue: str = ""  # virtual cluster, partition
    priority: float = 0.0
    kinds: tuple[str, ...] = ()
    model: str = ""
    deadline: float = inf
    estimate: float | None = None  # s that the user says it takes; `work` if None
    share: float = 1.0
    memory: float = 0.0
    least: int = 0
    most: int = 0
    save: float | None = None
    load: float | None = None
    watts: float | None = None  # of a board while it runs, over an idle one; that of the fleet if None
    cores: float = 0.0
    release: float | None = None  # when it may start at the earliest, `submit` if None

    @property
    def expected(self) -> float:
        """Seconds that a scheduler is told of."""
        return self.work if self.estimate is None else self.estimate


class FleetJob:
    """Where a job is in its life; changed by the fleet alone. Policies read it, and may keep marks in `mark`."""

    __slots__ = (
        "end", "faults", "first_start", "gpus", "left", "load_s", "lost_s", "mark", "number", "phase", "places",
        "preemptions", "rate", "request", "run_s", "save_s", "service", "since", "stamp", "stay_s",
    )  # fmt: skip

    def __init__(self, request: JobRequest, number: int) -> None:
        self.request, self.number = request, number
        self.phase: JobPhase = "pending"
        self.gpus = request.gpus  # boards it has or is to have next
        self.left = request.work  # s of work at speed 1
        self.rate = 1.0  # work in a second
        self.since = 0.0  # up to when what follows is counted
        self.run_s = self.load_s = self.save_s = self.lost_s = 0.0
        self.stay_s = 0.0  # s that it has run since it last got boards
        self.service = 0.0  # board-seconds in which it ran
        self.places: Places = ()
        self.stamp = 0  # of the entry in the agenda that counts
        self.first_start = self.end = -1.0
        self.preemptions = self.faults = 0
        self.mark: float = 0.0

    @property
    def boards(self) -> float:
        """Boards in use while it has places."""
        return self.gpus * self.request.share

    @property
    def holds(self) -> bool:
        """Whether it has boards."""
        return bool(self.places)

    @property
    def waited(self) -> float:
        """Seconds of its life in which it had no boards; of a job that has ended."""
        return self.end - self.request.submit - self.run_s - self.load_s - self.save_s

    def ran(self, now: float) -> float:
        """Seconds that it has run."""
        return self.run_s + (now - self.since) if self.phase == "running" else self.run_s

    def work_left(self, now: float) -> float:
        """Work that is left, in s at speed 1."""
        return self.left - (now - self.since) * self.rate if self.phase == "running" else self.left

    def lasts(self, now: float) -> float:
        """Seconds until it ends at its rate, as the scheduler is told."""
        request = self.request
        done = request.work - self.work_left(now)
        return max(0.0, request.expected - done) / (self.rate or 1.0)
