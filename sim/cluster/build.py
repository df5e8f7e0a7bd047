"""From a resolved cluster record to arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from sim.cluster.blocks import VertexBlock
from sim.cluster.cluster import Cluster, NodeKind, node_kinds
from sim.cluster.dragonfly import build_dragonfly
from sim.cluster.fabric import Fabric, FabricSite
from sim.cluster.fat_tree import build_fat_tree
from sim.cluster.hops import join_links
from sim.cluster.places import places_of
from sim.cluster.router import NodeRouter
from sim.cluster.server import build_server, without_adapters
from sim.cluster.servers import Servers
from sim.cluster.storage import build_storage, guests, pooled
from sim.cluster.switch import build_switch
from sim.cluster.torus import build_torus
from sim.errors import ConfigError, Problem
from sim.inputs.cluster_checks import size_problems, torus_problems
from sim.inputs.records import (
    ClusterSpec,
    Degradation,
    DragonflyFabric,
    FatTreeFabric,
    GraphFabric,
    SwitchFabric,
    TorusFabric,
)
from sim.inputs.storage import Storage
from sim.ragged import ranges


def build_cluster(
    spec: ClusterSpec, degradations: Sequence[Degradation] = (), *, merge_sprayed: bool = False
) -> Cluster:
    """Number the parts of a cluster, make its link arrays and choose its router.

    spec.node must be resolved: Nodes whose accelerators are Accelerators (names already looked up).
    Degradations scale accelerators and links by name; "a<->b" means both directions.
    merge_sprayed: see `merged`. Raises ConfigError if the network does not fit the nodes or a name is not found.
    """
    kinds = node_kinds(spec)
    problems = [*size_problems(spec), *(problem for kind in kinds for problem in torus_problems(kind.node))]
    if problems:
        raise ConfigError(problems)
    if merge_sprayed:
        spec = merged(spec, [degradation.link for degradation in degradations if degradation.link])
    templates = [build_server(kind.node) for kind in kinds]
    if isinstance(spec.fabric, TorusFabric):
        templates = [without_adapters(server) for server in templates]
    counts = [kind.nodes for kind in kinds]
    servers = Servers(tuple(templates), tuple(counts))
    places = places_of(np.repeat([kind.node.accelerators for kind in kinds], counts))
    site_blocks, site = _site(spec, servers, kinds)
    fabric = _build_fabric(spec, site)
    blocks = (*site_blocks, *(fabric.blocks if fabric else ()))
    links = join_links([servers.links(), *([fabric.links] if fabric else [])])
    storage = None
    if isinstance(spec.storage, Storage):
        storage = build_storage(spec.storage, places, servers, fabric, blocks[-1].end, links.n)
        blocks, links = (*blocks, *storage.blocks), join_links([links, storage.links])
    cluster = Cluster(
        spec=spec,
        kinds=kinds,
        places=places,
        links=links,
        speed=np.ones(places.n),
        router=NodeRouter(servers, places, fabric, links.latency),
        blocks=blocks,
        servers=servers,
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


def _site(spec: ClusterSpec, servers: Servers, kinds: tuple[NodeKind, ...]) -> tuple[list[VertexBlock], FabricSite]:
    """Adapters behind the vertices of the nodes; on a torus, the node's own vertex takes their place."""
    blocks = servers.blocks([kind.accelerator.kind for kind in kinds])
    n_guests = guests(spec.storage if isinstance(spec.storage, Storage) else None)
    if isinstance(spec.fabric, TorusFabric):
        centres = [server.n_accelerators if server.n_accelerators > 1 else 0 for server in servers.kinds]
        each = zip(servers.kinds, servers.numbers, centres, strict=True)
        endpoint = np.concatenate([server.vertices(n, np.array([centre])).ravel() for server, n, centre in each])
    else:
        adapters = servers.adapter_blocks(blocks[-1].end)
        blocks += adapters
        if n_guests:
            shape = (n_guests, servers.kinds[0].n_adapters)
            blocks.append(VertexBlock("storage-nic", "storage{}/nic{}", blocks[-1].end, shape))
        endpoint = np.arange(adapters[0].first, blocks[-1].end)
    of_place = np.concatenate([servers.kind, np.zeros(n_guests, dtype=np.int64)])  # guests as nodes of the first kind
    count = np.array([server.n_adapters for server in servers.kinds])[of_place]
    of_adapter = np.repeat(of_place, count)
    nics = [server.node.nics for server in servers.kinds]
    rate = np.array([server.adapter_rate for server in servers.kinds])
    return blocks, FabricSite(
        place=np.repeat(np.arange(len(of_place)), count),
        rail=ranges(np.zeros_like(count), count),
        endpoint=endpoint,
        rate=rate[of_adapter],
        line_rate=(rate / np.array([nic.efficiency for nic in nics]))[of_adapter],
        latency=np.array([nic.latency for nic in nics])[of_adapter],
        first_vertex=blocks[-1].end,
        first_link=servers.n_links,
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
    if not site.n or site.rate.min() <= 0:
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
