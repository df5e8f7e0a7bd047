"""What a pattern of communication is: the links that a group loads, and what a collective costs before it does.

A pattern turns a collective of a group into legs, one after the other. A leg is one flow, because pipelined
chunks move in lock-step: it starts up, then moves bytes over all links of its carrier at once. A carrier is a set of
links with coefficients, laid over the true routes; patterns that load the same links in the same proportions share one.

Each pattern has a file of its own; `tuner.py` has the registry and makes the choice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from math import ceil, inf
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster, Routes
from sim.errors import EngineError
from sim.inputs.records import Node

Ints = NDArray[np.int64]
Index = NDArray[np.int32]
Floats = NDArray[np.float64]
HopColumns = tuple[Ints, Ints, Ints, Floats]  # of hops: group, source and target accelerator, share of the flow
RING = "ring"  # the carrier that every group has


class Leg(NamedTuple):
    """Seconds before its flow joins the links of the carrier, and bytes per unit of their coefficients."""

    latency: float
    size: float
    carrier: str = RING


class Cost(NamedTuple):
    """A collective run by the pattern called `algorithm`: its legs, one after the other."""

    algorithm: str
    legs: tuple[Leg, ...]

    @property
    def latency(self) -> float:
        """Seconds of all legs in which nothing moves."""
        return sum(leg.latency for leg in self.legs)

    @property
    def size(self) -> float:
        """Bytes of the flows of all legs."""
        return sum(leg.size for leg in self.legs)

    def seconds(self, group: Group) -> float:
        """Time with nothing else on the links."""
        return sum(leg.latency + leg.size / group.rate_of(leg.carrier) for leg in self.legs)


class Carrier(NamedTuple):
    """What the links of one carrier allow a group alone [B/s], and the latency of its longest path [s]."""

    name: str
    rate: float
    latency: float


@dataclass(frozen=True)
class Group:
    """A communicator: members, servers it spans, latency of the longest hop of its ring [s].

    `local_rate` is what the links inside the nodes allow its ring alone, `network_rate` those between them [B/s].
    others: the carriers that it has beside the ring. kinds: the kinds of node in it, by their numbers in the cluster.
    """

    size: int
    nodes: int
    hop_latency: float
    local_rate: float = inf
    network_rate: float = inf
    others: tuple[Carrier, ...] = ()
    kinds: tuple[int, ...] = (0,)

    @property
    def rate(self) -> float:
        """Rate of its ring alone [B/s]."""
        return min(self.local_rate, self.network_rate)

    def local_step(self, node: Node, start_up: float) -> float:
        """Seconds of a step inside a node: `start_up`, measured with its hop; at the least the latency of that hop."""
        return max(start_up, self.hop_latency if self.nodes == 1 else node.local.latency)

    @property
    def width(self) -> int:
        """Members in the fullest node."""
        return ceil(self.size / self.nodes)

    def rate_of(self, carrier: str) -> float:
        """Rate of a flow on that carrier alone [B/s]."""
        return self.rate if carrier == RING else self.carrier(carrier).rate

    def carrier(self, name: str) -> Carrier:
        """One of its carriers beside the ring. Raises EngineError where it was not laid."""
        found = next((carrier for carrier in self.others if carrier.name == name), None)
        if found is None:
            raise EngineError(f"a group of {self.size} ranks has no links laid for {name}")
        return found

    def ring_bytes(self, local: float, network: float) -> float:
        """Bytes of the ring flow that take as long as `local` at the local and `network` at the network rate."""
        return self.rate * max(local / self.local_rate, network / self.network_rate)


@dataclass(frozen=True)
class Members:
    """Accelerators of n groups of one size, (n, size), sorted in each row.

    number: (n,) of each group among all groups of its kind, and `offset`: both feed the hash of equal paths.
    """

    accelerator: Ints
    number: Ints
    offset: int = 0

    @property
    def n(self) -> int:
        """Groups."""
        return len(self.accelerator)

    @property
    def size(self) -> int:
        """Members of each group."""
        return int(self.accelerator.shape[1])

    def runs(self, cluster: Cluster) -> tuple[Ints, Ints, Ints, Ints]:
        """Members of one node in a row: group, node, first place in the flat table, and width of each, (runs,)."""
        node = cluster.node_of(self.accelerator)
        new = np.ones(node.shape, dtype=bool)
        new[:, 1:] = np.diff(node, axis=1) != 0
        first = np.flatnonzero(new.ravel())
        return first // self.size, node.ravel()[first], first, np.diff(first, append=node.size)


@dataclass(frozen=True)
class Loads:
    """What the flow of each of n groups puts on links, CSR by group, per byte of its size.

    latency: (n,) s of the longest path. routes: all paths, where each of them carries the whole flow or a part of it.
    under_way: (n,) s, largest product of latency and share of the flow on a connection: bytes on their way, over the
    rate of the flow. A connection carries the whole flow where nothing else is said.
    """

    start: Ints
    link: Index
    coefficient: Floats
    latency: Floats
    routes: Routes | None = None
    under_way: Floats | None = None


class Pattern(ABC):
    """A way to run some collectives. `name`: in platform files and reports; `carriers`: those that it lays itself."""

    name: str
    carriers: tuple[str, ...] = ()

    @abstractmethod
    def serves(self, collective: str, group: Group, node: Node) -> bool:
        """Whether it can run that collective in that group."""

    @abstractmethod
    def cost(self, collective: str, message: float, group: Group, node: Node) -> tuple[Leg, ...]:
        """Its legs for `message` bytes, in the convention of nccl-tests."""

    def believed(self, collective: str, message: float, group: Group, node: Node) -> float:
        """Seconds that the library takes it to last when it chooses."""
        return Cost(self.name, self.cost(collective, message, group, node)).seconds(group)

    def loads(self, cluster: Cluster, members: Members, carrier: str) -> Loads:
        """The links of one of its carriers."""
        raise EngineError(f"{self.name} lays no links for {carrier}")


def routed(cluster: Cluster, members: Members, hops: HopColumns) -> Loads:
    """Loads of hops between accelerators, over the routes of the cluster."""
    group, source, target, share = hops
    routes = cluster.router.routes(source, target, members.number[group] * members.size + members.offset)
    hop = np.repeat(np.arange(len(group)), np.diff(routes.start))
    summed = sum_loads(group[hop], routes.link, share[hop] * routes.share, members.n, cluster.links.n)
    latency = np.zeros(members.n)
    under_way = np.zeros(members.n)
    np.maximum.at(latency, group, routes.latency)
    np.maximum.at(under_way, group, share * routes.latency)
    return Loads(*summed, latency, routes, under_way)


def joined(parts: list[HopColumns]) -> HopColumns:
    """Hops of all parts, one part after the other."""
    group, source, target, share = zip(*parts, strict=True)
    return np.concatenate(group), np.concatenate(source), np.concatenate(target), np.concatenate(share)


def sum_loads(owner: Ints, link: Ints, load: Floats, n_owners: int, n_links: int) -> tuple[Ints, Index, Floats]:
    """Sum what each owner puts on each link, (n,) each; CSR by owner: start, link, coefficient."""
    key = owner * n_links + link
    order = np.argsort(key, kind="stable")
    key = key[order]
    first = np.flatnonzero(np.diff(key, prepend=-1))
    load = load[order]
    coefficient = np.add.reduceat(load, first) if len(first) else load
    owner = key[first] // n_links
    start = np.searchsorted(owner, np.arange(n_owners + 1))
    return start, (key[first] % n_links).astype(np.int32), coefficient
