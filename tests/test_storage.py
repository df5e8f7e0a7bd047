"""Storage systems as parts of the cluster: what is drawn, where paths lead, what limits them."""

from __future__ import annotations

from typing import Any

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import LEAF_SPINE, Fields, small_experiment

from sim.ask.run.step import simulate_step
from sim.cluster.build import build_cluster
from sim.cluster.cluster import Cluster
from sim.cluster.export import graph, summary
from sim.cluster.hops import Hops
from sim.errors import ConfigError
from sim.inputs.checks import check_experiment
from sim.inputs.records import Experiment
from sim.layout.plan import Plan, build_plan
from sim.layout.transfers import file_transfers
from sim.programs.drains import transfer_seconds

SYSTEM: Fields = {"name": "store", "servers": 4, "read_bandwidth": 8e9, "write_bandwidth": 4e9}
LAYERS: dict[str, Any] = {"parallelism": {"tensor": 8}, "training": {"global_batch": 32}}
DRIVES = {True: ("storage-port-storage", "host-nvme"), False: ("storage-storage-port", "nvme-host")}
KINDS: dict[str, Fields] = {
    "a network of its own": {},
    "stripes on a network of its own": {"stripe": 2, "network": {"kind": "own", "node_bandwidth": 3e9}},
    "the compute network": {"network": {"kind": "compute"}},
    "copies": {"kind": "replicated", "replication": 3},
    "copies over the compute network": {"kind": "replicated", "replication": 2, "network": {"kind": "compute"}},
    "local drives": {"kind": "local_nvme"},
}


def experiment(storage: Fields, nodes: int = 4, fabric: Fields | None = None, **others: Any) -> Experiment:
    """A small job on a cluster with that storage."""
    plain = small_experiment(nodes=nodes, fabric=fabric, **(LAYERS | others))
    cluster = plain.setup.cluster.model_dump() | {"storage": {**SYSTEM, **storage}}
    return Experiment.from_si(plain.model_dump() | {"cluster": cluster})


def cluster_of(storage: Fields, *, merge: bool = False, **others: Any) -> Cluster:
    return build_cluster(experiment(storage, **others).setup.cluster, merge_sprayed=merge)


def plan_of(storage: Fields, **others: Any) -> Plan:
    made = experiment(storage, **others)
    merge = made.simulation.prune == "auto"
    return build_plan(made, build_cluster(made.setup.cluster, made.degradations, merge_sprayed=merge))


def seconds(plan: Plan, size: float, *, write: bool = True, pace: float = np.inf, ranks: slice = slice(None)) -> float:
    """Time of one file of `size` bytes for each of `ranks`."""
    assert plan.cluster.storage is not None
    sizes = np.zeros(plan.grid.n_ranks)
    sizes[ranks] = size
    return transfer_seconds(plan, file_transfers(plan, plan.cluster.storage, sizes, pace, write=write))


def walked(cluster: Cluster, hops: Hops) -> list[str]:
    """Links of the first path, in order."""
    return [cluster.link_name(int(link)) for link in hops.link[0] if link >= 0]


# --- what is drawn ------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", KINDS.values(), ids=KINDS)
def test_storage_leaves_the_step_as_it_is(storage: Fields) -> None:
    fabric = {**LEAF_SPINE, "rail_optimized": True}
    without = small_experiment(nodes=4, fabric=fabric, **LAYERS)
    beside = experiment(storage, fabric=fabric)
    assert simulate_step(beside).trace.time == pytest.approx(simulate_step(without).trace.time, rel=1e-12)


@pytest.mark.parametrize("storage", KINDS.values(), ids=KINDS)
def test_servers_are_vertices_that_every_accelerator_reaches(storage: Fields) -> None:
    drawn = graph(cluster_of(storage))
    kinds = nx.get_node_attributes(drawn, "kind")
    servers = [name for name, kind in kinds.items() if kind in ("storage", "nvme")]
    assert len(servers) == 4  # servers, or nodes
    for server in servers:
        near = nx.shortest_path(drawn, "node3/gpu0", server)
        assert near[0] == "node3/gpu0"
        assert nx.has_path(drawn, server, "node0/gpu7")


def test_summary_counts_servers_and_their_links() -> None:
    facts = summary(cluster_of(KINDS["a network of its own"]))
    assert facts["vertices"]["storage"] == 4
    rates = {link["kind"]: (link["count"], link["rate"]) for link in facts["links"]}
    assert rates["storage-port-storage"] == (4, 1e9)
    assert rates["storage-storage-port"] == (4, 2e9)


def test_bisection_is_that_of_the_nodes() -> None:
    on_fabric = summary(cluster_of(KINDS["the compute network"], fabric=LEAF_SPINE))["bisection"]
    beside = summary(cluster_of(KINDS["a network of its own"], fabric=LEAF_SPINE))["bisection"]
    assert on_fabric == beside == 4 * 8 * 25e9 / 2


def test_paths_by_name() -> None:
    one, server, key = np.array([9]), np.array([2]), np.array([0])
    own = cluster_of(KINDS["a network of its own"])
    assert own.storage is not None
    assert walked(own, own.storage.write_hops(one, server, key)) == [
        "node1/host->storage-switch", "storage-switch->storage2/port", "storage2/port->storage2",
    ]  # fmt: skip
    assert walked(own, own.storage.read_hops(one, server, key)) == [
        "storage2->storage2/port", "storage2/port->storage-switch", "storage-switch->node1/host",
    ]  # fmt: skip
    fabric = cluster_of(KINDS["copies over the compute network"])
    assert fabric.storage is not None
    assert walked(fabric, fabric.storage.write_hops(one, server, key)) == [
        "node1/nic1->switch0", "switch0->storage2/nic1", "storage2/port->storage2",
        "storage2/nic1->switch0", "switch0->storage3/nic1", "storage3/port->storage3",
    ]  # fmt: skip
    local = cluster_of(KINDS["local drives"])
    assert local.storage is not None
    assert walked(local, local.storage.write_hops(one, server, key)) == ["node1/host->node1/nvme"]


def test_a_drawn_network_names_its_storage_servers() -> None:
    wires = [{"source": name, "target": "sw", "bandwidth": 50e9} for name in ("a", "b", "disk")]
    nodes = [{"id": "sw"}, {"id": "a", "kind": "node"}, {"id": "disk", "kind": "storage"}, {"id": "b", "kind": "node"}]
    fabric = {"kind": "graph", "nodes": nodes, "links": wires}
    cluster = cluster_of({"servers": 1, "network": {"kind": "compute"}}, nodes=2, fabric=fabric)
    assert cluster.storage is not None
    path = walked(cluster, cluster.storage.read_hops(np.array([8]), np.array([0]), np.array([0])))
    assert path == ["storage0->storage0/port", "storage0/nic0->disk", "disk->sw", "sw->b", "b->node1/nic0"]
    with pytest.raises(ConfigError, match="1 vertices of kind storage, the cluster has 2"):
        cluster_of({"servers": 2, "network": {"kind": "compute"}}, nodes=2, fabric=fabric)


# --- what limits a transfer -----------------------------------------------------------------------


@given(st.integers(1, 6), st.floats(1e8, 1e11), st.floats(1e8, 1e11), st.floats(1e8, 1e11))
@settings(max_examples=25)
def test_the_slowest_part_sets_the_pace(servers: int, write: float, node: float, server: float) -> None:
    network = {"kind": "own", "node_bandwidth": node, "server_bandwidth": server}
    plan = plan_of({"servers": servers, "write_bandwidth": write, "network": network})
    rate = min(write, 4 * node, servers * server)
    assert seconds(plan, 1e9) == pytest.approx(32e9 / rate, rel=1e-9)


@pytest.mark.parametrize(
    "storage", [KINDS["a network of its own"], KINDS["copies"], {"failed_servers": 1, "capacity": 1e15}]
)
@pytest.mark.parametrize("write", [True, False])
def test_servers_drawn_as_one_are_as_good(storage: Fields, write: bool) -> None:
    each = plan_of(storage, simulation={"prune": "off"})
    one = plan_of(storage)
    assert each.cluster.links.n > one.cluster.links.n
    assert seconds(each, 1e9, write=write) == pytest.approx(seconds(one, 1e9, write=write), rel=1e-9)
    assert each.cluster.storage is not None
    assert one.cluster.storage is not None
    assert each.cluster.storage.capacity == one.cluster.storage.capacity


def test_a_slow_server_is_not_drawn_with_the_others() -> None:
    slow = "storage1/port->storage1"
    plain = plan_of({"servers": 4})
    hurt = plan_of({"servers": 4}, degradations=[{"link": slow, "factor": 0.5}])
    other = plan_of({"servers": 4}, degradations=[{"link": "node0/nic0->switch0", "factor": 0.5}])
    assert seconds(hurt, 1e9) == pytest.approx(2 * seconds(plain, 1e9))  # every file has a stripe on it
    assert other.cluster.links.n == plain.cluster.links.n
    assert seconds(other, 1e9) == pytest.approx(seconds(plain, 1e9))


@pytest.mark.parametrize("storage", KINDS.values(), ids=KINDS)
def test_folding_does_not_move_a_transfer(storage: Fields) -> None:
    folded, flat = (plan_of(storage, simulation={"fold": fold, "certificate": True}) for fold in ("auto", "off"))
    for write in (True, False):
        alike = [seconds(plan, 1e9, write=write, ranks=slice(0, 24)) for plan in (folded, flat)]
        assert alike[0] == pytest.approx(alike[1], rel=1e-9)


@given(
    st.sampled_from(sorted(KINDS)),
    st.integers(0, 1),
    st.lists(st.sampled_from([0.0, 1e6, 3e9]), min_size=32, max_size=32),
)
@settings(max_examples=25)
def test_every_byte_arrives_as_often_as_it_is_kept(kind: str, failed: int, sizes: list[float]) -> None:
    """What leaves the ranks reaches drives `replication` times, and comes back once; no failed server takes part."""
    plan = plan_of({**KINDS[kind], "failed_servers": failed}, simulation={"prune": "off"})
    cluster, storage = plan.cluster, plan.cluster.storage
    assert storage is not None
    size = np.array(sizes)
    for write in (True, False):
        transfers = file_transfers(plan, storage, size, np.inf, write=write)
        carried = np.zeros(cluster.links.n)
        for name, (flows, _) in transfers.flows.items():
            np.add.at(carried, flows.link, flows.coefficient * transfers.size[name])
        by_kind: dict[str, float] = {}
        for link in np.flatnonzero(carried).tolist():
            by_kind[cluster.link_kind(link)] = by_kind.get(cluster.link_kind(link), 0.0) + carried[link]
            names = cluster.link_name(link)
            assert storage.is_local or failed == 0 or "storage3" not in names
        drives = sum(part for kind, part in by_kind.items() if kind in DRIVES[write])
        copies = storage.spec.replication if write else 1
        assert drives == pytest.approx(copies * size.sum(), rel=1e-12)
        if storage.has_own_network:
            near = "host-storage-switch" if write else "storage-switch-host"
            assert by_kind.get(near, 0.0) == pytest.approx(size.sum(), rel=1e-12)


def test_failed_servers_leave_their_load_to_the_others() -> None:
    assert seconds(plan_of({"failed_servers": 1}), 1e9) == pytest.approx(32e9 / 3e9)
    striped = plan_of({"failed_servers": 1, "stripe": 1})
    assert seconds(striped, 1e9) == pytest.approx(11e9 / 1e9)  # 32 files on 3 servers of 1 GB/s: one has 11


def test_copies_multiply_writes_and_traffic_between_servers() -> None:
    plan = plan_of({"kind": "replicated", "replication": 3})
    assert seconds(plan, 1e9) == pytest.approx(3 * 32e9 / 4e9)
    assert seconds(plan, 1e9, write=False) == pytest.approx(32e9 / 8e9)
    ports = plan_of({"kind": "replicated", "replication": 3, "network": {"kind": "own", "server_bandwidth": 0.5e9}})
    assert seconds(ports, 1e9) == pytest.approx(3 * 32e9 / 2e9)  # in: three times what nodes send


def test_copies_cross_the_compute_network() -> None:
    """Two nodes' adapters of 25 GB/s feed two servers, each of which passes everything on to the other."""
    node = {"accelerators": 1, "local": {"kind": "none", "bandwidth": 0.0}, "nics": {"count": 1}}
    shape = {"nodes": 4, "node": node, "parallelism": {}, "training": {"global_batch": 4}}
    system = {"servers": 2, "write_bandwidth": 1e12, "network": {"kind": "compute"}}
    once = plan_of(system, **shape)
    twice = plan_of({**system, "kind": "replicated", "replication": 2}, **shape)
    assert seconds(once, 1e9) == pytest.approx(4e9 / 50e9, rel=1e-3)
    assert seconds(twice, 1e9) == pytest.approx(8e9 / 50e9, rel=1e-3)


def test_requests_and_connections_of_an_object_store() -> None:
    """Amazon S3 stands 5,500 reading and 3,500 writing requests per second and prefix (AWS re:Post)."""
    asks = {"size": 8e6, "read_rate": 5500, "write_rate": 3500, "latency": 0.15}
    fast = {"kind": "object_store", "read_bandwidth": 1e13, "write_bandwidth": 1e13, "requests": asks}
    assert seconds(plan_of(fast), 1e9, write=False) == pytest.approx(0.15 + 32 * 125 / 5500)
    assert seconds(plan_of(fast), 1e9) == pytest.approx(0.15 + 32 * 125 / 3500)
    assert seconds(plan_of(fast), 1e3) == pytest.approx(0.15 + 32 / 3500)  # a small file is one request too
    narrow = {**fast, "requests": {**asks, "connection_bandwidth": 90e6, "connections": 2}}
    assert seconds(plan_of(narrow), 1e9, ranks=slice(0, 1)) == pytest.approx(0.15 + 1e9 / 180e6)


def test_local_drives_serve_their_own_node() -> None:
    plan = plan_of(KINDS["local drives"])
    assert seconds(plan, 1e9) == pytest.approx(8e9 / 4e9)
    assert seconds(plan, 1e9, write=False, ranks=slice(0, 3)) == pytest.approx(3e9 / 8e9)


# --- wrong input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("storage", "others", "message"),
    [
        ({"failed_servers": 4}, {}, "4 of 4 servers have failed"),
        ({"stripe": 5}, {}, "files spread over 5 servers, 4 work"),
        ({"replication": 2}, {}, "2 copies in a system of kind parallel_file_system"),
        ({"kind": "replicated", "replication": 5}, {}, "5 copies on 4 working servers"),
        ({"kind": "local_nvme", "network": {"kind": "compute"}}, {}, "local drives are not on a network"),
        ({"network": {"kind": "compute"}}, {"nodes": 1}, "there is no network between nodes"),
    ],
)
def test_wrong_storage_is_explained(storage: Fields, others: dict[str, Any], message: str) -> None:
    shape: dict[str, Any] = {"nodes": 4, "training": {"global_batch": 32}} | others
    found = check_experiment(experiment(storage, **shape))
    assert any(message in str(problem) for problem in found), found
    assert all(problem.suggestion for problem in found)


def test_stripes_without_end_are_refused() -> None:
    many = {"servers": 100_000, "stripe": 99_000, "read_bandwidth": 1e12, "write_bandwidth": 1e12}
    plan = plan_of({**many, "network": {"kind": "own"}}, nodes=8, training={"global_batch": 64})
    with pytest.raises(ConfigError, match="set it to 62500 or less"):
        seconds(plan, 1e9)
