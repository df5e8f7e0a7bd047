"""What clouds rent out: by its own name wherever a cluster is, priced as it says, found by what people call it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_machines import run

from sim.ask.fleet.load import load_fleet
from sim.ask.run.simulate import simulate
from sim.errors import ConfigError
from sim.inputs.catalogue import CATALOGUE, find_definition, list_catalogue, serving
from sim.inputs.energy import Prices
from sim.inputs.load import load_definition, load_experiment
from sim.inputs.reader import plain, read_file
from sim.inputs.records import Accelerator, ClusterSpec, Node
from sim.metrics.result import Result
from support import Cli

INSTANCES = list(list_catalogue("instance"))
MOST = 64  # boards of an instance that is also joined with another


def parts_of(name: str) -> tuple[ClusterSpec, Node, Accelerator]:
    spec = load_definition("cluster", name)
    assert isinstance(spec, ClusterSpec)
    assert isinstance(spec.node, Node)
    assert isinstance(spec.node.accelerator, Accelerator)
    return spec, spec.node, spec.node.accelerator


def quick(*overrides: str) -> Result:
    return simulate(load_experiment("quickstart", overrides).experiment)


@pytest.mark.parametrize("name", INSTANCES)
def test_every_instance_runs_a_step_that_fits(name: str) -> None:
    """Alone, or two of them over the network that joins them."""
    _, node, board = parts_of(name)
    nodes = 2 if node.accelerators <= MOST else 1
    result = run(name, board, nodes * node.accelerators, f"nodes={nodes}")
    assert result.memory.fits
    assert result.step.time_s > 0


@pytest.mark.parametrize("name", INSTANCES)
def test_every_price_of_an_instance_is_for_its_board(name: str) -> None:
    spec, _, board = parts_of(name)
    assert spec.provider
    assert spec.nodes == 1
    if spec.prices is not None:
        assert isinstance(spec.prices, Prices)
        assert board.name in spec.prices.accelerators
        assert spec.prices.as_of


# Aggregate network of one instance [Gb/s], as the clouds print it (recalled).
PRINTED = {
    "p4d.24xlarge": 400, "p5.48xlarge": 3200, "p5en.48xlarge": 3200, "p6-b300.48xlarge": 6400, "trn1.32xlarge": 800,
    "trn1n.32xlarge": 1600, "trn2.48xlarge": 3200, "ND96asr_v4": 1600, "ND96isr_H100_v5": 3200, "a2-highgpu-8g": 100,
    "a3-megagpu-8g": 1600, "a3-ultragpu-8g": 3200, "BM.GPU4.8": 1600, "BM.GPU.H100.8": 3200,
}  # fmt: skip


@pytest.mark.parametrize("name", PRINTED)
def test_networks_are_as_printed(name: str) -> None:
    _, node, _ = parts_of(name)
    assert node.nics.count * node.nics.bandwidth == pytest.approx(PRINTED[name] * 1e9 / 8)


@pytest.mark.parametrize("kind", ["cluster", "site"])
def test_no_two_definitions_share_a_name(kind: str) -> None:
    """Nor an alias, letters of either size; a kind's names do not hide those of another that serves for it."""
    kinds = (kind, *CATALOGUE[kind].also)
    files = [file for each in kinds for file in list_catalogue(each).values()]
    names = [name.lower() for file in files for name in (file.stem, *plain(read_file(file)).get("aliases", ()))]
    assert len(names) == len(set(names))
    assert len(serving(kind)) == len(files)


@pytest.mark.parametrize(
    ("kind", "called", "meant"),
    [
        ("cluster", "p5.48xlarge", "p5.48xlarge"),
        ("cluster", "P5.48XLARGE", "p5.48xlarge"),
        ("cluster", "nd-h100-v5", "ND96isr_H100_v5"),
        ("cluster", "standard_nd96asr_v4", "ND96asr_v4"),
        ("cluster", "bm.gpu.h100.8", "BM.GPU.H100.8"),
        ("cluster", "tpu-v5e-256", "v5litepod-256"),
        ("instance", "dgx-h100", "dgx-h100"),
        ("site", "us-central1", "google-iowa"),
        ("site", "us-east-1", "aws-virginia"),
        ("site", "francecentral", "azure-paris"),
        ("site", "us-ashburn-1", "oci-virginia"),
    ],
)
def test_it_is_found_by_what_it_is_called(kind: str, called: str, meant: str) -> None:
    assert find_definition(kind, called, Path()).stem == meant


def test_an_instance_is_priced_as_it_says() -> None:
    """Eight boards by the hour, on demand; the report says whose prices these are."""
    result = quick("cluster=p5.48xlarge", "nodes=2")
    assert result.cost
    assert result.cost.usd_per_accelerator_hour == pytest.approx(12.29)
    told = "prices are those of p5.48xlarge, as none are named: aws-p5, on demand, of 2023-07 to 2025-05"
    assert any(note.startswith(told) for note in result.notes)
    reserved = quick("cluster=p5.48xlarge", "nodes=2", "cluster.prices.pay=reserved").cost
    assert reserved
    assert reserved.usd_per_accelerator_hour == pytest.approx(6.88)


def test_prices_that_are_named_are_taken() -> None:
    result = quick("cluster=p5.48xlarge", "nodes=2", "prices=neocloud-h100")
    assert result.cost
    assert result.cost.usd_per_accelerator_hour == pytest.approx(2.67)
    assert not any("as none are named" in note for note in result.notes)
    other = quick("cluster=p5.48xlarge", "nodes=2", "cluster.prices=aws-p4d")
    assert any("PRICES OF ANOTHER ACCELERATOR" in note for note in other.notes)


def test_a_price_that_a_cluster_does_not_have_is_asked_of_its_key() -> None:
    with pytest.raises(ConfigError, match=r"cluster\.prices\.pay: oci-h100 has no price for spot; use on_demand"):
        load_experiment("quickstart", ["cluster=BM.GPU.H100.8", "nodes=2", "cluster.prices.pay=spot"])


def test_a_file_may_start_from_an_instance(tmp_path: Path) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text("extends: nd-h100-v5\nname: ours\nnodes: 4\n")
    spec, _, board = parts_of(str(file))
    assert (spec.nodes, board.name) == (4, "h100-sxm")
    assert isinstance(spec.prices, Prices)
    assert spec.prices.name == "azure-nd-h100"


def test_a_fleet_pays_what_its_cluster_costs() -> None:
    jobs = [{"name": "one", "gpus": 8, "submit": "0 s", "duration": "1 h"}]
    fleet = {"name": "rented", "cluster": "p5.48xlarge", "nodes": 2, "jobs": jobs}
    loaded = load_fleet(fleet)
    assert loaded.prices
    assert loaded.prices.name == "aws-p5"
    assert any(note.startswith("prices are those of the cluster, as none are named: aws-p5") for note in loaded.notes)
    named = load_fleet({**fleet, "prices": "neocloud-h100"})
    assert named.prices
    assert named.prices.name == "neocloud-h100"
    assert not any("as none are named" in note for note in named.notes)


def test_a_list_has_a_line_for_each(cli: Cli) -> None:
    told = re.sub(r"\s+", " ", cli("list", "instances").out)
    line = "p5.48xlarge AWS, 8 x h100-sxm of 80 GiB, 3200 Gb/s of network, 98.32 USD/h on demand (2023-07 to 2025-05)"
    assert line in told
    assert "p5en.48xlarge AWS, 8 x h200 of 140 GiB, 3200 Gb/s of network, no price known" in told
    several = cli("list", "p5.48xlarge", "--set", "nodes=4", "--set", "prices.pay=spot").out
    assert "AWS, 4 nodes, each 8 x h100-sxm" in re.sub(r"\s+", " ", several)
    assert "node0/gpu7" in cli("list", "nd-a100-v4", "--all").out


@pytest.mark.parametrize(
    ("kind", "asked", "ways"),
    [
        ("cluster", "H100", "H100 is in dgx-h100, "),
        ("cluster", "h200", "h200 is an accelerator, of dgx-h200, "),
        ("cluster", "TPU v5p", "TPU v5p is in tpu-v5p-4x4x4, "),
        ("node", "mi300x-sxm", "did you mean mi300x"),
        ("cluster", "nd-h100-v6", "did you mean nd-h100-v5"),
        ("cluster", "p5.48xlarg", "did you mean p5.48xlarge"),
        ("site", "us-central2", "did you mean us-central1"),
    ],
)
def test_a_name_that_there_is_not_shows_what_may_be_meant(kind: str, asked: str, ways: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_definition(kind, asked, Path())
    assert ways in str(caught.value)


def test_a_board_finds_what_has_it(cli: Cli) -> None:
    told = cli("list", "H100")
    assert told.code == 3
    assert "what has it: cluster " in told.err
    for kind, name in (("cluster", "dgx-h100"), ("instance", "p5.48xlarge"), ("node", "dgx-h100")):
        part = next(part for part in re.split(r"[:;] ", told.err) if part.startswith(f"{kind} "))
        assert name in part.removeprefix(f"{kind} ").split("\n")[0].split(", ")
