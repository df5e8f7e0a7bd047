"""Which boards of which nodes are free.

Nodes with k free boards are the bits of one integer, so that "the fullest node that still has room, among those that
are allowed" is a few operations on long integers, whatever the number of nodes.

Public: `Boards`, `NodeSort`, `lowest`, `nodes_in`, `unit_masks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from sim.fleet.jobs import JobRequest, Places


@dataclass(frozen=True)
class NodeSort:
    """Equal nodes: their kind, how many, boards of each, memory of a board [B], work in a second of logged jobs."""

    kind: str
    nodes: int
    boards: int
    memory: float = 0.0
    speed: float = 1.0


def lowest(mask: int) -> int:
    """The number of the lowest bit of a mask that is not 0."""
    return (mask & -mask).bit_length() - 1


def nodes_in(mask: int) -> Iterator[int]:
    """Numbers of all bits, lowest first."""
    while mask:
        bit = mask & -mask
        yield bit.bit_length() - 1
        mask ^= bit


def unit_masks(size: int, first: int, nodes: int) -> tuple[int, ...]:
    """Masks of units of `size` neighbouring nodes among `nodes` from `first` on."""
    return tuple(((1 << min(size, nodes - at)) - 1) << (first + at) for at in range(0, nodes, size))


class Boards:
    """Free boards of all nodes.

    total, whole: boards that are free, and that there are. free: (n_nodes,) whole boards that are free. masks[k]: nodes
    with k free boards. opened: of each node, shares and memory left of boards of which jobs have a part.
    """

    def __init__(self, sorts: Sequence[NodeSort]) -> None:
        self.sizes = [sort.boards for sort in sorts for _ in range(sort.nodes)]
        self.memories = [sort.memory for sort in sorts for _ in range(sort.nodes)]
        self.kinds: dict[str, int] = {}
        first = 0
        for sort in sorts:
            self.kinds[sort.kind] = self.kinds.get(sort.kind, 0) | ((1 << sort.nodes) - 1) << first
            first += sort.nodes
        self.everywhere = (1 << first) - 1
        self.up = self.everywhere  # nodes that are not in repair
        self.free = list(self.sizes)
        self.most = max(self.sizes)
        self.masks = [0] * (self.most + 1)
        for node, size in enumerate(self.sizes):
            self.masks[size] |= 1 << node
        self.total = self.whole = sum(self.sizes)
        self.opened: dict[int, dict[int, list[float]]] = {}
        self._sized = list(self.masks)

    def of_size(self, boards: int) -> int:
        """Mask of all nodes that have so many boards in all."""
        return self._sized[boards]

    def copy(self) -> Boards:
        """The same, to plan with."""
        twin = Boards.__new__(Boards)
        twin.__dict__ = self.__dict__ | {"free": self.free[:], "masks": self.masks[:]}
        twin.opened = {node: {b: left[:] for b, left in cut.items()} for node, cut in self.opened.items()}
        return twin

    def allowed(self, request: JobRequest) -> int:
        """Mask of the nodes in use that the job may have."""
        if not request.kinds:
            return self.up
        mask = 0
        for kind in request.kinds:
            mask |= self.kinds.get(kind, 0)
        return mask & self.up

    def count(self, allowed: int) -> int:
        """Free boards of the allowed nodes."""
        if allowed == self.everywhere:
            return self.total
        return sum(k * (mask & allowed).bit_count() for k, mask in enumerate(self.masks))

    def take(self, request: JobRequest, places: Places) -> None:
        """Places are no longer free."""
        for node, boards in places:
            if boards < 0:
                self._cut(request, node, -1 - boards)
            else:
                self._move(node, -boards)

    def give(self, request: JobRequest, places: Places) -> None:
        """Places are free again."""
        for node, boards in places:
            if boards < 0:
                self._mend(request, node, -1 - boards)
            else:
                self._move(node, boards)

    def fits_at(self, request: JobRequest, places: Places) -> bool:
        """Whether all of `places` are free."""
        return all(
            self._has_room(request, node, -1 - boards) if boards < 0 else self.free[node] >= boards
            for node, boards in places
        )

    def part_of_board(self, request: JobRequest, allowed: int) -> Places | None:
        """The board with least room on which a share of one board fits, a new one if no opened board has room."""
        best: tuple[float, int, int] | None = None
        for node, cut in self.opened.items():
            if allowed >> node & 1:
                for board, (share, memory) in cut.items():
                    if share >= request.share and memory >= request.memory and (best is None or (share,) < best[:1]):
                        best = share, node, board
        if best is not None:
            return ((best[1], -1 - best[2]),)
        for boards in range(1, self.most + 1):
            for node in nodes_in(self.masks[boards] & allowed):
                if self.memories[node] >= request.memory:
                    board = next(b for b in range(self.sizes[node]) if b not in self.opened.get(node, {}))
                    return ((node, -1 - board),)
        return None

    def _move(self, node: int, boards: int) -> None:
        bit, before = 1 << node, self.free[node]
        self.masks[before] ^= bit
        self.free[node] = before + boards
        self.masks[before + boards] ^= bit
        self.total += boards

    def _has_room(self, request: JobRequest, node: int, board: int) -> bool:
        cut = self.opened.get(node, {})
        if board not in cut:
            return self.free[node] > 0
        return cut[board][0] >= request.share and cut[board][1] >= request.memory

    def _cut(self, request: JobRequest, node: int, board: int) -> None:
        cut = self.opened.setdefault(node, {})
        if board not in cut:
            cut[board] = [1.0, self.memories[node]]
            self._move(node, -1)
        cut[board][0] = round(cut[board][0] - request.share, 9)
        cut[board][1] -= request.memory

    def _mend(self, request: JobRequest, node: int, board: int) -> None:
        left = self.opened[node][board]
        left[0] = round(left[0] + request.share, 9)
        left[1] += request.memory
        if left[0] >= 1.0:
            del self.opened[node][board]
            if not self.opened[node]:
                del self.opened[node]
            self._move(node, 1)
