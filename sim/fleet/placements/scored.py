"""Base of placements that compare nodes: the best one that has room, of equal ones the first.

Public: `Scored`, `Score`.
"""

from __future__ import annotations

from math import inf

from sim.fleet.boards import Boards, NodeScores, nodes_in
from sim.fleet.jobs import JobRequest, Places
from sim.fleet.placements.pack import Pack

Score = tuple[float, int]  # larger is better; the board for a job that needs a part of one, -1 for others
NO_ROOM: Score = (-inf, -1)


class Scored(Pack):
    """A job that fits on one node goes to that with the highest score; larger ones as `pack`."""

    hosts = True

    def score(self, boards: Boards, request: JobRequest, gpus: int, node: int) -> Score:
        """How good a node that has room is for the job; of a part of a board on its best board there."""
        raise NotImplementedError

    def find(self, boards: Boards, request: JobRequest, gpus: int, allowed: int) -> Places | None:
        """See `Placement`."""
        if gpus > boards.most:
            return self.whole_nodes(boards, gpus, allowed)
        node, _ = self.first_best(boards, request, gpus, allowed)
        return ((node, gpus),) if node >= 0 else None

    def part(self, boards: Boards, request: JobRequest, allowed: int) -> Places | None:
        """See `Placement`."""
        node, board = self.first_best(boards, request, 1, allowed)
        return ((node, -1 - board),) if node >= 0 else None

    def first_best(self, boards: Boards, request: JobRequest, gpus: int, allowed: int) -> tuple[int, int]:
        """The first allowed node with the highest score, and the board there; -1 if there is none."""
        scores = self._scores(boards, request, gpus)
        best = max(scores.values)
        node = scores.values.index(best)
        if not allowed >> node & 1:
            node = max(nodes_in(allowed), key=scores.values.__getitem__, default=-1)
        return (node, scores.boards[node]) if node >= 0 and scores.values[node] > -inf else (-1, -1)

    def _scores(self, boards: Boards, request: JobRequest, gpus: int) -> NodeScores:
        """Of all nodes, looking again only at those where something has changed."""
        hosts = boards.hosts
        assert hosts is not None
        kind = (request.cores, request.share, request.memory, gpus)
        nodes = range(len(hosts.cores))
        if kind in hosts.scores:
            scores = hosts.scores[kind]
            changed = set(hosts.changes[scores.known :])
        else:
            scores = hosts.scores[kind] = NodeScores([-inf] * len(nodes), [-1] * len(nodes))
            changed = set(nodes)
        for node in changed:
            found = self.score(boards, request, gpus, node) if self.has_room(boards, request, gpus, node) else NO_ROOM
            scores.values[node], scores.boards[node] = found
        scores.known = len(hosts.changes)
        return scores

    @staticmethod
    def has_room(boards: Boards, request: JobRequest, gpus: int, node: int) -> bool:
        """Whether a job fits on a node, up or not."""
        assert boards.hosts is not None
        if boards.hosts.cores[node] < request.cores:
            return False
        return boards.free[node] >= gpus if request.share >= 1.0 else bool(boards_for(boards, request, node))


def boards_for(boards: Boards, request: JobRequest, node: int) -> list[tuple[float, int]]:
    """Boards of a node on which a part of one fits: what is left of each now and its number, the fullest first."""
    opened = boards.opened.get(node, {})
    found = sorted(
        (share, board)
        for board, (share, memory) in opened.items()
        if share >= request.share and memory >= request.memory
    )
    if boards.free[node] and boards.memories[node] >= request.memory:
        found.append((1.0, boards.unopened(node)))
    return found


def fullest(boards: Boards, request: JobRequest, node: int) -> int:
    """The board with least room on which a part of one fits; -1 for whole boards."""
    return boards_for(boards, request, node)[0][1] if request.share < 1.0 else -1
