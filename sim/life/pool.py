"""The nodes of a job: in it, spare, or down; and the queue of repairs.

Public: `Pool`.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from heapq import heappop, heappush
from math import isfinite
from typing import Any

from simpy import Environment, Event, Resource

from sim.inputs.reliability import Recovery
from sim.life.life_inputs import Repair


class Pool:
    """Nodes by number: 0 to n_nodes-1 start in the slots of the job, then come warm, then cold spares.

    `changing` is called before a node goes down or comes back, `returned` after it came back.
    """

    def __init__(
        self,
        env: Environment,
        n_nodes: int,
        recovery: Recovery,
        changing: Callable[[], None],
        returned: Callable[[], None],
    ) -> None:
        self.env, self.recovery, self.changing, self.returned = env, recovery, changing, returned
        warm = n_nodes + recovery.warm_spares
        self.n_total = warm + recovery.cold_spares
        self.slots: list[int | None] = list(range(n_nodes))
        self.slot_of = {node: node for node in range(n_nodes)}
        self.empty: list[int] = []  # slots without a node, as a heap
        self.warm = deque(range(n_nodes, warm))
        self.cold = deque(range(warm, self.n_total))
        self.faults: Counter[int] = Counter()  # open faults of each node that is down
        self.coming = 0  # repairs that will end
        self.crew = Resource(env, recovery.repair_crew) if recovery.repair_crew else None
        self.repairs: list[Repair] = []

    @property
    def vacant(self) -> int:
        """Slots of the job without a node."""
        return len(self.empty)

    @property
    def counts(self) -> tuple[int, int, int]:
        """Nodes in the job, idle and powered, and down."""
        return len(self.slot_of), len(self.warm), len(self.faults)

    def take_down(self, nodes: Sequence[int], repair_s: float, queued: bool = True) -> None:
        """One fault of these nodes, one repair: with `queued` it waits for the crew. Never, if inf."""
        self.changing()
        for node in nodes:
            self.faults[node] += 1
            if node in self.slot_of:
                self._vacate(self.slot_of[node])
            elif node in self.warm:
                self.warm.remove(node)
            elif node in self.cold:
                self.cold.remove(node)
        if isfinite(repair_s):
            self.coming += 1
            self.env.process(self._repair(tuple(nodes), repair_s, queued))

    def _repair(self, nodes: tuple[int, ...], repair_s: float, queued: bool) -> Generator[Event, Any, None]:
        asked = self.env.now
        if self.crew and queued:
            with self.crew.request() as turn:
                yield turn
                began = self.env.now
                yield self.env.timeout(repair_s)
        else:
            began = asked
            yield self.env.timeout(repair_s)
        self.coming -= 1
        self.repairs.append(Repair(asked, began, self.env.now))
        self._bring_back(nodes)

    def _bring_back(self, nodes: tuple[int, ...]) -> None:
        self.changing()
        for node in nodes:
            self.faults[node] -= 1
            if self.faults[node] == 0:
                del self.faults[node]
                wanted = self.empty or len(self.warm) < self.recovery.warm_spares
                (self.warm if wanted else self.cold).append(node)
        self.returned()

    def fill(self) -> tuple[int, int]:
        """Put spares into vacant slots, warm ones first; returns how many of each."""
        self.changing()
        used = [0, 0]
        while self.empty and (self.warm or self.cold):
            kind = 0 if self.warm else 1
            slot, node = heappop(self.empty), (self.cold if kind else self.warm).popleft()
            self.slots[slot], self.slot_of[node] = node, slot
            used[kind] += 1
        return used[0], used[1]

    def release(self, n_nodes: int) -> None:
        """Make the last `n_nodes` of the job idle."""
        self.changing()
        for slot in sorted(self.slot_of.values())[len(self.slot_of) - n_nodes :]:
            self.warm.append(self._vacate(slot))

    def _vacate(self, slot: int) -> int:
        """Take the node out of a slot."""
        node = self.slots[slot]
        assert node is not None
        self.slots[slot] = None
        del self.slot_of[node]
        heappush(self.empty, slot)
        return node
