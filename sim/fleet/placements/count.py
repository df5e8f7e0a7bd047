"""`count`: only the number of free boards matters; those of the fullest nodes go first."""

from __future__ import annotations

from itertools import chain

from sim.fleet.boards import Boards, lowest, nodes_in
from sim.fleet.jobs import JobRequest, Places
from sim.fleet.placements.placement import Placement, take_all


class Count(Placement):
    """Any free boards."""

    by_count = True

    def find(self, boards: Boards, request: JobRequest, gpus: int, allowed: int) -> Places | None:
        """See `Placement`."""
        if boards.count(allowed) < gpus:
            return None
        if gpus == 1:
            return ((lowest(next(m for mask in boards.masks[1:] if (m := mask & allowed))), 1),)
        return take_all(boards, chain.from_iterable(nodes_in(mask & allowed) for mask in boards.masks[1:]), gpus)
