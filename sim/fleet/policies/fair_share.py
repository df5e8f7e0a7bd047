"""`fair_share`: whoever has used least, by weight, goes first; what was used long ago counts less (as in Slurm)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any, ClassVar

from sim.fleet.jobs import FleetJob
from sim.fleet.policies.policy import FleetView
from sim.fleet.policies.quota import ByQuota


class FairShare(ByQuota):
    """Not preemptive: owners by their use, halved every `half_life`; jobs of one by submission."""

    preempts = False
    wants: ClassVar[tuple[str, ...]] = ("by", "quotas", "half_life", "backfill")

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self.used: dict[str, float] = {}  # board-seconds, by owner
        self.holding = Counter[str]()  # boards
        self.time = 0.0

    def schedule(self, fleet: FleetView) -> None:
        """See `Policy`."""
        self._count(fleet.now)
        for job in sorted(fleet.waiting, key=lambda job: (self._use(job), job.number)):
            if not fleet.has_room or (not fleet.start(job) and not self.options.get("backfill", True)):
                break
        self.holding = Counter()
        for job in fleet.running.values():
            self.holding[self.owner(job)] += job.gpus

    def ended(self, job: FleetJob, fleet: FleetView) -> None:
        """See `Policy`."""
        self._count(fleet.now)

    def _use(self, job: FleetJob) -> float:
        owner = self.owner(job)
        quota = self.options.get("quotas", {}).get(owner)
        return self.used.get(owner, 0.0) / (quota.weight if quota else 1.0)

    def _count(self, now: float) -> None:
        span, self.time = now - self.time, now
        if span <= 0:
            return
        kept = 0.5 ** (span / float(self.options.get("half_life") or 604800.0))
        for owner in {**self.used, **self.holding}:
            self.used[owner] = self.used.get(owner, 0.0) * kept + self.holding[owner] * span
