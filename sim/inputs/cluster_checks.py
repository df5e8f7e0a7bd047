"""Whether the parts of a cluster can be joined: one small check per rule.

Public: `CLUSTER_CHECKS`, `fabric_places`, `size_problems`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from sim.errors import Problem, finding
from sim.inputs.energy import Prices
from sim.inputs.findings import Check, of_each_kind
from sim.inputs.records import ClusterSpec, DragonflyFabric, FatTreeFabric, GraphFabric, Node, SwitchFabric, TorusFabric
from sim.inputs.setup import Setup

MOST_ON_RING = 64
MOST_LINKS = 16_000_000  # some 1.5 GB while they are built


@of_each_kind
def check_node_network(setup: Setup) -> Iterator[Problem]:
    """Several accelerators in a node are joined by a network with a rate."""
    node = setup.node
    joined = node.local.bandwidth > 0 if node.local.kind != "none" else node.nics.bandwidth > 0
    if node.accelerators > 1 and not joined:
        message = f"{node.accelerators} accelerators a node without a network between them"
        yield finding("cluster.node.local.bandwidth", message, "give local a kind and a bandwidth")
    if node.local.kind == "ring" and node.accelerators > MOST_ON_RING:
        message = f"a ring of {node.accelerators} accelerators, more than {MOST_ON_RING}"
        yield finding("cluster.node.local.kind", message, "use switch or mesh")


@of_each_kind
def check_torus(setup: Setup) -> Iterator[Problem]:
    """The grid of a torus inside a node has a place for each accelerator, and may be twisted."""
    yield from torus_problems(setup.node)


def torus_problems(node: Node) -> Iterator[Problem]:
    """What is wrong with the shape of a torus inside a node."""
    local, key = node.local, "cluster.node.local"
    if local.kind != "torus":
        return
    text, places = " x ".join(str(size) for size in local.shape), math.prod(local.shape) if local.shape else 0
    if places != node.accelerators:
        message = f"a torus of {text or 'no shape'} holds {places} accelerators, not {node.accelerators}"
        yield finding(f"{key}.shape", message, "give as many along each dimension as make that product")
    elif local.wrap and len(local.wrap) != len(local.shape):
        message = f"{len(local.wrap)} values for {len(local.shape)} dimensions"
        yield finding(f"{key}.wrap", message, "say true or false for each")
    elif local.twisted and not (len(local.shape) == 3 and all(local.wrap) and max(local.shape) == 2 * min(local.shape)):
        message = f"a torus of {text} cannot be twisted"
        yield finding(f"{key}.twisted", message, "use n x n x 2n or n x 2n x 2n with all dimensions closed")


def check_fabric_present(setup: Setup) -> Iterator[Problem]:
    """Several nodes are joined by a fabric, and switches meet adapters that have a rate."""
    nodes = setup.experiment.nodes or setup.cluster.nodes
    if nodes == 1:
        return
    if setup.cluster.fabric is None:
        yield finding("cluster.fabric", f"{nodes} nodes and no network between them", "give the cluster a fabric")
    elif isinstance(setup.cluster.fabric, SwitchFabric | FatTreeFabric):
        yield from _check_adapters(setup)


@of_each_kind
def _check_adapters(setup: Setup) -> Iterator[Problem]:
    """Adapters that meet switches have a rate."""
    if setup.node.nics.count * setup.node.nics.bandwidth == 0:
        message = f"{setup.experiment.nodes or setup.cluster.nodes} nodes whose adapters have no rate"
        yield finding("cluster.node.nics", message, "give nics a count and a bandwidth")


def check_kinds(setup: Setup) -> Iterator[Problem]:
    """Kinds of node add up to the cluster, keep their proportion where it is resized, and meet on the network."""
    cluster, wanted = setup.cluster, setup.experiment.nodes
    if not isinstance(cluster.node, tuple):
        return
    counts = [group.nodes for group in cluster.node]
    text, total = " + ".join(map(str, counts)), sum(counts)
    if cluster.nodes != total:
        message = f"{cluster.nodes} nodes, and the kinds are {text} = {total}"
        yield finding("cluster.nodes", message, "leave it out, or give `nodes` beside the cluster to resize all kinds")
    elif wanted and any(wanted * count % total for count in counts):
        step = total // math.gcd(*counts)
        way_out = f"use a multiple of {step}, or set the counts in cluster.node"
        yield finding("nodes", f"{wanted} nodes do not divide over kinds of {text}", way_out)
    if isinstance(cluster.fabric, TorusFabric):
        message = "a torus joins nodes of one kind"
        yield finding("cluster.fabric.kind", message, "use a switch, a fat_tree, a dragonfly or a graph")
    for number, group in enumerate(cluster.node):
        prices = group.prices
        if isinstance(prices, Prices) and prices.pay == "spot" and prices.rental.spot_preemption is not None:
            message = f"{prices.name} are taken away, which is modelled for a whole cluster alone"
            yield finding(f"cluster.node.{number}.prices.pay", message, "use cluster.prices, or pay on_demand")
    sizes = sorted({kind.node.accelerators for kind in setup.kinds})
    if setup.experiment.failures is not None and len(sizes) > 1:
        message = f"failures of nodes with {' and '.join(map(str, sizes))} accelerators in one cluster are not modelled"
        yield finding("failures", message, "leave failures out, or use nodes of one size")
    rails = {min(kind.node.nics.count, kind.node.accelerators) for kind in setup.kinds}
    if isinstance(cluster.fabric, SwitchFabric) and cluster.fabric.rail_optimized and len(rails) > 1:
        message = f"rails that nothing joins, and nodes with {' and '.join(map(str, sorted(rails)))} of them"
        yield finding("cluster.fabric.rail_optimized", message, "use a fat_tree, or adapters of the same number")


def check_fabric_holds_nodes(setup: Setup) -> Iterator[Problem]:
    """The fabric has a place for every node."""
    nodes, places = setup.experiment.nodes or setup.cluster.nodes, fabric_places(setup)
    if places is not None and nodes > places:
        key = "nodes" if setup.experiment.nodes else "cluster.nodes"
        yield finding(key, f"{nodes} nodes in a fabric with places for {places}", "enlarge the fabric")


def check_network_size(setup: Setup) -> Iterator[Problem]:
    """The links of the cluster fit into memory."""
    yield from size_problems(setup.cluster.resized(setup.experiment.nodes or setup.cluster.nodes))


def size_problems(cluster: ClusterSpec) -> Iterator[Problem]:
    """Whether a network with its switches is too large to build, by a count of its links."""
    links = count_links(cluster)
    if links > MOST_LINKS:
        message = f"about {links:,} links between accelerators, adapters and switches, more than {MOST_LINKS:,}"
        yield finding("cluster.fabric", message, "use fewer nodes, switches or groups")


def count_links(cluster: ClusterSpec) -> int:
    """Directed links of a cluster, rounded up where units are part full."""
    fabric, nodes = cluster.fabric, [(group.node, group.nodes) for group in cluster.groups]
    kinds = [(node, count) for node, count in nodes if not isinstance(node, str)]
    if not kinds:
        return 0
    rails = max(min(node.nics.count, node.accelerators) for node, _ in kinds)
    total = sum(count * _links_inside(node) for node, count in kinds)
    match fabric:
        case FatTreeFabric():
            units = -(-cluster.nodes // fabric.nodes_per_unit)
            leaves = units * (rails if fabric.rail_optimized else 1)
            pods = -(-units // fabric.units_per_pod) * (rails if fabric.rail_optimized else 1)
            total += 2 * leaves * fabric.spines + (2 * pods * fabric.spines * fabric.cores if fabric.tiers == 3 else 0)
        case DragonflyFabric():
            groups, routers = fabric.groups, fabric.routers_per_group
            total += groups * routers * (routers - 1) + groups * (groups - 1)
        case TorusFabric():
            total += 2 * len(fabric.shape) * math.prod(fabric.shape)
    return total


def _links_inside(node: Node) -> int:
    """Directed links of a node, those of its adapters among them."""
    n, pairs = node.accelerators, node.local.kind in ("mesh", "hybrid_cube_mesh")
    inside = n * (n - 1) if pairs else 6 * n  # to and from a switch and the PCIe complex, or six neighbours
    if node.pcie is not None:
        inside += 10 * n + node.pcie.sockets**2
    return inside + 2 * min(node.nics.count, n)


@of_each_kind
def check_pcie(setup: Setup) -> Iterator[Problem]:
    """Boards, switches and sockets of a PCIe tree can be shared out, and its links have rates."""
    node, pcie, key = setup.node, setup.node.pcie, "cluster.node.pcie"
    if pcie is None:
        return
    if node.local.kind != "pcie" and node.host.pcie_bandwidth == 0:
        message = f"a PCIe tree beside a {node.local.kind} network without a rate of its boards"
        yield finding(key, message, "use local.kind: pcie, or give host.pcie_bandwidth")
    if pcie.switches > node.accelerators:
        message = f"{pcie.switches} switches for {node.accelerators} boards"
        yield finding(f"{key}.switches", message, "at most one for each board")
    roots = pcie.switches or node.accelerators
    if pcie.sockets > roots:
        message = f"{pcie.sockets} sockets for {roots} root ports"
        yield finding(f"{key}.sockets", message, "at most one for each root port")
    if pcie.sockets > 1 and pcie.socket_bandwidth == 0:
        message = f"{pcie.sockets} sockets without a link between them"
        yield finding(f"{key}.socket_bandwidth", message, "give a bandwidth, such as 24 GB/s")


@of_each_kind
def check_patterns(setup: Setup) -> Iterator[Problem]:
    """A library runs collectives of any group: rings and exchanges do."""
    missing = [name for name in ("ring", "exchange") if name not in setup.node.collectives.patterns]
    if missing:
        message = f"a library without {' and '.join(missing)} cannot run every collective"
        yield finding("cluster.node.collectives.patterns", message, f"add {' and '.join(missing)}")


def check_graph(setup: Setup) -> Iterator[Problem]:
    """An explicit graph has one source, distinct vertices, and edges between known ones."""
    fabric = setup.cluster.fabric
    if not isinstance(fabric, GraphFabric):
        return
    key, known = "cluster.fabric", {node.id for node in fabric.nodes}
    if bool(fabric.graphml) == bool(fabric.nodes):
        yield finding(key, "a graph needs either graphml or nodes and links", "give one of the two")
    if len(known) != len(fabric.nodes):
        yield finding(f"{key}.nodes", "two vertices have the same id", "ids are unique")
    for number, link in enumerate(fabric.links):
        missing = [end for end in (link.source, link.target) if end not in known]
        if missing and fabric.nodes:
            yield finding(f"{key}.links.{number}", f"no vertex is called {missing[0]}", "list it in nodes")


def check_degradations(setup: Setup) -> Iterator[Problem]:
    """A degradation names one part: an accelerator or a link."""
    for number, slow in enumerate(setup.experiment.degradations):
        if (slow.accelerator is None) == (slow.link is None):
            yield finding(f"degradations.{number}", "name either an accelerator or a link", "")


CLUSTER_CHECKS: tuple[Check, ...] = (
    check_kinds,
    check_node_network,
    check_torus,
    check_fabric_present,
    check_fabric_holds_nodes,
    check_network_size,
    check_pcie,
    check_patterns,
    check_graph,
    check_degradations,
)


def fabric_places(setup: Setup) -> int | None:
    """Nodes that the fabric can hold; None if it grows with them."""
    fabric = setup.cluster.fabric
    if isinstance(fabric, TorusFabric):
        return math.prod(fabric.shape)
    if isinstance(fabric, DragonflyFabric):
        return fabric.groups * fabric.routers_per_group * fabric.nodes_per_router
    if isinstance(fabric, GraphFabric) and fabric.nodes:
        return sum(node.kind == "node" for node in fabric.nodes)
    return None
