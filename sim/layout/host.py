"""Copies between accelerators and what lies in their hosts: flows over PCIe, and over the drives of a node.

Boards of a host share what their ways have in common: uplinks of switches, root ports and drives.
"""

from __future__ import annotations

import numpy as np

from sim.cluster.cluster import Cluster
from sim.cluster.hops import Hops, to_routes
from sim.inputs.records import Offload
from sim.layout.flows import FlowSet
from sim.layout.grid import RankGrid
from sim.layout.prune import Covers, no_middle

DOWN, UP = "to host", "from host"
WRITTEN, READ = "to drives", "from drives"
HOST_KINDS = (DOWN, UP, WRITTEN, READ)


def host_flows(offload: Offload, grid: RankGrid, cluster: Cluster) -> dict[str, tuple[FlowSet, Covers]]:
    """A flow of each rank for each kind of copy that it makes; none where the links of a host are not known."""
    asked = {
        DOWN: offload.optimizer or offload.activations,
        UP: offload.optimizer or offload.activations or offload.parameters,
        WRITTEN: offload.drives,
        READ: offload.drives,
    }
    return {kind: flows for kind, wanted in asked.items() if wanted and (flows := _flows(kind, grid, cluster))}


def _flows(kind: str, grid: RankGrid, cluster: Cluster) -> tuple[FlowSet, Covers] | None:
    hops = _hops(kind, grid, cluster)
    if not (hops.link >= 0).any():
        return None
    routes = to_routes(hops, cluster.links.latency)
    link, ones = routes.link.astype(np.int32), np.ones(grid.n_ranks, dtype=np.int64)
    members = np.arange(grid.n_ranks, dtype=np.int32)[:, None]
    flows = FlowSet(kind, members, False, routes.start, link, routes.share, routes.latency, ones)
    return flows, no_middle(link)


def _hops(kind: str, grid: RankGrid, cluster: Cluster) -> Hops:
    """Links of each rank in the order that a copy crosses them, (n_ranks, k)."""
    servers, accelerator = cluster.servers, grid.accelerator
    if kind in (WRITTEN, READ):
        assert cluster.storage is not None
        return cluster.storage.drive_hops(accelerator, back=kind == READ)
    way = servers.downs if kind == DOWN else servers.ups
    link = way(*cluster.places.split(accelerator))
    return Hops(link, np.ones(link.shape))
