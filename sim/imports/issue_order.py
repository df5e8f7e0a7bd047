"""In which order ranks begin what a trace holds, where the trace says what waits for what but not when it ran.

A rank runs one node of a device, one of its host and one transfer at a time, and of those that wait for nothing more
the one with the lowest number first, as ASTRA-sim does (HardwareResource and the queue of its feeder): all ranks
together, so that a collective ends when the last of them has come. Times of transfers are nominal: they decide an
order, no result.

Public: `IssueNode`, `Meeting`, `issue_order`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import NamedTuple

NOMINAL_RATE, NOMINAL_START = 50e9, 1e-6  # B/s and s of a transfer

Meeting = tuple[int, int]  # group and sequence number of a collective, or of a message
Place = tuple[int, int]  # rank, by its place among those there are; node


class IssueNode(NamedTuple):
    """What the order depends on. resource: what it occupies; -1: nothing (a receive). meeting: with other ranks.

    sends: others of its meeting wait for it, and it for none.
    """

    resource: int
    seconds: float
    waits: tuple[int, ...]  # numbers of nodes of the same rank
    meeting: Meeting | None = None
    bytes: float = 0.0
    sends: bool = False


@dataclass
class _RankQueue:
    """A rank while it runs: how many waits of each node are left, who waits for it, what is ready for each resource."""

    left: list[int]
    after: list[list[int]]
    ready: defaultdict[int, list[int]]
    busy: set[int]


def issue_order(ranks: Sequence[Sequence[IssueNode]]) -> tuple[list[list[int]], list[Place]]:
    """The nodes of each rank as they begin, and the places that nothing ever let begin or end (empty if all ran).

    Nodes of a rank wait for one another without a cycle; ranks may still wait for each other for ever.
    """
    run = _Run(ranks)
    run.go()
    stuck = [
        (rank, node) for rank, nodes in enumerate(ranks) for node in range(len(nodes)) if not run.ended[rank][node]
    ]
    return run.order, stuck


class _Run:
    """All ranks on one clock."""

    def __init__(self, ranks: Sequence[Sequence[IssueNode]]) -> None:
        self.ranks = ranks
        self.order: list[list[int]] = [[] for _ in ranks]
        self.ended = [[False] * len(nodes) for nodes in ranks]
        self.members: defaultdict[Meeting, int] = defaultdict(int)
        self.come: defaultdict[Meeting, list[Place]] = defaultdict(list)
        self.events: list[tuple[float, int, int]] = []
        self.queues = [self._queue(nodes) for nodes in ranks]

    def _queue(self, nodes: Sequence[IssueNode]) -> _RankQueue:
        after: list[list[int]] = [[] for _ in nodes]
        for number, node in enumerate(nodes):
            for other in node.waits:
                after[other].append(number)
            if node.meeting is not None:
                self.members[node.meeting] += 1
        return _RankQueue([len(node.waits) for node in nodes], after, defaultdict(list), set())

    def go(self) -> None:
        """Until nothing more happens."""
        for rank, nodes in enumerate(self.ranks):
            for number, node in enumerate(nodes):
                if not node.waits:
                    heappush(self.queues[rank].ready[node.resource], number)
            self._begin(0.0, rank)
        while self.events:
            now, rank, number = heappop(self.events)
            self._end(rank, number)
            self._begin(now, rank)

    def _begin(self, now: float, rank: int) -> None:
        """All that can begin on a rank."""
        queue = self.queues[rank]
        for resource, ready in queue.ready.items():
            while ready and resource not in queue.busy:
                number = heappop(ready)
                if resource >= 0:
                    queue.busy.add(resource)
                self.order[rank].append(number)
                self._run(now, rank, number)

    def _run(self, now: float, rank: int, number: int) -> None:
        node = self.ranks[rank][number]
        if node.meeting is None:
            heappush(self.events, (now + node.seconds, rank, number))
            return
        come = self.come[node.meeting]
        come.append((rank, number))
        end = now + (node.seconds or NOMINAL_START + max(node.bytes, 0.0) / NOMINAL_RATE)
        if node.sends:
            heappush(self.events, (end, rank, number))
        if len(come) == self.members[node.meeting]:
            for place in come:
                if not self.ranks[place[0]][place[1]].sends:
                    heappush(self.events, (end, *place))

    def _end(self, rank: int, number: int) -> None:
        queue, node = self.queues[rank], self.ranks[rank][number]
        self.ended[rank][number] = True
        queue.busy.discard(node.resource)
        for later in queue.after[number]:
            queue.left[later] -= 1
            if not queue.left[later]:
                heappush(queue.ready[self.ranks[rank][later].resource], later)
