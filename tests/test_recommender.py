"""Recommenders: where tables lie, what is exchanged for them, and that nothing else knows their rows."""

from __future__ import annotations

from typing import Literal

import pytest

from sim.ask.plan.search import search_plans, winner_of
from sim.ask.run.simulate import simulate
from sim.errors import ConfigError
from sim.graph.operation import Operation, Shard
from sim.graph.tables import Table, _read, _touched
from sim.inputs.load import load_definition, load_experiment
from sim.metrics.result import Result
from sim.models.family import Architecture
from sim.models.recommender import Recommender, fullest
from sim.transforms.derive import block_of

Placement = Literal["table", "row", "column", "balanced"]
PLACEMENTS: tuple[Placement, ...] = ("table", "row", "column", "balanced")
SMALL = {
    "kind": "recommender",
    "rows": [1000, 4000, 2000, 8000],
    "hotness": [1, 10, 1, 4],
    "columns": 64,
    "bottom": [128, 64],
    "top": [256, 1],
}


def small(placement: Placement = "table", **fields: object) -> Recommender:
    return Recommender.from_si({**SMALL, "placement": placement, **fields})


def passes(model: Recommender, ranks: int, microbatch: int = 512) -> list[Operation]:
    """Operations of tables and bottom layers on one of `ranks` ranks."""
    shard = Shard(precision="fp16", microbatch=microbatch, expert=ranks)
    first = Architecture(model, shard).first
    assert first
    block = block_of(first, shard)
    return [*block.forward, *block.backward]


def run(nodes: int, **changes: object) -> Result:
    source = {
        "cluster": "dgx-h100-superpod",
        "nodes": nodes,
        "workload": "dlrm-dcnv2",
        "software": "merlin-hugectr",
        "training": {"global_batch": 55296 * nodes, "microbatch": 6912, "precision": "fp16"},
        **changes,
    }
    return simulate(load_experiment(source).experiment)


def test_dcnv2_has_the_tables_of_mlperf() -> None:
    """204,184,588 rows, 104.5 GB in 32 bit, 214 lookups a sample (mlcommons/training, torchrec_dlrm)."""
    model = load_definition("workload", "dlrm-dcnv2")
    assert isinstance(model, Recommender)
    assert sum(model.rows) == 204_184_588
    assert sum(model.lookups) == 214
    whole = Architecture(model, Shard(precision="bf16")).whole
    assert whole.tables == 128 * 204_184_588
    assert whole.parameters - whole.trained == whole.tables
    assert whole.trained == pytest.approx(16.0e6, rel=6e-3)


def test_a_traced_dlrm_does_as_much_work() -> None:
    """26 tables of one lookup and a batch of 2,048: 10.1 GFLOP forward in a trace of PyTorch."""
    model = Recommender.from_si({"kind": "recommender", "rows": [1_000_000] * 26})
    model_flops, _ = Architecture(model, Shard(precision="bf16", microbatch=2048)).flops
    assert model_flops / 3 == pytest.approx(30.2e9 / 3, rel=0.01)


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_ranks_together_hold_and_look_up_at_least_all(placement: Placement, ranks: int) -> None:
    model = small(placement)
    share = fullest(model, ranks)
    held = sum(each.rows * each.columns for each in share.tables)
    work = sum(each.lookups * each.columns for each in share.tables)
    assert ranks * work >= sum(model.lookups) * model.columns
    if placement != "table":
        assert ranks * held == sum(model.rows) * model.columns
        assert ranks * work == sum(model.lookups) * model.columns


def test_whole_tables_wait_for_the_one_that_is_looked_up_most() -> None:
    share = fullest(small("table"), 4)
    assert [each.lookups for each in share.tables] == [10]
    assert share.vectors == 64


@pytest.mark.parametrize("ranks", [2, 4])
def test_what_travels_is_what_others_asked_for(ranks: int) -> None:
    """Balanced: every rank sends its share of all vectors of the samples of all ranks, forward and backward."""
    sent = {each.name: each for each in passes(small("balanced"), ranks) if each.kind == "collective"}
    assert set(sent) == {"embeddings indices", "vectors", "vectors gradients"}
    assert {each.collective for each in sent.values()} == {"all_to_all"}
    assert sent["vectors"].message == sent["vectors gradients"].message == 2 * 512 * 4 * 64
    assert sent["embeddings indices"].message == 8 * 512 * 16
    rows = {each.name: each for each in passes(small("row"), ranks) if each.kind == "collective"}
    assert (rows["vectors"].collective, rows["vectors gradients"].collective) == ("reduce_scatter", "all_gather")
    assert rows["vectors"].message == ranks * 2 * 512 * 4 * 64


def test_vectors_travel_beside_the_bottom_layers() -> None:
    operations = passes(small("balanced"), 4)
    for name in ("vectors", "vectors gradients"):
        at = next(place for place, each in enumerate(operations) if each.name == name)
        beside = operations[at + 1 : at + 1 + operations[at].hidden_by]
        assert len(beside) >= 2
        assert all(each.name.startswith("bottom") for each in beside)


def test_alone_nothing_travels() -> None:
    assert not [each for each in passes(small(), 1) if each.kind == "collective"]


def test_rows_are_read_as_often_as_they_are_met() -> None:
    """A table of 3 rows is touched three times, however many samples; a huge one once for each lookup."""
    assert _touched(Table(3, 1, 64), 10_000) == pytest.approx(3)
    assert _touched(Table(40_000_000, 1, 64), 1000) == pytest.approx(1000, rel=1e-4)
    assert _touched(Table(1, 1, 64), 10) == 1
    assert _read(Table(40_000_000, 2, 64), 1000, 4) == 2 * 1000 * 64 * 4
    assert _read(Table(1000, 100, 64), 10_000, 4) == pytest.approx(1000 * 64 * 4)


@pytest.mark.parametrize(("kind", "state"), [("sgd", 0), ("rowwise_adagrad", 4), ("adagrad", 4 * 64)])
def test_state_of_rows_is_memory_and_no_parameter(kind: str, state: int) -> None:
    model = small(table_optimizer=kind)
    held = Architecture(model, Shard(precision="fp16")).whole
    assert held.tables == 15_000 * 64
    assert held.table_bytes == 15_000 * (64 * 4 + state)


def test_tables_have_no_part_in_gradients_and_optimizer() -> None:
    """Twice the rows take more memory, and not a byte of data-parallel traffic."""
    one, two = (run(1, workload={"extends": "dlrm-dcnv2", "table_optimizer": each}) for each in ("sgd", "adagrad"))
    assert one.step.breakdown_s["data_comm"] == pytest.approx(two.step.breakdown_s["data_comm"])
    assert one.memory.parts["optimizer"] == two.memory.parts["optimizer"]
    tables = 8 * 204_184_588 * 128 / 2
    assert two.memory.parts["weights"] - one.memory.parts["weights"] == pytest.approx(tables / 8, rel=1e-3)


def test_more_ranks_hold_less_each_and_exchange_over_the_network() -> None:
    one, eight = run(1), run(8)
    assert eight.memory.parts["weights"] < one.memory.parts["weights"] / 4
    assert eight.step.breakdown_s["expert_comm"] > one.step.breakdown_s["expert_comm"] > 0
    assert 3 < eight.step.samples_per_s / one.step.samples_per_s < 8


def test_sharded_layers_gather_no_tables() -> None:
    whole, sharded = (run(1, parallelism={"zero_stage": stage}) for stage in (0, 3))
    tables = whole.memory.parts["weights"]
    assert sharded.memory.parts["weights"] == pytest.approx(tables, rel=0.01)
    assert sharded.memory.parts["temporary"] - whole.memory.parts["temporary"] < 0.1 * tables
    assert sharded.step.time_s < 1.5 * whole.step.time_s


def test_the_search_knows_that_only_replicas_suit() -> None:
    source = {
        "cluster": "dgx-h100",
        "workload": "dlrm",
        "software": "merlin-hugectr",
        "training": {"global_batch": 65536, "microbatch": 8192, "precision": "fp16"},
    }
    experiment = load_experiment(source).experiment
    limits = {"tensor": (1, 2), "pipeline": (1, 2), "context": (1, 2), "microbatch": (4096, 8192)}
    found = search_plans(experiment, limits, top=20, jobs=1)
    assert {each.values["parallelism.data"] for each in found.plans} == {8}
    best = simulate(winner_of(experiment, found))
    assert best.step.time_s == pytest.approx(found.plans[0].step_s, rel=1e-9)


def test_a_small_job_that_does_not_fit_says_so() -> None:
    result = run(1, parallelism={"data": 1}, training={"global_batch": 6912, "microbatch": 6912, "precision": "fp16"})
    assert not result.memory.fits


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"parallelism": {"tensor": 2}}, "tables spread over all ranks"),
        ({"workload": {"extends": "dlrm-dcnv2", "hotness": [1, 2]}}, "2 entries for 26 tables"),
        ({"workload": {"extends": "dlrm-dcnv2", "bottom": [512, 64]}}, "64 columns, an embedding has 128"),
        ({"parallelism": {"expert": 4}}, "has no experts"),
    ],
)
def test_what_does_not_suit_tables_is_said(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        run(1, **changes)
    assert words in str(caught.value)
