"""Ways of data that host cores prepare: from storage to each node, back, and from all nodes to each (shuffle).

A node uses all its adapters alike. A shuffle brings the same share from every node, its own included, which crosses
nothing. Flows belong to no rank, and nodes are never one another's equals: their tasks begin and end at other times.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.cluster.hops import Hops, to_routes
from sim.cluster.storage import StorageSystem
from sim.comm.pattern import sum_loads
from sim.errors import PlanError, Problem
from sim.inputs.preparation import Preparation
from sim.layout.flows import FlowSet
from sim.layout.plan import JobFlows, Plan
from sim.layout.prune import no_middle
from sim.layout.transfers import Transfers

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
READ, FETCH, WRITE = "prepare read", "prepare fetch", "prepare write"
Ways = tuple[Hops, Floats]  # paths, and the share of the bytes on each
KEY = 40  # feeds the hash that chooses among equal paths


def preparing_nodes(plan: Plan, job: Preparation) -> Ints:
    """Nodes whose hosts work on it. Raises PlanError if there are none."""
    used = np.unique(plan.cluster.node_of(plan.grid.accelerator))
    free = used if job.placement == "job" else np.setdiff1d(np.arange(plan.cluster.n_nodes), used)
    if not len(free) or (job.nodes or 0) > len(free):
        message = f"{len(free)} nodes may work on it"
        raise PlanError(Problem("", "preparation.nodes", message, "use more nodes, or another placement"))
    return free[: job.nodes]


def preparing_transfers(plan: Plan, storage: StorageSystem, nodes: Ints, *, alike: bool) -> Transfers:
    """A flow of each kind for each node, no bytes said: `alike`, to be folded, or each in a set of its own."""
    ways: dict[str, list[Ways]] = {READ: [], WRITE: [], FETCH: []}
    for place, node in enumerate(nodes.tolist()):
        ends = _ends(plan.cluster, node)
        ways[READ].append(_storage_hops(storage, ends, place, write=False))
        ways[WRITE].append(_storage_hops(storage, ends, place, write=True))
        ways[FETCH].append(_fetch_hops(plan.cluster, nodes, node, place))
    flows: JobFlows = {}
    for kind, rows in ways.items():
        sets = [rows] if alike else [[row] for row in rows]
        for number, part in enumerate(sets):
            name = kind if alike else f"{kind} {number}"
            made = _flow_set(plan.cluster, name, part)
            flows[name] = made, no_middle(made.link)
    return Transfers(plan.cluster, flows, {})


def _ends(cluster: Cluster, node: int) -> Ints:
    """An accelerator at each adapter of a node: its host reaches all of them."""
    first, size = int(cluster.places.first[node]), int(cluster.places.sizes[node])
    rails = cluster.servers.rail(np.full(size, node), np.arange(size))
    return first + np.unique(rails, return_index=True)[1]


def _storage_hops(storage: StorageSystem, ends: Ints, place: int, *, write: bool) -> Ways:
    """Ways to or from servers, and the share of each in the bytes: files lie on all of them in turn."""
    end, server = np.repeat(ends, storage.n_working), np.tile(np.arange(storage.n_working), len(ends))
    hops = (storage.write_hops if write else storage.read_hops)(end, server, KEY + place + server)
    return hops, np.full(len(end), 1 / len(end))


def _fetch_hops(cluster: Cluster, nodes: Ints, node: int, place: int) -> Ways:
    """Ways from the hosts of all other nodes, rail by rail."""
    others = nodes[nodes != node]
    adapters = cluster.servers.first_adapter
    n = int(np.diff(adapters).min())  # kinds of node may have unlike numbers
    if cluster.fabric is None or not len(others):
        return Hops(np.full((1, 1), -1), np.ones((1, 1))), np.zeros(1)
    source, rail = np.repeat(others, n), np.tile(np.arange(n), len(others))
    hops = cluster.fabric.hops(adapters[source] + rail, adapters[node] + rail, KEY + place + rail)
    return hops, np.full(len(source), 1 / (len(nodes) * n))


def _flow_set(cluster: Cluster, name: str, rows: list[Ways]) -> FlowSet:
    """A flow over all ways of each row, with its share of the bytes on each."""
    parts, latencies, windows = [], [], []
    for number, (hops, share) in enumerate(rows):
        routes = to_routes(hops, cluster.links.latency)
        way = np.repeat(np.arange(len(share)), np.diff(routes.start))
        parts.append((np.full(len(way), number), routes.link, share[way] * routes.share))
        latencies.append(routes.latency.max(initial=0.0))
        windows.append((share * routes.latency).max(initial=0.0))
    owner, link, load = (np.concatenate(column) for column in zip(*parts, strict=True))
    loads = sum_loads(owner, link, load, len(rows), cluster.links.n)
    members, ones = np.zeros((len(rows), 0), dtype=np.int32), np.ones(len(rows), np.int64)
    return FlowSet(name, members, False, *loads, np.array(latencies), ones, under_way=np.array(windows))
