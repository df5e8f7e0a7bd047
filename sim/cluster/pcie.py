"""PCIe inside a node: boards behind switches, root ports and sockets, with host memory where data are staged.

A board has a link to its switch or root port, a switch one uplink to its root port, a socket root ports, memory and a
link to each other socket. Where a board cannot reach the memory of another, data are staged: up into the memory of the
own socket and down again, which loads every link on the way once in each direction (NVIDIA/nccl issue 1309). What
passes through host memory is slower than what passes a root port, so a root port has links of less capacity to memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise, permutations

from sim.cluster.cables import Cable, link_table
from sim.cluster.cluster import Ints
from sim.inputs.records import Node, Pcie

Way = list[int]  # local vertices in the order they are passed


def line_rate(node: Node) -> float:
    """Of the PCIe link of a board, per direction [B/s]; 0 where it is not known."""
    return node.local.bandwidth if node.local.kind == "pcie" else node.host.pcie_bandwidth


@dataclass(frozen=True, eq=False)
class PcieTree:
    """The PCIe of one node, its vertices numbered from `first_vertex` and its links from `first_link` on.

    adapter: (accelerators,) adapter of each board.
    """

    node: Node
    pcie: Pcie
    adapter: Ints
    first_vertex: int
    first_link: int

    @property
    def n(self) -> int:
        """Boards."""
        return self.node.accelerators

    @property
    def n_roots(self) -> int:
        """Root ports of boards and switches."""
        return self.pcie.switches or self.n

    @property
    def parts(self) -> tuple[tuple[str, int], ...]:
        """Kinds of its vertices in their order, and how many there are of each."""
        counts = {"pcie": self.pcie.switches, "root": self.n_roots}
        counts |= {"socket": self.pcie.sockets, "memory": self.pcie.sockets}
        return tuple((kind, count) for kind, count in counts.items() if count)

    @cached_property  # read for each pair of boards
    def cables(self) -> list[Cable]:
        """All links, each direction by itself."""
        joined = [*self._board_links(), *self._root_links(), *self._bridges()]
        both = [Cable(*ends, rate, latency) for a, b, rate, latency in joined for ends in ((a, b), (b, a))]
        sockets = permutations(range(self.pcie.sockets), 2)
        return both + [Cable(self._socket(a), self._socket(b), self.pcie.socket_bandwidth, 0.0) for a, b in sockets]

    def paths(self) -> Ints:
        """Links from each board to each other, (boards, boards, longest), -1 where shorter."""
        ways = [self._way(i, j) for i in range(self.n) for j in range(self.n)]
        return link_table([self._links(way) for way in ways]).reshape(self.n, self.n, -1)

    def exits(self) -> Ints:
        """Links from each board to its adapter, (boards, longest), -1 where shorter."""
        return link_table([self._links(self._way_out(i)) for i in range(self.n)])

    def entries(self) -> Ints:
        """Links from its adapter to each board, (boards, longest), -1 where shorter."""
        return link_table([self._links(self._way_out(i)[::-1]) for i in range(self.n)])

    def to_memory(self) -> Ints:
        """Links from each board to the memory of its socket, (boards, longest), -1 where shorter."""
        return link_table([self._links(self._way_to_memory(i)) for i in range(self.n)])

    def from_memory(self) -> Ints:
        """Links from the memory of its socket to each board, (boards, longest), -1 where shorter."""
        return link_table([self._links(self._way_to_memory(i)[::-1]) for i in range(self.n)])

    # --- ways -------------------------------------------------------------------------------------

    def _way_to_memory(self, i: int) -> Way:
        return [*self._up(i), self._memory(self._socket_of(i))]

    def _way(self, i: int, j: int) -> Way:
        """From board i to board j."""
        if i == j:
            return []
        bridges = self.pcie.bridges
        if bridges and i // bridges.boards == j // bridges.boards:
            return [i, j]
        if self.pcie.switches and self._root_of(i) == self._root_of(j) and self.pcie.peer_access != "none":
            return [i, self._switch(self._root_of(i)), j]
        return [*self._up(i), *self._across(i, j), *self._up(j)[::-1]]

    def _way_out(self, i: int) -> Way:
        """From board i to where its adapter sits."""
        home = int((self.adapter == self.adapter[i]).argmax())  # the first board that the adapter serves
        at_switch = self.pcie.adapters == "switch" and self.pcie.switches > 0
        if at_switch and self._root_of(i) == self._root_of(home) and self.pcie.peer_access != "none":
            return [i, self._switch(self._root_of(i))]
        across = self._across(i, home)
        if at_switch:
            return [*self._up(i), *across, *self._up(home)[:0:-1]]
        socket = self._socket(self._socket_of(home))
        return [*self._up(i), *(across if socket in across else [*across, socket])]

    def _up(self, i: int) -> Way:
        """From a board to its root port."""
        root = self._root_of(i)
        return [i, *([self._switch(root)] if self.pcie.switches else []), self._root(root)]

    def _across(self, i: int, j: int) -> Way:
        """Between the root ports of two boards, without them."""
        here, there = self._socket_of(i), self._socket_of(j)
        sockets = [self._socket(here), self._socket(there)] if here != there else [self._socket(here)]
        if self.pcie.peer_access == "all" or (self.pcie.peer_access == "socket" and here == there):
            return sockets
        memory = [self._memory(here), self._memory(there)]
        return [memory[0], *sockets, memory[1]] if here != there else memory[:1]

    def _links(self, way: Way) -> list[int]:
        return [self._number[ends] for ends in pairwise(way)]

    @cached_property  # read for each pair of boards
    def _number(self) -> dict[tuple[int, int], int]:
        """Link between two vertices."""
        return {(cable.source, cable.target): self.first_link + k for k, cable in enumerate(self.cables)}

    # --- links ------------------------------------------------------------------------------------

    def _rate(self, line: float) -> float:
        """What payload reaches of a line rate [B/s]."""
        return line * (self.node.local.efficiency if self.node.local.kind == "pcie" else 1.0)

    def _board_links(self) -> Iterator[tuple[int, int, float, float]]:
        latency = self.node.local.latency / 2 if self.node.local.kind == "pcie" else 0.0
        for i in range(self.n):
            behind = self._switch(self._root_of(i)) if self.pcie.switches else self._root(i)
            yield i, behind, self._rate(line_rate(self.node)), latency

    def _root_links(self) -> Iterator[tuple[int, int, float, float]]:
        """Uplinks, and root ports with what is behind them; memory takes all that its root ports have."""
        uplink = self.pcie.uplink or line_rate(self.node)
        for root in range(self.n_roots):
            socket = self._socket_of_root(root)
            if self.pcie.switches:
                yield self._switch(root), self._root(root), self._rate(uplink), 0.0
            yield self._root(root), self._socket(socket), self._rate(uplink), 0.0
            yield self._root(root), self._memory(socket), uplink * self.pcie.staged_efficiency, 0.0
        for socket in range(self.pcie.sockets):
            yield self._memory(socket), self._socket(socket), uplink * self.n_roots, 0.0

    def _bridges(self) -> Iterator[tuple[int, int, float, float]]:
        bridges = self.pcie.bridges
        if bridges is None:
            return
        for i in range(self.n):
            for j in range(i + 1, min(self.n, i // bridges.boards * bridges.boards + bridges.boards)):
                rate = bridges.bandwidth * bridges.efficiency / (bridges.boards - 1)
                yield i, j, rate, self.node.local.latency

    # --- vertices ---------------------------------------------------------------------------------

    def _root_of(self, i: int) -> int:
        return i * self.n_roots // self.n

    def _socket_of_root(self, root: int) -> int:
        return root * self.pcie.sockets // self.n_roots

    def _socket_of(self, i: int) -> int:
        return self._socket_of_root(self._root_of(i))

    def _switch(self, root: int) -> int:
        return self.first_vertex + root

    def _root(self, root: int) -> int:
        return self.first_vertex + self.pcie.switches + root

    def _socket(self, socket: int) -> int:
        return self.first_vertex + self.pcie.switches + self.n_roots + socket

    def _memory(self, socket: int) -> int:
        return self._socket(socket) + self.pcie.sockets
