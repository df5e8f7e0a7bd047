"""`elastic`: jobs get as many boards as do most good, between their least and their most, looked at again every round.

What is made small is the sum of 1/speed-up over jobs (Pollux, OSDI'21, with p = -1; Sia, SOSP'23, adds kinds): each job
starts with its least, by submission, on the kind where it is fastest; then boards are doubled where each board takes
most off that sum. A job keeps what it has unless the change makes up for its restart within a round.
Speeds come from the table of speeds, or the step engine; without either they grow in line with boards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from heapq import heapify, heappop, heappush
from typing import Any

from sim.fleet.jobs import FleetJob
from sim.fleet.policies.policy import FleetView, Grant, InRounds, live_jobs

WORTH = 1.1  # speed over that before, from which on a restart is worth it


class Elastic(InRounds):
    """Boards by what they do."""

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(options)
        self.known: dict[tuple[int, int, str], float] = {}

    def order(self, fleet: FleetView) -> Sequence[Grant]:
        """See `InRounds`."""
        left = dict(fleet.kinds())
        given: dict[int, tuple[FleetJob, int, str]] = {}
        for job in live_jobs(fleet):
            choice = self._first(job, left, fleet)
            if choice is not None:
                given[job.number] = (job, *choice)
                left[choice[1]] -= choice[0]
        gains = [gain for grant in given.values() if (gain := self._gain(grant, fleet)) is not None]
        heapify(gains)
        while gains:
            _, number, gpus = heappop(gains)
            job, before, kind = given[number]
            if gpus - before <= left[kind]:
                left[kind] -= gpus - before
                given[number] = job, gpus, kind
                if (gain := self._gain(given[number], fleet)) is not None:
                    heappush(gains, gain)
        return [self._worth(grant, fleet) for grant in given.values()]

    def ended(self, job: FleetJob, fleet: FleetView) -> None:
        """See `Policy`."""
        for key in [key for key in self.known if key[0] == job.number]:
            del self.known[key]

    def _speed(self, job: FleetJob, gpus: int, kind: str, fleet: FleetView) -> float:
        key = job.number, gpus, kind
        if key not in self.known:
            self.known[key] = fleet.speed(job.request, gpus, kind)
        return self.known[key]

    def _first(self, job: FleetJob, left: Mapping[str, int], fleet: FleetView) -> tuple[int, str] | None:
        """Its least, and the kind on which it is fastest among those with room."""
        least, allowed = job.request.least or job.request.gpus, job.request.kinds
        fitting = [kind for kind, room in left.items() if room >= least and (not allowed or kind in allowed)]
        return (least, max(fitting, key=lambda kind: self._speed(job, least, kind, fleet))) if fitting else None

    def _gain(self, grant: Grant, fleet: FleetView) -> tuple[float, int, int] | None:
        """What each of as many boards again would take off the sum (negative), whose it is, and the boards then."""
        job, gpus, kind = grant
        more = min(2 * gpus, job.request.most or job.request.gpus)
        if more <= gpus:
            return None
        before, after = (max(1e-12, self._speed(job, boards, kind, fleet)) for boards in (gpus, more))
        base = max(1e-12, self._speed(job, job.request.least or job.request.gpus, kind, fleet))
        return (base / after - base / before) / (more - gpus), job.number, more

    def _worth(self, grant: Grant, fleet: FleetView) -> Grant:
        job, gpus, kind = grant
        smaller = bool(job.places) and job.gpus < gpus
        if smaller and self._speed(job, gpus, kind, fleet) < WORTH * self._speed(job, job.gpus, kind, fleet):
            return job, job.gpus, ""
        return grant
