"""The hardware catalogue: everything loads, builds, and names its sources and its published rates."""

from __future__ import annotations

import json

import pytest
from uncovered import uncovered_numbers

from sim.cluster.build import build_cluster
from sim.cluster.export import summary
from sim.comm.tuner import floor_and_ramp
from sim.inputs.catalogue import list_catalogue
from sim.inputs.load import load_definition
from sim.inputs.records import Accelerator, ClusterSpec, FatTreeFabric, Node

ENTRIES = [(kind, name) for kind in ("accelerator", "node", "cluster") for name in list_catalogue(kind)]
GROWING = [
    name
    for name in list_catalogue("cluster")
    if isinstance(load_definition("cluster", name).fabric, FatTreeFabric)  # type: ignore[attr-defined]
]


def cluster_of(name: str, *overrides: str) -> ClusterSpec:
    spec = load_definition("cluster", name, overrides)
    assert isinstance(spec, ClusterSpec)
    return spec


def node_of(name: str) -> tuple[Node, Accelerator]:
    node = load_definition("node", name)
    assert isinstance(node, Node)
    assert isinstance(node.accelerator, Accelerator)
    return node, node.accelerator


@pytest.mark.parametrize(("kind", "name"), ENTRIES)
def test_every_number_has_a_source(kind: str, name: str) -> None:
    record = load_definition(kind, name)
    assert uncovered_numbers(record) == []
    assert getattr(record, "name", "") == name


@pytest.mark.parametrize("name", list_catalogue("cluster"))
def test_every_cluster_builds_and_sums_up(name: str) -> None:
    data = summary(build_cluster(cluster_of(name)))
    assert json.loads(json.dumps(data, allow_nan=False)) == data


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("nodes", [1, 16, 130, 16384])
def test_fat_trees_grow_with_their_nodes(name: str, nodes: int) -> None:
    assert build_cluster(cluster_of(name, f"nodes={nodes}")).n_nodes == nodes


# Bus bandwidth of a large all-reduce on eight accelerators [B/s]: Azure/AI-benchmarking-guide (A100, H100) and
# stas00/ml-engineering (H200, B200), vTrain (V100). 3 %: the spread between those tables for the same hardware.
PUBLISHED_RINGS = {
    "dgx-1v": (134e9, 2**30),
    "dgx-a100": (231.6e9, 2**33),
    "dgx-h200": (367.2e9, 2**34),
    "dgx-b200": (682.2e9, 2**33),
}
PUBLISHED_IN_NETWORK = {
    "dgx-h100": (478.9e9, 2**33),
    "dgx-h200": (480e9, 2**34),
    "dgx-b200": (838e9, 2**33),
}


def bus_bandwidth(size: float, start: float, node: Node, rate: float) -> float:
    """2(n-1)/n S over the time that the start-up, the ramp and the rate [B/s of bus bandwidth] give."""
    traffic = 2 * (node.accelerators - 1) / node.accelerators * size
    tuning = node.collectives
    floor, ramp = floor_and_ramp(tuning, 1, size)
    return traffic / max(floor, start + ramp + traffic / rate)


@pytest.mark.parametrize("name", PUBLISHED_RINGS)
def test_large_rings_reach_the_published_bus_bandwidth(name: str) -> None:
    published, size = PUBLISHED_RINGS[name]
    node, _ = node_of(name)
    start = 2 * (node.accelerators - 1) * node.collectives.ring_hop
    rate = node.local.bandwidth * node.local.efficiency
    assert bus_bandwidth(size, start, node, rate) == pytest.approx(published, rel=0.03)


@pytest.mark.parametrize("name", PUBLISHED_IN_NETWORK)
def test_large_in_network_reductions_reach_the_published_bus_bandwidth(name: str) -> None:
    published, size = PUBLISHED_IN_NETWORK[name]
    node, _ = node_of(name)
    n = node.accelerators
    rate = 2 * (n - 1) / n * node.local.bandwidth * node.local.reduction_efficiency / (1 + 1 / n)
    assert bus_bandwidth(size, node.collectives.in_network, node, rate) == pytest.approx(published, rel=0.03)


def test_numbers_of_the_data_sheets_arrive_in_si_units() -> None:
    node, accelerator = node_of("dgx-a100")
    assert accelerator.matrix.peak.bf16 == 312e12
    assert accelerator.memory.capacity == 80 * 2**30
    assert (node.nics.bandwidth, node.local.bandwidth) == (25e9, 300e9)


def test_variants_change_only_what_they_say() -> None:
    (large, big), (small, little) = node_of("dgx-a100"), node_of("dgx-a100-40gb")
    assert large.local == small.local
    assert big.matrix == little.matrix
    assert (big.memory.bandwidth, little.memory.bandwidth) == (2039e9, 1555e9)


def test_the_scalable_units_of_a_superpod_are_full_fat_trees() -> None:
    data = summary(build_cluster(cluster_of("dgx-a100-superpod")))
    assert (data["vertices"]["leaf"], data["vertices"]["spine"]) == (56, 80)
    rate = {links["kind"]: links["rate"] * links["count"] for links in data["links"]}
    assert rate["leaf-spine"] == pytest.approx(rate["nic-leaf"])
    assert rate["spine-core"] == pytest.approx(rate["nic-leaf"])
