"""Power of the network: switches that the nodes need, whatever the design holds, and defaults where none is given."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from sim.ask.run.simulate import simulate
from sim.cluster.build import build_cluster
from sim.inputs.load import load_definition, load_experiment
from sim.inputs.records import ClusterSpec
from sim.metrics.energy_plant import network_power
from sim.metrics.result import EnergyResult, Result


def cluster(name: str, **changes: Any) -> ClusterSpec:
    record = load_definition("cluster", name)
    assert isinstance(record, ClusterSpec)
    return record.model_copy(update=changes)


def watts(name: str, **changes: Any) -> float:
    return network_power(build_cluster(cluster(name, **changes)))


@pytest.mark.parametrize(("units", "leaves", "spines"), [(1, 8, 4), (2, 16, 8), (4, 32, 16)])
def test_a_superpod_has_the_switches_of_its_reference_architecture(units: int, leaves: int, spines: int) -> None:
    """DGX SuperPOD H100, RA-11333-001: leaves and spines of one, two and four units of 32 servers; no cores yet.

    All ports of these switches are used, each with its optics.
    """
    expected = (leaves + spines) * (747 + 64 * 8.5)
    assert watts("dgx-h100-superpod", nodes=32 * units) == pytest.approx(expected)


def test_a_superpod_needs_cores_when_a_spine_has_no_port_for_each_leaf() -> None:
    """Two tiers up to 256 servers, three above: then all five ends of cables of each adapter."""
    port = 747 / 64 + 8.5
    assert watts("dgx-h100-superpod", nodes=256) == pytest.approx(3 * 2048 * port)
    assert watts("dgx-h100-superpod", nodes=288) == pytest.approx(5 * 2304 * port)
    assert watts("dgx-h100-superpod", nodes=2048) == pytest.approx(5 * 16384 * port)


@pytest.mark.parametrize(
    "name",
    ["dgx-h100-superpod", "dgx-a100-superpod", "meta-24k-roce", "leaf-spine", "leaf-spine-4to1", "dragonfly-128"],
)
def test_less_of_a_network_draws_less(name: str) -> None:
    """A node alone pays for no more than the ports of its adapters through every tier."""
    full = cluster(name)
    drawn = [watts(name, nodes=n) for n in (1, 2, full.nodes // 2, full.nodes)]
    assert drawn == sorted(drawn)
    assert drawn[0] < 2 * drawn[-1] / full.nodes


def test_paths_and_rates_stay_those_of_the_design() -> None:
    """Fewer nodes leave leaves, bundles and spines as they were drawn: only what is paid for is less."""
    few, many = (build_cluster(cluster("dgx-h100-superpod", nodes=n)) for n in (2, 32))
    for kind in ("leaf-spine", "spine-core"):
        rates = [
            {float(c.links.capacity[link]) for link in range(c.links.n) if c.link_kind(link) == kind}
            for c in (few, many)
        ]
        assert rates[0] == rates[1] != set()


def test_a_network_that_gives_no_power_draws_by_the_rate_of_its_ports() -> None:
    """As much as known ones of that rate, and less by what is given; 0 W has to be said."""
    own = cluster("leaf-spine")
    assert own.power.switch is None
    assert own.power.optics is None
    assert watts("leaf-spine") == pytest.approx(3 * 128 * 400 * (0.03 + 0.025))
    known = cluster("dgx-h100-superpod").power
    assert watts("leaf-spine") == pytest.approx(watts("leaf-spine", power=known), rel=0.25)
    silent = own.power.model_copy(update={"switch": 0.0, "optics": 0.0})
    assert watts("leaf-spine", power=silent) == 0
    assert watts("torus-4x4x4") == 0  # nodes joined without switches


@cache
def run(*overrides: str) -> Result:
    return simulate(load_experiment("llama3-8b-dgx-h100", overrides).experiment)


def energy_of(result: Result) -> EnergyResult:
    assert result.energy is not None
    return result.energy


def test_the_report_says_what_is_assumed_of_the_power_of_network_and_servers() -> None:
    own = "cluster={extends: leaf-spine, node: dgx-h100}"
    noted = [note for note in run(own, "nodes=2").notes if "power of the network is assumed" in note]
    assert noted == [
        "power of the network is assumed, for each Gb/s of its ports: 30 mW for switch and 25 mW for optics "
        "(cluster.power.switch and optics say it)"
    ]
    half = run(own, "nodes=2", "cluster.power={switch: 700 W}")
    assert any("Gb/s of its ports: 25 mW for optics" in note for note in half.notes)
    assert not any("power of the network" in note for note in run().notes)
    bare = "cluster.node={name: bare, accelerator: h100-sxm, accelerators: 8, local: {bandwidth: 450 GB/s}}"
    silent = "taken to draw nothing, as nobody says more: bare beside its accelerators (node.power)"
    assert silent in run(bare).notes
    stored = run("cluster={extends: dgx-h100, storage: s3}").notes
    assert "taken to draw nothing, as nobody says more: s3 (cluster.power.storage)" in stored
    for loud in ((), ("cluster={extends: dgx-h100, storage: local-nvme}",)):  # local disks are part of the host
        assert not any("draw nothing" in note for note in run(*loud).notes)


def test_twice_the_nodes_do_not_save_energy() -> None:
    """24 against 48 servers of a catalogue cluster, the same tokens: more communication costs more, and time halves.

    With all spines and cores of 1,024 servers in both, the larger seemed to need less.
    """
    plan = ("cluster=dgx-h100-superpod", "training.global_batch=768", "training.tokens=100B")
    few, many = (run(*plan, f"nodes={n}", f"parallelism.data={8 * n}") for n in (24, 48))
    assert few.run is not None
    assert many.run is not None
    assert many.run.elapsed_s < 0.6 * few.run.elapsed_s
    assert energy_of(many).total_kwh > energy_of(few).total_kwh
    assert energy_of(few).parts_kwh["network"] < 0.1 * energy_of(few).total_kwh
