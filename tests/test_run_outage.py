"""What a failed switch takes down follows from the graph; what it slows is asked from the step engine."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest
from cluster_cases import CASES, drawn, fat_tree, make_cluster
from lives import failures, job, recovery, saving
from plans import LEAF_SPINE, small_experiment

from sim.ask.run.lives import prepare_life
from sim.ask.run.step import simulate_step
from sim.cluster.cluster import Cluster
from sim.cluster.export import graph
from sim.cluster.outage import nodes_behind, switch_vertices, without_switch
from sim.inputs.records import Degradation
from sim.life.life import live
from sim.life.life_inputs import Slow, State


def blast(cluster: Cluster) -> dict[str, tuple[int, ...]]:
    """Nodes behind each switch, by its name."""
    names = map(cluster.vertex_name, switch_vertices(cluster).tolist())
    return dict(zip(names, nodes_behind(cluster), strict=True))


def test_a_leaf_takes_down_its_nodes_and_a_spine_none() -> None:
    found = blast(make_cluster(nodes=5, fabric=fat_tree()))
    assert found["unit0/leaf0"] == (0, 1)
    assert found["unit2/leaf0"] == (4,)
    assert all(found[f"spine{i}"] == () for i in range(4))


def test_a_rail_leaf_takes_an_adapter_from_every_node_of_its_unit() -> None:
    found = blast(make_cluster(nodes=5, fabric=fat_tree(rail_optimized=True)))
    assert found["unit0/leaf7"] == found["unit0/leaf0"] == (0, 1)


def test_the_only_spine_separates_units() -> None:
    """The largest part that is left goes on."""
    found = blast(make_cluster(nodes=5, fabric=fat_tree(spines=1)))
    assert len(found["spine0"]) == 3


def test_a_chain_of_switches_breaks_in_the_middle() -> None:
    edges = [("s0", "a"), ("s1", "a"), ("s2", "b"), ("a", "m"), ("m", "b")]
    found = blast(make_cluster(nodes=3, accelerators=2, nics=1, fabric=drawn(edges, 3)))
    assert found == {"a": (0, 1), "m": (2,), "b": (2,)}


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.get("fabric")])
def test_agrees_with_the_drawn_graph(name: str) -> None:
    """Without the switch, nodes with an adapter outside of the largest rest, by networkx."""
    cluster = make_cluster(**CASES[name])
    whole = graph(cluster).to_undirected()
    fabric = [v for v in whole if whole.nodes[v]["kind"] not in ("gpu", "nvswitch", "pcie", "host")]
    for switch, nodes in blast(cluster).items():
        rest = whole.subgraph(set(fabric) - {switch})
        adapters = [
            {int(v.partition("/")[0].removeprefix("node")) for v in part if whole.nodes[v]["kind"] == "nic"}
            for part in nx.connected_components(rest)
        ]
        largest = max(map(len, adapters))
        cut = [set().union(*(a for a in adapters if a is not kept)) for kept in adapters if len(kept) == largest]
        assert set(nodes) in cut, switch


def test_a_lost_spine_leaves_its_share_of_the_bundles() -> None:
    cluster = make_cluster(nodes=5, fabric=fat_tree())
    thinner = without_switch(cluster, int(switch_vertices(cluster)[-1]))
    assert thinner is not None
    rest = make_cluster(nodes=5, fabric=thinner.fabric.model_dump())  # type: ignore[union-attr]
    before, after = (
        sum(c for i, c in enumerate(x.links.capacity) if x.link_kind(i) == "leaf-spine") for x in (cluster, rest)
    )
    assert after == pytest.approx(before * 3 / 4)


def test_a_switch_failure_stops_the_job_and_takes_nodes_until_it_is_repaired() -> None:
    modes = failures({"component": "switch", "cause": "leaf", "mtbf": 9000.0, "repair": {"mean": 4000.0}})
    inputs = job(failures=modes, blast=((0, 1, 2, 3), ()), recovery=recovery(warm_spares=2), saving=saving(5))
    life = live(inputs, 1)
    stops = [incident for incident in life.incidents if len(incident.nodes) == 4]
    assert stops
    assert all(incident.component == "switch" for incident in life.incidents)
    assert max(span.down_nodes for span in life.spans) == 4
    assert life.badput_s["waiting"] > 0, "two spares for four nodes"


def spread_job(**fields: Any) -> Any:
    """Sixteen accelerators over a leaf-spine network, two stages."""
    return small_experiment(nodes=4, fabric=LEAF_SPINE, parallelism={"tensor": 4, "pipeline": 2}, **fields)


def test_slow_parts_go_through_the_step_engine() -> None:
    """The same step time as with the degradation written into the experiment; equal places are asked once."""
    experiment = spread_job(training={"global_batch": 64, "tokens": 1e9})
    times = prepare_life(experiment).step_times
    healthy = times(State(times.plan.grid.size["data"], ()))
    slow = times(State(times.plan.grid.size["data"], (Slow("accelerator", 2, 1, 0.5),)))
    name = times.cluster.vertex_name(int(times.cluster.places.first[2]) + 1)
    written = experiment.model_copy(update={"degradations": (Degradation(accelerator=name, factor=0.5),)})
    assert slow == pytest.approx(simulate_step(written).trace.time, rel=1e-9)
    assert slow > healthy
    asked = len(times.known)
    times(State(times.plan.grid.size["data"], (Slow("accelerator", 2, 1, 0.5),)))
    assert len(times.known) == asked
    cable = times(State(times.plan.grid.size["data"], (Slow("cable", 0, 0, 0.01),)))
    assert cable > healthy
    assert times.reasons == {}


def test_fewer_replicas_keep_their_work() -> None:
    experiment = spread_job(training={"global_batch": 64, "tokens": 1e9})
    times = prepare_life(experiment).step_times
    data = times.plan.grid.size["data"]
    assert data > 1
    assert 0 < times(State(data - 1, ())) <= times.healthy_s * 1.1, "an odd ring is a little slower"
    assert times.reasons == {}
