"""`dot_product`: where what is free and what is asked for are least aligned, as vectors of boards and host cores."""

from __future__ import annotations

from math import floor, inf

from sim.fleet.boards import Boards
from sim.fleet.jobs import JobRequest
from sim.fleet.placements.scored import Score, Scored, fullest

HUNDREDTHS = 100.0  # whole scores, as those of Kubernetes: of nodes that are nearly alike the first is taken


class DotProduct(Scored):
    """The least product of what is free and what is asked for, each relative to the largest node.

    Grandl and others, Multi-resource packing for cluster schedulers, SIGCOMM 2014, as FGD's comparison has it.
    """

    def score(self, boards: Boards, request: JobRequest, gpus: int, node: int) -> Score:
        """See `Scored`."""
        assert boards.hosts is not None
        product = boards.left(node) * gpus * request.share / boards.most**2
        if boards.hosts.most < inf:
            product += boards.hosts.cores[node] * request.cores / boards.hosts.most**2
        return floor(-product * HUNDREDTHS / 2), fullest(boards, request, node)
