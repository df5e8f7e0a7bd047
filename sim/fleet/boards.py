"""Which boards of which nodes are free.

Nodes with k free boards are the bits of one integer, so that "the fullest node that still has room, among those that
are allowed" is a few operations on long integers, whatever the number of nodes.

Public: `Boards`, `Hosts`, `NodeSort`, `NodeScores`, `lowest`, `nodes_in`, `unit_masks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import inf

from sim.fleet.jobs import JobRequest, Places

KEPT_CHANGES = 50_000


@dataclass(frozen=True)
class NodeSort:
    """Equal nodes: their kind, how many, boards of each, memory of a board [B], work in a second of logged jobs.

    cores: of the host.
    """

    kind: str
    nodes: int
    boards: int
    memory: float = 0.0
    speed: float = 1.0
    cores: float = inf


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


@dataclass
class NodeScores:
    """What a placement thinks of nodes for a kind of job, (n_nodes,), with the board; -inf where there is no room."""

    values: list[float]
    boards: list[int]
    known: int = 0  # changes that are in it


class Hosts:
    """What else jobs use of nodes, kept where somebody asks for it.

    cores: (n_nodes,) host cores that are free. guests: of each node, jobs by boards that they have there, 0 for a part
    of one. scores: what a placement thinks of all nodes for a kind of job, and how many of the changes it knows of.
    """

    def __init__(self, sorts: Sequence[NodeSort]) -> None:
        self.cores = [sort.cores for sort in sorts for _ in range(sort.nodes)]
        self.most = max((sort.cores for sort in sorts), default=0.0)
        self.guests: list[dict[int, int]] = [{} for _ in self.cores]
        self.forget()

    def forget(self) -> None:
        """NodeScores are to be made anew."""
        self.scores: dict[tuple[object, ...], NodeScores] = {}
        self.changes: list[int] = []  # nodes

    def copy(self) -> Hosts:
        """The same, to plan with."""
        twin = Hosts.__new__(Hosts)
        twin.cores, twin.most, twin.guests = self.cores[:], self.most, [dict(guests) for guests in self.guests]
        twin.forget()
        return twin

    def change(self, request: JobRequest, places: Places, sign: int) -> None:
        """A job comes (1) or goes (-1); its cores follow its boards."""
        if len(self.changes) > KEPT_CHANGES:
            self.forget()
        total = sum(max(boards, 0) for _, boards in places)
        for node, boards in places:
            part = boards / total if total else 1.0
            self.cores[node] = round(self.cores[node] - sign * request.cores * part, 9)
            kind, guests = max(boards, 0), self.guests[node]
            guests[kind] = guests.get(kind, 0) + sign
            if not guests[kind]:
                del guests[kind]
            self.changes.append(node)


class Boards:
    """Free boards of all nodes.

    total, whole: boards that are free, and that there are. free: (n_nodes,) whole boards that are free. masks[k]: nodes
    with k free boards. opened: of each node, shares and memory left of boards of which jobs have a part.
    """

    def __init__(self, sorts: Sequence[NodeSort], hosts: bool = False) -> None:
        self.hosts = Hosts(sorts) if hosts else None
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
        twin.hosts = self.hosts.copy() if self.hosts else None
        return twin

    def allowed(self, request: JobRequest) -> int:
        """Mask of the nodes in use that the job may have."""
        mask = self.up
        if request.kinds:
            mask = 0
            for kind in request.kinds:
                mask |= self.kinds.get(kind, 0)
            mask &= self.up
        return self._with_cores(request, mask) if request.cores and self.hosts else mask

    def _with_cores(self, request: JobRequest, mask: int) -> int:
        """Those nodes of a mask that have the cores of as many boards of the job as there are on one."""
        assert self.hosts is not None
        cores, gpus = self.hosts.cores, max(1, request.gpus)
        for node in nodes_in(mask):
            if cores[node] < request.cores * min(1.0, self.sizes[node] / gpus):
                mask ^= 1 << node
        return mask

    def count(self, allowed: int) -> int:
        """Free boards of the allowed nodes."""
        if allowed == self.everywhere:
            return self.total
        return sum(k * (mask & allowed).bit_count() for k, mask in enumerate(self.masks))

    def take(self, request: JobRequest, places: Places) -> None:
        """Places are no longer free."""
        if self.hosts:
            self.hosts.change(request, places, 1)
        for node, boards in places:
            if boards < 0:
                self._cut(request, node, -1 - boards)
            else:
                self._move(node, -boards)

    def give(self, request: JobRequest, places: Places) -> None:
        """Places are free again."""
        if self.hosts:
            self.hosts.change(request, places, -1)
        for node, boards in places:
            if boards < 0:
                self._mend(request, node, -1 - boards)
            else:
                self._move(node, boards)

    def fits_at(self, request: JobRequest, places: Places) -> bool:
        """Whether all of `places` are free."""
        if self.hosts and request.cores and any(not self._with_cores(request, 1 << node) for node, _ in places):
            return False
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
                    return ((node, -1 - self.unopened(node)),)
        return None

    def unopened(self, node: int) -> int:
        """The number of the first board of a node of which no job has a part."""
        return next(board for board in range(self.sizes[node]) if board not in self.opened.get(node, {}))

    def left(self, node: int) -> float:
        """Boards of a node that are free, with parts."""
        return self.free[node] + sum(share for share, _ in self.opened.get(node, {}).values())

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
