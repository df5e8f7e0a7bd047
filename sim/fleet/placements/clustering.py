"""`clustering`: jobs of one size together, on the fullest nodes of those."""

from __future__ import annotations

from math import floor

from sim.fleet.boards import Boards
from sim.fleet.jobs import JobRequest
from sim.fleet.placements.scored import Score, Scored, fullest

STEPS = 25  # in which nodes of a group are told apart by how full they are
ALIKE, AMONG_OTHERS, EMPTY, OTHERS = (STEPS * group for group in (3.0, 2.0, 1.0, 0.0))


class Clustering(Scored):
    """Xiao and others, Gandiva, OSDI 2018, as FGD's comparison has it."""

    def score(self, boards: Boards, request: JobRequest, gpus: int, node: int) -> Score:
        """See `Scored`."""
        assert boards.hosts is not None
        board = fullest(boards, request, node)
        if not gpus:
            return 0.0, board
        guests = boards.hosts.guests[node]
        if (0 if request.share < 1.0 else gpus) in guests:
            group = ALIKE if len(guests) == 1 else AMONG_OTHERS
        else:
            group = OTHERS if guests else EMPTY
        return group + floor(STEPS * (1 - boards.left(node) / boards.most)), board
