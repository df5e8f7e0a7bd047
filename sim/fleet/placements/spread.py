"""`spread`: the emptiest nodes, one board after the other, so that load is even."""

from __future__ import annotations

from sim.fleet.boards import Boards, nodes_in
from sim.fleet.jobs import JobRequest, Places
from sim.fleet.placements.placement import Placement


class SpreadOut(Placement):
    """Each board from the node that then has most free ones."""

    by_count = True

    def find(self, boards: Boards, request: JobRequest, gpus: int, allowed: int) -> Places | None:
        """See `Placement`."""
        if boards.count(allowed) < gpus:
            return None
        taken: dict[int, int] = {}
        levels = [mask & allowed for mask in boards.masks]
        level = boards.most
        while gpus:
            if not levels[level]:
                level -= 1
                continue
            for node in nodes_in(levels[level]):
                taken[node] = taken.get(node, 0) + 1
                levels[level] ^= 1 << node
                levels[level - 1] ^= 1 << node
                gpus -= 1
                if not gpus:
                    break
        return tuple(sorted(taken.items()))
