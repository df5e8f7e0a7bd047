"""`random_node`: any node that has room, and any board of it."""

from __future__ import annotations

from sim.fleet.boards import Boards, nodes_in
from sim.fleet.jobs import JobRequest
from sim.fleet.placements.scored import Scored, boards_for


class RandomNode(Scored):
    """Every node is as likely as every other, and every board of it on which a part of one fits."""

    def first_best(self, boards: Boards, request: JobRequest, gpus: int, allowed: int) -> tuple[int, int]:
        """See `Scored`."""
        assert self.random is not None
        nodes = [node for node in nodes_in(allowed) if self.has_room(boards, request, gpus, node)]
        if not nodes:
            return -1, -1
        node = nodes[int(self.random.integers(len(nodes)))]
        if request.share >= 1.0:
            return node, -1
        fitting = boards_for(boards, request, node)
        alike = boards.free[node] - 1 if fitting[-1][0] == 1.0 else 0  # whole ones beside the last
        drawn = min(int(self.random.integers(len(fitting) + alike)), len(fitting) - 1)
        return node, fitting[drawn][1]
