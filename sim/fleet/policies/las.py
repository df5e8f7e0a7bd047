"""`las`, `dlas_time`, `dlas_gputime`: what has had least runs, without knowing how long jobs are.

The discretised form (Tiresias, NSDI'19) has queues: a job that has had as much as the limit of its queue goes to the
end of the next one. Within a queue those that run stay ahead of those that wait, so that jobs of equal service do not
take turns at every instant. Queues are looked at once a second: a job moves at the first whole second after its limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import ceil, inf
from typing import Any, ClassVar

from sim.fleet.jobs import FleetJob
from sim.fleet.policies.policy import FleetView, Grant, InRounds, Policy, live_jobs

LIMITS = (3250.0, 7200.0)  # as in Tiresias' own simulator


class LeastAttainedTime(Policy):
    """Queues by seconds of running; `limits` of the scheduler are where one ends and the next begins."""

    preempts = True
    wants: ClassVar[tuple[str, ...]] = ("limits",)

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self.limits = tuple(self.options.get("limits") or LIMITS)
        self.queues: list[list[FleetJob]] = [[] for _ in range(len(self.limits) + 1)]
        self.soonest = -inf  # when the next job reaches a limit

    def pace(self, job: FleetJob) -> float:
        """Service in a second of running."""
        return 1.0

    def arrived(self, job: FleetJob, fleet: FleetView) -> None:
        """See `Policy`; mark: its queue."""
        job.mark = 0
        self.queues[0].append(job)

    def ended(self, job: FleetJob, fleet: FleetView) -> None:
        """See `Policy`."""
        self.queues[int(job.mark)].remove(job)

    def schedule(self, fleet: FleetView) -> None:
        """See `Policy`; where nobody waits, all run on."""
        self._demote(fleet)
        if not fleet.waiting:
            return
        fleet.run_only(job for queue in self.queues for job in queue)
        for queue in self.queues:
            queue.sort(key=lambda job: not job.places)

    def alarm(self, fleet: FleetView) -> float:
        """When the next job reaches the limit of its queue."""
        times = (
            job.since + self.limits[level] / self.pace(job) - job.run_s
            for level in range(len(self.limits))
            for job in self.queues[level]
            if job.phase == "running"
        )
        self.soonest = soonest = max(min(times, default=inf), fleet.now)
        return ceil(soonest - 1e-6) if soonest < inf else inf

    def _demote(self, fleet: FleetView) -> None:
        if fleet.now < self.soonest - 1e-3:
            return
        for level, limit in enumerate(self.limits):
            due = [job for job in self.queues[level] if job.ran(fleet.now) >= limit / self.pace(job) - 1e-6]
            for job in due:
                self.queues[level].remove(job)
                job.mark = level + 1
                self.queues[level + 1].append(job)


class LeastAttainedService(LeastAttainedTime):
    """The same by board-seconds."""

    def pace(self, job: FleetJob) -> float:
        """Service in a second of running."""
        return float(job.request.gpus)


class LeastAttained(InRounds):
    """Without queues: jobs by board-seconds, in rounds."""

    def order(self, fleet: FleetView) -> Sequence[Grant]:
        """See `InRounds`."""
        now = fleet.now
        ranked = sorted(live_jobs(fleet), key=lambda job: (job.ran(now) * job.request.gpus, job.number))
        return [(job, job.gpus, "") for job in ranked]
