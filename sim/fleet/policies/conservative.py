"""`conservative`: every job that waits has a reservation, and nobody goes ahead who would delay one.

By numbers of boards and by what jobs say they take. Reservations are made anew at each pass, in order of submission; a
job that ends early lets others move up.
"""

from __future__ import annotations

from math import inf

from sim.fleet.policies.policy import FleetView, Policy

AHEAD = 1000  # reservations; those after them wait without one


class Conservative(Policy):
    """Conservative backfilling."""

    def schedule(self, fleet: FleetView) -> None:
        """See `Policy`."""
        profile = _Profile(fleet)
        for job in fleet.waiting[:AHEAD]:
            if not fleet.has_room:
                return
            span = job.lasts(fleet.now)
            begin = profile.earliest(job.gpus, span)
            if begin == fleet.now and not fleet.start(job):
                begin = profile.next_after(begin)
                if begin == inf:
                    continue
            profile.take(begin, span, job.gpus)


class _Profile:
    """Free boards over time, as they are expected: times, and how many are free from each on."""

    def __init__(self, fleet: FleetView) -> None:
        now = fleet.now
        ends = sorted((now + job.lasts(now), job.gpus) for job in fleet.running.values())
        self.times, self.free = [now], [fleet.free]
        for end, gpus in ends:
            if end > self.times[-1]:
                self.times.append(end)
                self.free.append(self.free[-1])
            self.free[-1] += gpus

    def earliest(self, gpus: int, span: float) -> float:
        """When so many boards are free for so long."""
        begin = 0
        for place, time in enumerate(self.times):
            if time >= self.times[begin] + span and place > begin:
                break
            if self.free[place] < gpus:
                begin = place + 1
        return self.times[begin] if begin < len(self.times) else self.times[-1]

    def next_after(self, time: float) -> float:
        """When something changes next."""
        return next((each for each in self.times if each > time), inf)

    def take(self, begin: float, span: float, gpus: int) -> None:
        """Reserve boards."""
        first, last = self._split(begin), self._split(begin + span)
        for place in range(first, last):
            self.free[place] -= gpus

    def _split(self, time: float) -> int:
        place = next((i for i, each in enumerate(self.times) if each >= time), len(self.times))
        if place == len(self.times) or self.times[place] != time:
            self.times.insert(place, time)
            self.free.insert(place, self.free[place - 1])
        return place
