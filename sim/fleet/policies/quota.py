"""`quota`: virtual clusters, groups or users have boards of their own, lend them, and take them back.

A job counts against what its owner is entitled to as long as all of the owner's jobs before it and itself are within
that; these go first. Others borrow what is left over, and are stopped, the latest first, when an owner wants its own.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, ClassVar

from sim.fleet.jobs import FleetJob
from sim.fleet.policies.policy import FleetView, Policy, live_jobs


class ByQuota(Policy):
    """Entitled jobs by submission, then borrowers: those that run, then those that wait."""

    preempts = True
    wants: ClassVar[tuple[str, ...]] = ("by", "quotas", "borrow")

    def schedule(self, fleet: FleetView) -> None:
        """See `Policy`."""
        own, used = Counter[str](), Counter[str]()
        entitled, borrowers = list[FleetJob](), list[FleetJob]()
        for job in sorted(live_jobs(fleet), key=lambda job: (-job.request.priority, job.number)):
            owner = self.owner(job)
            most = self._quota(owner, "most")
            if most is not None and used[owner] + job.gpus > most:
                continue
            within = own[owner] + job.gpus <= (self._quota(owner, "gpus") or 0)
            if not within and not self.options.get("borrow", True):
                continue
            used[owner] += job.gpus
            own[owner] += job.gpus if within else 0
            (entitled if within else borrowers).append(job)
        borrowers.sort(key=lambda job: not job.places)
        fleet.run_only([*entitled, *borrowers])

    def owner(self, job: FleetJob) -> str:
        """Whose boards a job uses."""
        return str(getattr(job.request, self.options.get("by", "queue")))

    def _quota(self, owner: str, name: str) -> Any:
        quota = self.options.get("quotas", {}).get(owner)
        return None if quota is None else getattr(quota, name)
