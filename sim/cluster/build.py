"""From a resolved cluster record to arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sim.cluster.blocks import VertexBlock
from sim.cluster.cluster import Cluster
from sim.cluster.dragonfly import build_dragonfly
from sim.cluster.fabric import Fabric, FabricSite
from sim.cluster.fat_tree import build_fat_tree
from sim.cluster.hops import join_links
from sim.cluster.places import places_of
from sim.cluster.router import NodeRouter
from sim.cluster.server import Server, build_server, without_adapters
from sim.cluster.storage import build_storage, guests, pooled
from sim.cluster.switch import build_switch
from sim.cluster.torus import build_torus
from sim.errors import ConfigError, Problem
from sim.inputs.cluster_checks import size_problems, torus_problems
from sim.inputs.records import (
    Accelerator,
    ClusterSpec,
    Degradation,
    DragonflyFabric,
    FatTreeFabric,
    GraphFabric,
    Node,
    SwitchFabric,
    TorusFabric,
)
from sim.inputs.storage import Storage


def build_cluster(
    spec: ClusterSpec, degradations: Sequence[Degradation] = (), *, merge_sprayed: bool = False
) -> Cluster:
    """Number the parts of a cluster, make its link arrays and choose its router.

    spec.node must be a Node whose accelerator is an Accelerator (names already looked up).
    Degradations scale accelerators and links by name; "a<->b" means both directions.
    merge_sprayed: see `merged`. Raises ConfigError if the network does not fit the nodes or a name is not found.
    """
    node, accelerator = _resolved(spec)
    problems = [*size_problems(spec), *torus_problems(node)]
    if problems:
        raise ConfigError(problems)
    if merge_sprayed:
        spec = merged(spec, [degradation.link for degradation in degradations if degradation.link])
    server, places = build_server(node), places_of(np.full(spec.nodes, node.accelerators))
    if isinstance(spec.fabric, TorusFabric):
        server = without_adapters(server)
    site_blocks, site = _site(spec, server, accelerator)
    fabric = _build_fabric(spec, site)
    blocks = (*site_blocks, *(fabric.blocks if fabric else ()))
    links = join_links([server.cluster_links(spec.nodes), *([fabric.links] if fabric else [])])
    storage = None
    if isinstance(spec.storage, Storage):
        storage = build_storage(spec.storage, places, server, fabric, blocks[-1].end, links.n)
        blocks, links = (*blocks, *storage.blocks), join_links([links, storage.links])
    cluster = Cluster(
        spec=spec,
        node=node,
        accelerator=accelerator,
        places=places,
        links=links,
        speed=np.ones(places.n),
        router=NodeRouter(server, places, fabric, links.latency),
        blocks=blocks,
        server=server,
        fabric=fabric,
        storage=storage,
    )
    return _degrade(cluster, degradations) if degradations else cluster


def merged(spec: ClusterSpec, named: Sequence[str] = ()) -> ClusterSpec:
    """A sprayed fat-tree with its equal spines, and cores, drawn as one; storage servers likewise (`pooled`).

    Where every flow spreads evenly over all of them they carry the same load at any time, so one of
    their summed capacity is exactly as good, and a path is one link instead of dozens. What one of the
    links `named` may be part of stays as it is; a slow cable of a node is part of neither.
    """
    changed: dict[str, object] = {}
    if isinstance(spec.storage, Storage) and not any("storage" in link for link in named):
        changed["storage"] = pooled(spec.storage)
    spread = spec.routing.kind == "spray" and not any(map(_is_above_leaves, named))
    if spread and isinstance(spec.fabric, FatTreeFabric):
        changed["fabric"] = spec.fabric.model_copy(update={"spines": 1, "cores": 1})
    return spec.model_copy(update=changed)


def _is_above_leaves(link: str) -> bool:
    """Whether a name may be that of a link of a spine or a core."""
    return "spine" in link or "core" in link


def _resolved(spec: ClusterSpec) -> tuple[Node, Accelerator]:
    if isinstance(spec.node, str):
        raise ConfigError(Problem("", "node", f"node {spec.node!r} was not looked up"))
    if isinstance(spec.node.accelerator, str):
        raise ConfigError(Problem("", "node.accelerator", f"accelerator {spec.node.accelerator!r} was not looked up"))
    return spec.node, spec.node.accelerator


def _site(spec: ClusterSpec, server: Server, accelerator: Accelerator) -> tuple[list[VertexBlock], FabricSite]:
    """Adapters behind the vertices of the nodes; on a torus, the node's own vertex takes their place."""
    blocks = server.blocks(spec.nodes, accelerator.kind)
    n_guests = guests(spec.storage if isinstance(spec.storage, Storage) else None)
    if isinstance(spec.fabric, TorusFabric):
        centre = server.n_accelerators if server.n_accelerators > 1 else 0
        endpoint = server.vertices(spec.nodes, np.array([centre])).reshape(-1)
    else:
        adapters = VertexBlock("nic", "node{}/nic{}", blocks[-1].end, (spec.nodes, server.n_adapters))
        blocks.append(adapters)
        if n_guests:
            blocks.append(VertexBlock("storage-nic", "storage{}/nic{}", adapters.end, (n_guests, server.n_adapters)))
        endpoint = np.arange(adapters.first, blocks[-1].end)
    nics = server.node.nics
    return blocks, FabricSite(
        n_nodes=spec.nodes + n_guests,
        adapters=server.n_adapters,
        endpoint=endpoint,
        rate=server.adapter_rate,
        line_rate=server.adapter_rate / nics.efficiency,
        latency=nics.latency,
        first_vertex=blocks[-1].end,
        first_link=spec.nodes * server.links.n,
        routing=spec.routing,
        guests=n_guests,
    )


def _build_fabric(spec: ClusterSpec, site: FabricSite) -> Fabric | None:
    fabric = spec.fabric
    if fabric is None:
        if spec.nodes > 1:
            raise ConfigError(Problem("", "fabric", f"{spec.nodes} nodes need a network between them", "add a fabric"))
        return None
    if isinstance(fabric, TorusFabric):
        return build_torus(fabric, site)
    if site.rate <= 0:
        raise ConfigError(Problem("", "node.nics", "a fabric needs adapters with a bandwidth above 0"))
    return _build_switched(fabric, site)


def _build_switched(fabric: SwitchFabric | FatTreeFabric | DragonflyFabric | GraphFabric, site: FabricSite) -> Fabric:
    match fabric:
        case SwitchFabric():
            return build_switch(fabric, site)
        case FatTreeFabric():
            return build_fat_tree(fabric, site)
        case DragonflyFabric():
            return build_dragonfly(fabric, site)
        case GraphFabric():
            from sim.cluster.drawn import build_drawn  # networkx takes longer to import than most runs

            return build_drawn(fabric, site)


def _degrade(cluster: Cluster, degradations: Sequence[Degradation]) -> Cluster:
    speed, capacity = cluster.speed.copy(), cluster.links.capacity.copy()
    for degradation in degradations:
        if degradation.accelerator is not None:
            speed[cluster.find_accelerator(degradation.accelerator)] *= degradation.factor
        if degradation.link is not None:
            capacity[_links_named(cluster, degradation.link)] *= degradation.factor
    return replace(cluster, speed=speed, links=replace(cluster.links, capacity=capacity))


def _links_named(cluster: Cluster, name: str) -> list[int]:
    """One link "a->b", or both directions "a<->b"."""
    if "<->" not in name:
        return [cluster.find_link(name)]
    a, _, b = name.partition("<->")
    return [cluster.find_link(f"{a}->{b}"), cluster.find_link(f"{b}->{a}")]
