"""Pairwise exchange (all-to-all): each member sends 1/n of its message to each other, over the route between the two.

What a link carries is counted, not walked pair by pair, where routes allow it: inside a node pairs of the same places
use the same links; between nodes all members behind one switch reach a target by one way, over their own links up
to the switch. Only hashed routes and rails that are not joined are walked one by one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from sim.cluster.cluster import Cluster
from sim.cluster.server import Server
from sim.comm.pattern import Floats, Group, Ints, Leg, Loads, Members, Pattern, sum_loads
from sim.errors import PlanError, Problem
from sim.inputs.records import Node

BLOCK = 200_000  # routes that are asked for at a time
MOST_PAIRS = 100_000_000


class Exchange(Pattern):
    """All-to-all, all sends at once."""

    name = "exchange"
    carriers = ("exchange",)

    @override
    def serves(self, collective: str, group: Group, node: Node) -> bool:
        return collective == "all_to_all"

    @override
    def cost(self, collective: str, message: float, group: Group, node: Node) -> tuple[Leg, ...]:
        """Sends are issued one after the other and overlap. The size is what leaves a member."""
        start = (group.size - 1) * node.collectives.ring_hop
        if group.nodes > 1:
            start += node.collectives.ring_hop_network + group.carrier("exchange").latency
        else:
            start = group.local_step(node, start)
        return (Leg(start, message * (group.size - 1) / group.size, "exchange"),)

    @override
    def loads(self, cluster: Cluster, members: Members, carrier: str) -> Loads:
        gate = cluster.router.gates(np.arange(cluster.n_accelerators))
        walked = _walked(cluster, members) if gate is None else _counted(cluster, members, gate)
        start, link, pairs = sum_loads(walked.group, walked.link, walked.pairs, members.n, cluster.links.n)
        peers = members.size - 1
        return Loads(start, link, pairs / peers, walked.latency, under_way=walked.latency / peers)


@dataclass(frozen=True)
class Crossed:
    """Pairs of members (or parts of them) of a group that cross a link, (nnz,) each; latency: (n,) s of the longest."""

    group: Ints
    link: Ints
    pairs: Floats
    latency: Floats


def _together(parts: list[Crossed]) -> Crossed:
    """What crosses links in all of the parts."""
    return Crossed(
        np.concatenate([part.group for part in parts]),
        np.concatenate([part.link for part in parts]),
        np.concatenate([part.pairs for part in parts]),
        np.maximum.reduce([part.latency for part in parts]),
    )


@dataclass(frozen=True)
class Ways:
    """Routes to be counted `times` each, (n,) all: of groups, between accelerators; `key` feeds the hash of paths."""

    group: Ints
    source: Ints
    target: Ints
    key: Ints
    times: Ints

    def part(self, rows: slice) -> Ways:
        """Some of them."""
        return Ways(self.group[rows], self.source[rows], self.target[rows], self.key[rows], self.times[rows])


def _crossed(cluster: Cluster, n: int, ways: Ways, *, from_gate: bool) -> Crossed:
    """What routes of n groups cross: all of it, or what lies beyond the switch of the source."""
    routes = cluster.router.routes(ways.source, ways.target, ways.key)
    way, link, share = np.repeat(np.arange(len(ways.group)), np.diff(routes.start)), routes.link, routes.share
    if from_gate:
        beyond = (link[:, None] != cluster.router.links_to_gate(ways.source)[way]).all(axis=1)
        way, link, share = way[beyond], link[beyond], share[beyond]
    latency = np.zeros(n)
    np.maximum.at(latency, ways.group, routes.latency)
    start, crossed, pairs = sum_loads(ways.group[way], link, ways.times[way] * share, n, cluster.links.n)
    return Crossed(np.repeat(np.arange(n), np.diff(start)), crossed.astype(np.int64), pairs, latency)


def _walked(cluster: Cluster, members: Members) -> Crossed:
    """Every pair by its own route."""
    n, size = members.accelerator.shape
    if n * size * (size - 1) > MOST_PAIRS:
        message = f"all-to-all of {n} groups of {size} ranks has more than {MOST_PAIRS} hashed routes"
        raise PlanError(Problem("", "routing.kind", message, "use d_mod_k or spray, or smaller groups"))
    group, sender = np.divmod(np.arange(n * size), size)
    rows = max(1, BLOCK // size)  # senders
    parts = []
    for first in range(0, n * size, rows):
        mine = np.repeat(np.arange(first, min(first + rows, n * size)), size)
        receiver = np.tile(np.arange(size), len(mine) // size)
        apart = sender[mine] != receiver
        mine, receiver = mine[apart], receiver[apart]
        source, target = members.accelerator.ravel()[mine], members.accelerator[group[mine], receiver]
        key = (members.number[group[mine]] * size + sender[mine]) * size + receiver + members.offset
        ways = Ways(group[mine], source, target, key, np.ones(len(mine), dtype=np.int64))
        parts.append(_crossed(cluster, n, ways, from_gate=False))
    return _together(parts)


def _counted(cluster: Cluster, members: Members, gate: Ints) -> Crossed:
    """Pairs inside nodes by the places of their members, pairs between nodes by switch and target."""
    group, _, first, width = members.runs(cluster)
    run = np.repeat(np.arange(len(first)), width)
    inside = _inside(cluster, members, group, first, width)
    away = (members.size - width[run]).astype(np.float64)
    if not away.any():
        return inside
    onward = _onward(members, gate, run)
    blocks = [onward.part(slice(row, row + BLOCK)) for row in range(0, len(onward.group), BLOCK)]
    beyond = [_crossed(cluster, members.n, block, from_gate=True) for block in blocks]
    return _together([inside, _leaving(cluster, members, away), *beyond])


def _inside(cluster: Cluster, members: Members, group: Ints, first: Ints, width: Ints) -> Crossed:
    """All pairs in one node, once for each set of places that occurs."""
    flat, servers = members.accelerator.ravel(), cluster.servers
    crossed = [Crossed(*(np.zeros(0, dtype=np.int64),) * 2, np.zeros(0), np.zeros(members.n))]
    for size in np.unique(width[width > 1]).tolist():
        runs = np.flatnonzero(width == size)
        there = flat[first[runs][:, None] + np.arange(size)]
        node = cluster.node_of(there[:, 0])
        kind_and_places = np.column_stack([servers.kind[node], cluster.local_index(there)])
        patterns, which = np.unique(kind_and_places, axis=0, return_inverse=True)
        for number, (kind, *place) in enumerate(patterns.tolist()):
            link, pairs, latency = _between_places(servers.kinds[kind], np.array(place))
            mine = runs[which.ravel() == number]
            at = link + servers.first_link[node[which.ravel() == number]][:, None]
            longest = np.zeros(members.n)
            longest[group[mine]] = latency
            crossed.append(Crossed(np.repeat(group[mine], len(link)), at.ravel(), np.tile(pairs, len(mine)), longest))
    return _together(crossed)


def _between_places(server: Server, place: Ints) -> tuple[Ints, Floats, float]:
    """Local links between all pairs of some places of a node, how many pairs cross each, and the longest latency."""
    path = server.path[np.repeat(place, len(place)), np.tile(place, len(place))]
    latency = np.where(path >= 0, server.links.latency[path], 0.0).sum(axis=1)
    link, pairs = np.unique(path[path >= 0], return_counts=True)
    return link, pairs.astype(np.float64), float(latency.max(initial=0.0))


def _leaving(cluster: Cluster, members: Members, away: Floats) -> Crossed:
    """The links of each member up to its switch: all that it sends to other nodes."""
    link = cluster.router.links_to_gate(members.accelerator.ravel())
    row, column = np.nonzero(link >= 0)
    return Crossed(row // members.size, link[row, column], away[row], np.zeros(members.n))


def _onward(members: Members, gate: Ints, run: Ints) -> Ways:
    """From the switches to all targets, for as many members as are behind each, but not in the node of the target."""
    flat, n_runs = members.accelerator.ravel(), int(run[-1]) + 1
    group = np.repeat(np.arange(members.n), members.size)
    number = group * (int(gate.max()) + 1) + gate[flat]
    behind, place, count = np.unique(number, return_inverse=True, return_counts=True)
    near, near_count = np.unique(place * n_runs + run, return_counts=True)
    first = np.full(len(behind), len(flat))
    np.minimum.at(first, place, np.arange(len(flat)))
    last = np.zeros(len(behind), dtype=np.int64)
    np.maximum.at(last, place, np.arange(len(flat)))
    switch = np.repeat(np.arange(len(behind)), members.size)
    target = (group[first][:, None] * members.size + np.arange(members.size)).ravel()
    times = count[switch] - _count_of(switch * n_runs + run[target], near, near_count)
    away = times > 0
    switch, target = switch[away], target[away]
    source = np.where(run[first[switch]] == run[target], last[switch], first[switch])  # in another node than the target
    return Ways(group[target], flat[source], flat[target], np.zeros(len(source), dtype=np.int64), times[away])


def _count_of(key: Ints, known: Ints, count: NDArray[np.int64]) -> Ints:
    """Count of each key among the sorted `known`, 0 where it is not."""
    place = np.minimum(np.searchsorted(known, key), len(known) - 1)
    return np.where(known[place] == key, count[place], 0)
