"""`pack`: a job on the node with the fewest free boards that fits; one of many nodes takes them whole."""

from __future__ import annotations

from sim.fleet.boards import Boards, lowest, nodes_in
from sim.fleet.jobs import JobRequest, Places
from sim.fleet.placements.placement import Placement


class Pack(Placement):
    """As few nodes as there can be, whole ones if there are several; what is left over goes to one more."""

    def find(self, boards: Boards, request: JobRequest, gpus: int, allowed: int) -> Places | None:
        """See `Placement`."""
        if gpus <= boards.most:
            node = self.best(boards, gpus, allowed)
            if node >= 0:
                return ((node, gpus),)
        return self.whole_nodes(boards, gpus, allowed)

    def best(self, boards: Boards, gpus: int, allowed: int) -> int:
        """The node for one that fits on a node; -1 if there is none."""
        for mask in boards.masks[gpus:]:
            if found := mask & allowed:
                return self.nearest(found)
        return -1

    def nearest(self, found: int) -> int:
        """One of nodes that are alike."""
        return lowest(found)

    def in_order(self, boards: Boards, empty: int, wanted: int) -> list[int]:
        """Nodes of a mask of empty ones, the first `wanted` at least, in the order in which they are taken."""
        nodes = nodes_in(empty)
        return [node for node, _ in zip(nodes, range(wanted), strict=False)]

    def whole_nodes(self, boards: Boards, gpus: int, allowed: int) -> Places | None:
        """Empty nodes of the largest size that the job may have, and one node for what is left over."""
        size = self.largest(boards, allowed)
        wanted, rest = divmod(gpus, size) if size else (0, 0)
        if not wanted:
            return None
        empty = boards.masks[size] & allowed
        nodes = self.in_order(boards, empty, wanted) if empty.bit_count() >= wanted else []
        if len(nodes) < wanted:
            return None
        places = tuple((node, size) for node in nodes[:wanted])
        if not rest:
            return places
        for node, _ in places:
            allowed &= ~(1 << node)
        last = self.best(boards, rest, allowed)
        return (*places, (last, rest)) if last >= 0 else None

    @staticmethod
    def largest(boards: Boards, allowed: int) -> int:
        """Boards of the largest allowed node."""
        return next((k for k in range(boards.most, 0, -1) if allowed & boards.of_size(k)), 0)
