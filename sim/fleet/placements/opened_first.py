"""`opened_first`: boards that are shared already, then whole ones of nodes in use, then nodes that are empty."""

from __future__ import annotations

from math import floor

from sim.fleet.boards import Boards
from sim.fleet.jobs import JobRequest
from sim.fleet.placements.scored import Score, Scored, fullest

TENTHS = 10  # of boards, in which what is left of them is compared
USED, EMPTY = -20.0, -1000.0  # beside tenths of a board, and boards of a node, which are fewer


class OpenedFirst(Scored):
    """Packing of boards (Xiao and others, AntMan, OSDI 2020, as FGD's comparison has it)."""

    def score(self, boards: Boards, request: JobRequest, gpus: int, node: int) -> Score:
        """See `Scored`."""
        board = fullest(boards, request, node)
        if not gpus:
            return 0.0, board
        if boards.free[node] == boards.sizes[node]:
            return EMPTY - boards.sizes[node], board
        opened = boards.opened.get(node, {})
        if board in opened:
            return -floor(TENTHS * opened[board][0]), board
        return USED - gpus, board
