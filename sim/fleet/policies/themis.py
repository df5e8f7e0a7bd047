"""`themis`: finish-time fairness (Mahajan et al., NSDI'20): who has lost most against a share of its own goes first.

rho is the time that a job takes here over that on its own 1/N of the cluster, N the jobs that live now. The auction of
the paper is left out: every round, boards go to the largest rho.
"""

from __future__ import annotations

from collections.abc import Sequence

from sim.fleet.jobs import FleetJob
from sim.fleet.policies.policy import FleetView, Grant, InRounds, live_jobs


class FinishTimeFairness(InRounds):
    """Jobs by rho, largest first."""

    def order(self, fleet: FleetView) -> Sequence[Grant]:
        """See `InRounds`."""
        jobs = live_jobs(fleet)
        share = fleet.capacity / max(1, len(jobs))
        ranked = sorted(jobs, key=lambda job: (-unfairness(job, fleet.now, share), job.number))
        return [(job, job.gpus, "") for job in ranked]


def unfairness(job: FleetJob, now: float, share: float) -> float:
    """rho, if the job runs on from now: its life over that on `share` boards alone."""
    request = job.request
    alone = request.expected * max(1.0, request.gpus / share)
    return (now - request.submit + job.lasts(now)) / alone
