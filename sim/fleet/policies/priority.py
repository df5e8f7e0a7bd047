"""`priority` and `deadline`: jobs in an order that they bring with them."""

from __future__ import annotations

from typing import Any, ClassVar

from sim.fleet.jobs import FleetJob
from sim.fleet.policies.policy import FleetView, Policy, live_jobs


class ByPriority(Policy):
    """The largest priority first; running jobs are stopped for larger ones unless `preempt` is off."""

    preempts = True
    wants: ClassVar[tuple[str, ...]] = ("preempt", "backfill")

    def key(self, job: FleetJob) -> tuple[Any, ...]:
        """See `Policy`."""
        return -job.request.priority, job.number

    def schedule(self, fleet: FleetView) -> None:
        """See `Policy`; among equals those that run stay ahead."""
        if self.options.get("preempt", True):
            fleet.run_only(sorted(live_jobs(fleet), key=lambda job: (*self.key(job)[:-1], not job.places, job.number)))
            return
        for job in list(fleet.waiting):
            if not fleet.start(job) and not self.options.get("backfill", True):
                return


class ByDeadline(ByPriority):
    """Earliest deadline first; jobs without one come last."""

    def key(self, job: FleetJob) -> tuple[Any, ...]:
        """See `Policy`."""
        return job.request.submit + job.request.deadline, job.number
