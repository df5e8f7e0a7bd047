"""Which links the groups of a job load: for each kind of group a set of flows on each carrier that it needs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.comm.pattern import RING, Loads, Members
from sim.comm.tuner import PATTERNS, layer_of
from sim.layout.grid import RankGrid
from sim.layout.prune import Covers, covers_of, no_middle

Ints = NDArray[np.int64]
Index = NDArray[np.int32]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class FlowSet:
    """The flows of one kind of group on one carrier, one flow per group, CSR over links.

    members: (n, size) ranks. ordered: columns have different roles (a send: sender, receiver).
    start: (n+1,), link and coefficient: (nnz,). latency: (n,) s of the longest hop. nodes: (n,)
    servers that the group spans. under_way: (n,) s, bytes on their way on its fullest connection over the rate of the
    flow; none: not bounded. window: (n,) bytes that these connections may have on their way. kinds: (n,) kinds of node
    among the members, as bits. Sets of one `kind` have the same groups in the same order.
    """

    kind: str
    members: Index
    ordered: bool
    start: Ints
    link: Index
    coefficient: Floats
    latency: Floats
    nodes: Ints
    carrier: str = RING
    under_way: Floats | None = None
    window: Floats | None = None
    kinds: Ints | None = None

    def most(self, flows: Ints) -> Floats:
        """What connections with a window of bytes sent and not yet acknowledged allow these flows, (n,) [B/s]."""
        if self.under_way is None or self.window is None:
            return np.full(len(flows), np.inf)
        with np.errstate(divide="ignore"):
            return np.asarray(self.window[flows] / (2 * self.under_way[flows]))

    def kinds_of(self, flows: Ints) -> list[tuple[int, ...]]:
        """Kinds of node among the members of these flows, in ascending order."""
        if self.kinds is None:
            return [(0,)] * len(flows)
        bits = self.kinds[flows].tolist()
        told = {each: tuple(k for k in range(each.bit_length()) if each >> k & 1) for each in set(bits)}
        return [told[each] for each in bits]

    @property
    def n(self) -> int:
        """Number of flows."""
        return len(self.members)

    @property
    def owner(self) -> Ints:
        """Flow of each non-zero coefficient, (nnz,)."""
        return np.repeat(np.arange(self.n), np.diff(self.start))

    @property
    def key(self) -> str:
        """What tells the set from others of its job: its kind, and its carrier where that is not the ring."""
        return flow_key(self.kind, self.carrier)


def flow_key(kind: str, carrier: str) -> str:
    """Key of the flows of a kind of group on a carrier."""
    return kind if carrier == RING else f"{kind} {carrier}"


def send_flows(
    kind: str, grid: RankGrid, cluster: Cluster, sender: Ints, receiver: Ints, key: int
) -> tuple[FlowSet, Covers]:
    """One flow from each rank of `sender` to its partner in `receiver`."""
    members = np.stack([sender, receiver], axis=1)
    accelerators = grid.accelerator[members]
    loads = PATTERNS["send"].loads(cluster, Members(accelerators, sender, key * grid.n_ranks), "send")
    nodes = 1 + (np.diff(cluster.node_of(accelerators), axis=1)[:, 0] != 0).astype(np.int64)
    return _flow_set(kind, members, True, loads, nodes, RING, cluster, accelerators), _covers(loads)


def collective_flows(
    kind: str, grid: RankGrid, cluster: Cluster, groups: Ints, key: int, number: Ints | None = None, carrier: str = RING
) -> tuple[FlowSet, Covers]:
    """One flow per group of `groups` (n_groups, size) on `carrier`.

    `number` counts them among all groups of their kind, where `groups` are not all of them: hashed paths
    depend on it.
    """
    accelerators = np.sort(grid.accelerator[groups], axis=1)
    counted = np.arange(len(groups)) if number is None else number
    loads = layer_of(carrier).loads(cluster, Members(accelerators, counted, key * grid.n_ranks), carrier)
    nodes = 1 + (np.diff(cluster.node_of(accelerators), axis=1) != 0).sum(axis=1)
    return _flow_set(kind, groups, False, loads, nodes, carrier, cluster, accelerators), _covers(loads)


def _flow_set(
    kind: str,
    members: Ints,
    ordered: bool,
    loads: Loads,
    nodes: Ints,
    carrier: str,
    cluster: Cluster,
    accelerators: Ints,
) -> FlowSet:
    window, kinds = _ends(cluster, accelerators)
    return FlowSet(
        kind,
        members.astype(np.int32),
        ordered,
        loads.start,
        loads.link,
        loads.coefficient,
        loads.latency,
        nodes,
        carrier,
        loads.latency if loads.under_way is None else loads.under_way,
        window,
        kinds,
    )


def _ends(cluster: Cluster, accelerators: Ints) -> tuple[Floats, Ints]:
    """Of groups (n, size): the least window of their adapters, and the kinds of node among them as bits, (n,) each."""
    windows = np.array([kind.node.nics.window for kind in cluster.kinds])
    if len(windows) == 1:
        return np.full(len(accelerators), windows[0]), np.ones(len(accelerators), dtype=np.int64)
    kind = cluster.kind_of(accelerators)
    return windows[kind].min(axis=1), np.bitwise_or.reduce(1 << kind, axis=1)


def _covers(loads: Loads) -> Covers:
    """What lies between the ends of its paths, where these were walked one by one."""
    return no_middle(loads.link) if loads.routes is None else covers_of(loads.routes)
