"""`easy`: fifo, and later jobs go ahead where they do not delay the first one that waits.

Whether they do is judged by numbers of boards and by what jobs say they take: at the time when enough boards will be
free for the first one (its reservation), those that it leaves over may still be in use.
"""

from __future__ import annotations

from sim.fleet.jobs import FleetJob
from sim.fleet.policies.policy import FleetView, Policy


class Easy(Policy):
    """EASY backfilling (Lifka 1995)."""

    def schedule(self, fleet: FleetView) -> None:
        """See `Policy`."""
        super().schedule(fleet)
        if len(fleet.waiting) < 2:
            return
        head = fleet.waiting[0]
        shadow, extra = _reservation(head, fleet)
        for job in fleet.waiting[1:]:
            if not fleet.has_room:
                return
            within = fleet.now + job.lasts(fleet.now) <= shadow
            if (within or job.gpus <= extra) and fleet.start(job) and not within:
                extra -= job.gpus


def _reservation(head: FleetJob, fleet: FleetView) -> tuple[float, int]:
    """When so many boards are free at the latest, and how many of those are left over."""
    free, now = fleet.free, fleet.now
    if free >= head.gpus:
        return now, free - head.gpus
    ends = sorted((now + job.lasts(now), job.number, job.gpus) for job in fleet.running.values())
    for place, (end, _, gpus) in enumerate(ends):
        free += gpus
        if free >= head.gpus and (place + 1 == len(ends) or ends[place + 1][0] > end):
            return end, free - head.gpus
    return now, 0
