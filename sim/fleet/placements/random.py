"""`random`: free boards by lot, from the seed."""

from __future__ import annotations

from collections import Counter

from sim.fleet.boards import Boards, nodes_in
from sim.fleet.jobs import JobRequest, Places
from sim.fleet.placements.placement import Placement


class ByLot(Placement):
    """Every free board is as likely as every other."""

    by_count = True

    def find(self, boards: Boards, request: JobRequest, gpus: int, allowed: int) -> Places | None:
        """See `Placement`."""
        assert self.random is not None
        free = [node for node in nodes_in(allowed) for _ in range(boards.free[node])]
        if len(free) < gpus:
            return None
        drawn = self.random.choice(len(free), size=gpus, replace=False)
        return tuple(sorted(Counter(free[index] for index in drawn.tolist()).items()))
