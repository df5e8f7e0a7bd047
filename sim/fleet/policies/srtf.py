"""`srtf` and `srsf_gputime`: what has least left runs, others stop for it.

With gangs neither is optimal: a large job that is nearly done may keep many small ones waiting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from operator import methodcaller
from typing import Any

from sim.fleet.jobs import FleetJob
from sim.fleet.policies.policy import FleetView, Policy


class ShortestRemainingTime(Policy):
    """Jobs by the time that is left; equal ones stay in the order in which they were."""

    preempts = True

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self.line: list[FleetJob] = []

    def arrived(self, job: FleetJob, fleet: FleetView) -> None:
        """See `Policy`."""
        self.line.append(job)

    def ended(self, job: FleetJob, fleet: FleetView) -> None:
        """See `Policy`."""
        self.line.remove(job)

    def schedule(self, fleet: FleetView) -> None:
        """See `Policy`; where nobody waits, all run on."""
        if not fleet.waiting:
            return
        self.line.sort(key=self.left(fleet.now))
        fleet.run_only(self.line)

    def left(self, now: float) -> Callable[[FleetJob], float]:
        """What is left of a job."""
        return methodcaller("work_left", now)


class ShortestRemainingService(ShortestRemainingTime):
    """Jobs by the board-seconds that are left."""

    def left(self, now: float) -> Callable[[FleetJob], float]:
        """What is left of a job."""
        return lambda job: job.work_left(now) * job.request.gpus
