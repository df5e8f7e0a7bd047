"""`best_fit`: where least is left over, of boards and of host cores, each relative to the largest node."""

from __future__ import annotations

from math import floor, inf

from sim.fleet.boards import Boards
from sim.fleet.jobs import JobRequest
from sim.fleet.placements.scored import Score, Scored, fullest

HUNDREDTHS = 100.0  # whole scores, as those of Kubernetes: of nodes that are nearly alike the first is taken


class BestFit(Scored):
    """The least sum of what is left over."""

    def score(self, boards: Boards, request: JobRequest, gpus: int, node: int) -> Score:
        """See `Scored`."""
        assert boards.hosts is not None
        left = (boards.left(node) - gpus * request.share) / boards.most
        if boards.hosts.most < inf:
            left += (boards.hosts.cores[node] - request.cores) / boards.hosts.most
        return floor(-left * HUNDREDTHS / 2), fullest(boards, request, node)
