"""`sjf`: the shortest job first, by what it says it takes; the first that does not fit keeps the others waiting."""

from __future__ import annotations

from typing import Any

from sim.fleet.jobs import FleetJob
from sim.fleet.policies.policy import Policy


class ShortestJob(Policy):
    """Not preemptive: a job that runs goes on."""

    def key(self, job: FleetJob) -> tuple[Any, ...]:
        """See `Policy`."""
        return job.request.expected, job.number
