"""Checkpoint traffic as flows: between ranks and storage, and to the memory of a peer node.

A file per rank. Its stripes lie on servers in turn; a replicated system passes what it is given on to
the next servers at the same pace, so a write is one flow over all of them. What one rank can take or
give, and the requests that a storage system stands, are links as well, with requests per byte as the
coefficient of the latter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.cluster.hops import join_links, to_routes, uniform_links
from sim.cluster.storage import StorageSystem
from sim.comm.pattern import sum_loads
from sim.errors import PlanError, Problem
from sim.layout.flows import FlowSet, send_flows
from sim.layout.fold import identity_partition, refine
from sim.layout.plan import JobFlows, Plan, fold_structure, job_flows
from sim.layout.prune import no_middle

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
FILE_KEY, PEER_KEY = 20, 21  # feed the hash that chooses among equal paths
MOST_STRIPES = 4_000_000  # each loads half a dozen links


@dataclass(frozen=True)
class TransferLoads:
    """What n flows put on links: flow, link and coefficient of each pair, (nnz,); latency of each flow, (n,) s."""

    flow: Ints
    link: Ints
    coefficient: Floats
    latency: Floats


@dataclass(frozen=True)
class Transfers:
    """Flows that move at one time, by kind, and the bytes that each flow of a kind moves.

    cluster: with the limits on ranks and requests as further links.
    """

    cluster: Cluster
    flows: JobFlows
    size: dict[str, float]


def file_transfers(plan: Plan, storage: StorageSystem, size: Floats, pace: float, *, write: bool) -> Transfers:
    """A file of size[rank] bytes in storage for each rank, (n_ranks,), none if 0; `pace`: what one rank moves [B/s]."""
    ranks = np.flatnonzero(size > 0)
    if not len(ranks):
        return Transfers(plan.cluster, {}, {})
    loads = _file_loads(plan, storage, ranks, write)
    cluster, loads = _limited(plan.cluster, storage, loads, size[ranks], pace, write)
    members = ranks[:, None].astype(np.int32)
    return _by_size("write" if write else "read", cluster, members, size[ranks], loads)


def peer_transfers(plan: Plan, size: Floats, *, back: bool = False) -> Transfers:
    """Each rank sends size[rank] bytes, (n_ranks,), to its place on the peer node; or gets them `back` from there."""
    peer = _peers(plan)
    flows: JobFlows = {}
    sizes = np.unique(size[size > 0]).tolist()
    for number, each in enumerate(sizes):
        near = np.flatnonzero(size == each)
        sender, receiver = (peer[near], near) if back else (near, peer[near])
        kind = f"peer {number}"
        flows[kind] = send_flows(kind, plan.grid, plan.cluster, sender, receiver, PEER_KEY)
    return Transfers(plan.cluster, flows, {f"peer {number}": each for number, each in enumerate(sizes)})


def _peers(plan: Plan) -> Ints:
    """For each rank the one in its place on the peer node, (n_ranks,).

    Nodes are peers in pairs, the last three in a circle if they are odd in number (as GEMINI does, Wang et al.,
    SOSP 2023).
    """
    order = np.argsort(plan.grid.accelerator, kind="stable")
    _, node, count = np.unique(
        plan.cluster.node_of(plan.grid.accelerator[order]), return_inverse=True, return_counts=True
    )
    nodes = np.arange(len(count))
    other = nodes ^ 1
    if len(nodes) % 2:
        other[-3:] = np.roll(nodes[-3:], -1)
    first = np.cumsum(count) - count
    place = np.arange(len(order)) - first[node]
    peer = np.empty_like(order)
    peer[order] = order[first[other[node]] + np.minimum(place, count[other[node]] - 1)]
    return peer


def replica_transfers(plan: Plan, size: Floats) -> Transfers:
    """Replicas pass size[rank] bytes, (n_ranks,), round the ring that sums their gradients."""
    kind = "replica" if "replica" in plan.flow_sets else "gradient"
    if kind not in plan.flow_sets:
        return Transfers(plan.cluster, {}, {})
    rings = plan.flows[plan.flow_sets[kind]]
    sent = size[rings.members[:, 0]]
    loads = TransferLoads(rings.owner, rings.link.astype(np.int64), rings.coefficient, rings.latency)
    return _by_size("ring", plan.cluster, rings.members, sent, loads)


def with_transfers(plan: Plan, transfers: Transfers, *, training: bool) -> Plan:
    """`plan` with these flows beside those of a training step, or in their place."""
    options = plan.experiment.simulation
    step = job_flows(plan.experiment, plan.model, plan.grid, plan.cluster) if training else {}
    flows = step | transfers.flows
    stage, accelerator = plan.grid.coordinate["pipeline"], plan.grid.accelerator
    structure, links, apart = fold_structure(stage, accelerator, transfers.cluster, flows, options.prune == "auto")
    return replace(
        plan,
        cluster=transfers.cluster,
        structure=structure,
        flows=tuple(flow_set for flow_set, _ in flows.values()),
        apart=apart,
        flow_sets={kind: number for number, kind in enumerate(flows)},
        links=links,
        partition=refine(structure) if options.fold == "auto" else identity_partition(structure),
        rows=None,
    )


def _file_loads(plan: Plan, storage: StorageSystem, ranks: Ints, write: bool) -> TransferLoads:
    """The paths of one file per rank, stripe by stripe."""
    n, width = len(ranks), stripe_width(storage)
    check_stripes(n, storage)
    file = np.repeat(np.arange(n), width)
    server = (file * width + np.tile(np.arange(width), n)) % storage.n_working
    accelerator = plan.grid.accelerator[ranks][file]
    hops = storage.write_hops if write else storage.read_hops
    routes = to_routes(hops(accelerator, server, file + FILE_KEY * n), plan.cluster.links.latency)
    stripe = np.repeat(np.arange(n * width), np.diff(routes.start))
    latency = np.full(n, storage.spec.requests.latency)
    latency += routes.latency.reshape(n, width).max(axis=1)
    return TransferLoads(file[stripe], routes.link, routes.share / width, latency)


def stripe_width(storage: StorageSystem) -> int:
    """Servers that one file is spread over."""
    return 1 if storage.is_local else storage.spec.stripe or storage.n_working


def check_stripes(files: int, storage: StorageSystem) -> None:
    """Raise PlanError for more stripes than memory holds."""
    width = stripe_width(storage)
    if files * width > MOST_STRIPES:
        message = f"{files} files over {width} servers each are more than {MOST_STRIPES} stripes"
        way_out = f"set it to {MOST_STRIPES // files} or less, or give storage a network of its own"
        raise PlanError(Problem("", "cluster.storage.stripe", message, way_out))


def _limited(
    cluster: Cluster, storage: StorageSystem, loads: TransferLoads, size: Floats, pace: float, write: bool
) -> tuple[Cluster, TransferLoads]:
    """The cluster with a link for what each rank moves, and one for all requests; and the loads on them too."""
    asks, n = storage.spec.requests, len(size)
    parts, extra = [loads], [cluster.links]
    free, nowhere = cluster.links.n, np.zeros(1, dtype=np.int64)
    if asks.connection_bandwidth is not None:
        pace = min(pace, asks.connections * asks.connection_bandwidth)
    if np.isfinite(pace):
        extra.append(uniform_links(np.zeros(n, dtype=np.int64), nowhere, pace, 0.0))
        parts.append(TransferLoads(np.arange(n), free + np.arange(n), np.ones(n), loads.latency))
        free += n
    rate = asks.write_rate if write else asks.read_rate
    if rate is not None:
        extra.append(uniform_links(nowhere, nowhere, rate, 0.0))
        requests = np.ceil(size / asks.size) if asks.size else np.ones(n)
        parts.append(TransferLoads(np.arange(n), np.full(n, free), requests / size, loads.latency))
    every = TransferLoads(
        np.concatenate([part.flow for part in parts]),
        np.concatenate([part.link for part in parts]),
        np.concatenate([part.coefficient for part in parts]),
        loads.latency,
    )
    return replace(cluster, links=join_links(extra)), every


def _by_size(name: str, cluster: Cluster, members: NDArray[np.int32], size: Floats, loads: TransferLoads) -> Transfers:
    """One set of flows for each size above 0 that occurs; members: (n, ranks) of each flow, size: (n,)."""
    flows: JobFlows = {}
    sizes = np.unique(size[size > 0]).tolist()
    for number, each in enumerate(sizes):
        chosen = np.flatnonzero(size == each)
        place = np.full(len(size), -1)
        place[chosen] = np.arange(len(chosen))
        mine = place[loads.flow] >= 0
        start, link, coefficient = sum_loads(
            place[loads.flow[mine]], loads.link[mine], loads.coefficient[mine], len(chosen), cluster.links.n
        )
        kind, nodes = f"{name} {number}", np.ones(len(chosen), dtype=np.int64)
        flow_set = FlowSet(kind, members[chosen], False, start, link, coefficient, loads.latency[chosen], nodes)
        flows[kind] = flow_set, no_middle(link)
    return Transfers(cluster, flows, {f"{name} {number}": each for number, each in enumerate(sizes)})
