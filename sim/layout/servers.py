"""The ways of workers to parameter servers and back, as flows: one for each worker and server.

A rank sends the part of the gradients that it alone has in its worker, over its adapter to the server's on its rail,
as it reaches storage on the compute network; so many workers meet at the adapters of a server (incast). What it sends
to a server on its own node goes over PCIe alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from sim.cluster.cluster import Cluster
from sim.cluster.hops import Hops, chain, hop, to_routes
from sim.comm.pattern import sum_loads
from sim.errors import PlanError, Problem
from sim.inputs.synchronization import ParameterServers
from sim.layout.flows import FlowSet
from sim.layout.fold import Partition, identity_partition, refine
from sim.layout.plan import Plan, fold_structure
from sim.layout.prune import no_middle
from sim.layout.state import trained_shares

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
SERVER_KEY = 30  # feeds the hash that chooses among equal paths
MOST_WAYS = 4_096  # of workers that nobody is equal to: some seconds of sharing rates
PUSH, PULL = "push", "pull"


@dataclass(frozen=True)
class ServerPlan:
    """A plan whose flows are those between workers and servers, and equal servers in groups.

    parameters: of the model, trained. servers: of each group. push, pull: flow class from each worker to a group, and
    back, (workers, groups); their latencies alike [s].
    """

    plan: Plan
    parameters: float
    servers: Ints
    push: Ints
    pull: Ints
    push_latency: Floats
    pull_latency: Floats

    @property
    def n_servers(self) -> int:
        """All servers."""
        return int(self.servers.sum())


def server_nodes(plan: Plan, way: ParameterServers) -> Ints:
    """The nodes that hold a server, spread evenly over those that may."""
    used = np.unique(plan.cluster.node_of(plan.grid.accelerator))
    free = np.setdiff1d(np.arange(plan.cluster.n_nodes), used) if way.placement == "own" else used
    servers = way.servers or len(free)
    if not len(free) or servers > len(free):
        message = f"{servers} servers, {len(free)} nodes that may hold one"
        raise PlanError(Problem("", "synchronization.servers", message, "use fewer, or more nodes"))
    return np.asarray(free[np.arange(servers) * len(free) // servers])


def lay_out_servers(plan: Plan, way: ParameterServers) -> ServerPlan:
    """The ways between the workers of a plan and their servers, folded unless `simulation.fold` is off.

    Workers are never one another's equals: they are at different places of their steps. Raises PlanError.
    """
    workers, nodes = plan.experiment.setup.workers, server_nodes(plan, way)
    parameters, own = trained_shares(plan)
    sets = tuple(_flow_set(plan, kind, nodes, own / parameters) for kind in (PUSH, PULL))
    flows = {each.kind: (each, no_middle(each.link)) for each in sets}
    label, options = plan.grid.coordinate["data"], plan.experiment.simulation
    structure, links, apart = fold_structure(label, plan.grid.accelerator, plan.cluster, flows, options.prune == "auto")
    partition = refine(structure) if options.fold == "auto" else identity_partition(structure)
    groups = _groups(partition, workers)
    if groups is None:
        partition = identity_partition(structure)
        groups = np.arange(len(nodes))
    first = np.unique(groups, return_index=True)[1]
    if workers * len(first) > MOST_WAYS:
        ways = f"{workers * len(first)} ways"
        message = f"{workers} workers and {len(first)} unequal servers have {ways}, above {MOST_WAYS}"
        raise PlanError(Problem("", "synchronization.servers", message, f"use at most {MOST_WAYS // workers}"))
    push, pull = (partition.flow[number].reshape(workers, -1)[:, first] for number in (0, 1))
    latency = [each.latency.reshape(workers, -1)[:, first] for each in sets]
    folded = replace(
        plan,
        structure=structure,
        flows=sets,
        apart=apart,
        flow_sets={PUSH: 0, PULL: 1},
        links=links,
        partition=partition,
        rows=None,
    )
    return ServerPlan(folded, parameters, np.bincount(groups), push, pull, *latency)


def _groups(partition: Partition, workers: int) -> Ints | None:
    """Number of the group of each server, all of which every worker reaches alike; None if some reach but a part so."""
    columns = np.concatenate([each.reshape(workers, -1) for each in partition.flow])
    kinds, group = np.unique(columns, axis=1, return_inverse=True)
    distinct = (len(np.unique(row)) == kinds.shape[1] for row in kinds)
    return group.ravel() if all(distinct) else None


def _flow_set(plan: Plan, kind: str, nodes: Ints, share: Floats) -> FlowSet:
    """Flows from each worker to each server, or back; share: (n_ranks,) of the bytes of its worker."""
    grid, servers = plan.grid, len(nodes)
    worker = grid.coordinate["data"]
    rank, server = np.repeat(np.arange(grid.n_ranks), servers), np.tile(np.arange(servers), grid.n_ranks)
    flow, part = worker[rank] * servers + server, share[rank]
    hops = _hops(plan.cluster, grid.accelerator[rank], nodes[server], flow + SERVER_KEY * grid.n_ranks, kind == PULL)
    routes = to_routes(hops, plan.cluster.links.latency)
    owner, n = np.repeat(np.arange(len(rank)), np.diff(routes.start)), grid.size["data"] * servers
    loads = sum_loads(flow[owner], routes.link, part[owner] * routes.share, n, plan.cluster.links.n)
    latency, under_way = np.zeros(n), np.zeros(n)
    np.maximum.at(latency, flow, routes.latency)
    np.maximum.at(under_way, flow, part * routes.latency)
    first = np.unique(worker, return_index=True)[1]
    members = np.repeat(first, servers)[:, None].astype(np.int32)
    return FlowSet(kind, members, False, *loads, latency, np.full(n, 2), under_way=under_way)


def _hops(cluster: Cluster, accelerator: Ints, node: Ints, key: Ints, back: bool) -> Hops:
    """From each accelerator to the memory of a host; or `back`."""
    servers, (here, local) = cluster.servers, cluster.places.split(accelerator)
    near = hop((servers.entries if back else servers.exits)(here, local))
    outside = here != node
    if cluster.fabric is None or not outside.any():
        return near
    last = np.diff(servers.first_adapter)[node] - 1  # other kinds of node may have fewer
    own, other = servers.adapter(here, local), servers.first_adapter[node] + np.minimum(servers.rail(here, local), last)
    source, target = (other, own) if back else (own, other)
    between = cluster.fabric.hops(source, target, key).where(outside)
    return chain([between, near] if back else [near, between])
