"""Compressed gradients: bytes on the wire, kernels, memory, and where compression stops to pay."""

from __future__ import annotations

import json
from typing import Any

import pytest
from plans import bytes_by_link, small_experiment

from sim.ask.run.step import Simulated, simulate_step
from sim.ask.sweep.sweep_file import load_study
from sim.ask.workers.batch import run_one
from sim.devices.compute import operation_time
from sim.engine.category import Category
from sim.errors import ConfigError
from sim.inputs.compression import Compression
from sim.inputs.records import Experiment
from sim.metrics.memory import memory_result
from sim.programs.costs import Costs
from sim.workload.compression import COMPRESSORS, Gradients, compressor_of

RATE = 1e9  # B/s of the one adapter of each node
LINES = {
    "accelerators": 1, "local": {"kind": "none", "bandwidth": 0, "latency": 0},
    "nics": {"count": 1, "bandwidth": RATE, "latency": 0},
    "collectives": dict.fromkeys(("ring_hop", "ring_hop_network", "tree_hop", "tree_hop_network"), 0)
    | {"patterns": ["ring", "exchange"]},
}  # fmt: skip
WHOLE = {"gradient_bytes": 4, "gradient_comm_bytes": 4}
KINDS = sorted(COMPRESSORS)


def job(kind: str, ranks: int = 4, **fields: Any) -> Experiment:
    """One accelerator a node: a replica each, over lines of `RATE` without latency."""
    training = {"global_batch": ranks, "compression": {"kind": kind}} | fields.pop("training", {})
    software = WHOLE | fields.pop("software", {})
    return small_experiment(nodes=ranks, node=LINES, training=training, software=software, **fields)


def spent(step: Simulated, category: Category) -> float:
    """Seconds of a category in the step."""
    return step.readings.critical.exposed[category.value]


def gradients(step: Simulated) -> Gradients:
    """Those of the only stage."""
    return Costs(step.job)._gradients(0, -1, -1, ("gradient",))


def expected_wire(kind: str, count: float, ranks: int, factors: tuple[float, float]) -> float:
    """Bytes that cross the fullest link: of rings 2(n-1)/n of what is summed, of others (n-1)/n of each message."""
    scale = 4 / 256
    of_kind = {
        "fp16": 2 * 2 * count,
        "fp8": 2 * count,
        "int8": 2 * (1 + scale) * count,
        "one_bit": 2 * count / 8,
        "top_k": ranks * 0.01 * count * 8,
        "power_sgd": 2 * sum(factors),
    }
    return (ranks - 1) / ranks * of_kind[kind]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ranks", [2, 8])
def test_bytes_on_the_wire_are_those_of_closed_form(kind: str, ranks: int) -> None:
    step = simulate_step(job(kind, ranks))
    held = gradients(step)
    matrices = [each for each in held.matrices if 2 * 4 * (each[0] + each[1]) < each[0] * each[1]]
    rest = held.elements - sum(rows * columns * count for rows, columns, count in matrices)
    left, right = (4 * 4 * sum(each[side] * each[2] for each in matrices) for side in (0, 1))
    wire = expected_wire(kind, held.elements, ranks, (4 * rest + left, right))
    assert spent(step, Category.DATA_COMM) == pytest.approx(wire / RATE, rel=1e-5)
    assert bytes_by_link(step).max() == pytest.approx(wire, rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_kernels_take_what_their_passes_over_memory_take(kind: str) -> None:
    plain, step = simulate_step(job("none")), simulate_step(job(kind))
    compressor = compressor_of(Compression.model_validate({"kind": kind}))
    assert compressor
    held = gradients(step)
    kernels = (*compressor.pack(held), *compressor.unpack(held, 4, "all_reduce"))
    seconds = sum(operation_time(each, step.setup.accelerator) for each in kernels)
    assert spent(step, Category.COMPUTE) - spent(plain, Category.COMPUTE) == pytest.approx(seconds, rel=1e-9)
    assert sum(each.bytes_moved for each in kernels) > 6 * held.elements  # reads each gradient, writes each sum


def test_matrices_of_segments_are_the_weights_with_gradients() -> None:
    for zero in (0, 1, 2):
        step = simulate_step(job("fp16", parallelism={"zero_stage": zero}))
        held = gradients(step)
        vectors = held.elements - sum(rows * columns * count for rows, columns, count in held.matrices)
        assert 0 <= vectors < 0.001 * held.elements  # norms and biases


@pytest.mark.parametrize("kind", ["fp16", "fp8", "int8"])
@pytest.mark.parametrize("zero", [1, 2, 3])
def test_shards_get_their_share_of_compressed_sums(kind: str, zero: int) -> None:
    """A reduce-scatter is half of an all-reduce; weights come back as without compression."""
    plain, step = (simulate_step(job(each, parallelism={"zero_stage": zero})) for each in ("none", kind))
    width = {"fp16": 2, "fp8": 1, "int8": 1 + 4 / 256}[kind]
    less = 3 / 4 * (4 - width) * gradients(step).elements / RATE
    assert spent(plain, Category.DATA_COMM) - spent(step, Category.DATA_COMM) == pytest.approx(less, rel=0.02)


def test_each_microbatch_is_unpacked_where_each_is_summed() -> None:
    beside = {"gradient_overlap": True}
    steps = [
        simulate_step(job("int8", parallelism={"zero_stage": 2}, training={"global_batch": 4 * n}, software=beside))
        for n in (1, 3)
    ]
    operations = [sum(a.duration for a in _of(step, "decompress gradients")) for step in steps]
    assert operations[1] == pytest.approx(3 * operations[0])


def _of(step: Simulated, label: str) -> list[Any]:
    return [action for action in step.trace.program.actions if action.label == label]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_not_sent_is_kept(kind: str) -> None:
    """Feedback of errors takes as much as a gradient buffer; nobody keeps any where nobody shares."""
    held = memory_result(job(kind).setup).moments["loss"]["gradients"]
    plain = memory_result(job("none").setup).moments["loss"]["gradients"]
    kept = kind in ("one_bit", "top_k", "power_sgd")
    assert held == pytest.approx(plain * (2 if kept else 1))
    alone = memory_result(job(kind, ranks=1).setup)
    assert alone.peak_bytes_per_accelerator == memory_result(job("none", 1).setup).peak_bytes_per_accelerator


def test_top_k_stops_to_pay_at_as_many_ranks_as_its_share_has_room_for() -> None:
    """A ring moves 2 x 4 B a gradient whatever the ranks, top-k 8 B for each one that a rank chose: even at 1/share."""

    def network(kind: str, ranks: int) -> float:
        training = {"compression": {"kind": kind, "share": 0.25}}
        return spent(simulate_step(job(kind, ranks, training=training)), Category.DATA_COMM)

    assert network("top_k", 2) < network("none", 2)
    assert network("top_k", 4) == pytest.approx(network("none", 4), rel=1e-4)
    assert network("top_k", 8) > network("none", 8)


def test_compression_stops_to_pay_where_links_are_fast() -> None:
    """It saves bytes over the rate of a link, and costs kernels whatever the rate."""

    def seconds(kind: str, rate: float) -> float:
        node = LINES | {"nics": {"count": 1, "bandwidth": rate, "latency": 0}}
        training = {"global_batch": 4, "compression": {"kind": kind}}
        experiment = small_experiment(nodes=4, node=node, training=training, software=WHOLE)
        return simulate_step(experiment).trace.time

    for kind in KINDS:
        assert seconds(kind, 1e8) < seconds("none", 1e8)
        assert seconds(kind, 1e14) > seconds("none", 1e14)


@pytest.mark.parametrize(
    ("compression", "fields", "told"),
    [
        ({"kind": "top_k"}, {"parallelism": {"zero_stage": 1}}, "use fp16, fp8 or int8, or zero_stage 0"),
        ({"kind": "int8"}, {"parallelism": {"zero_stage": 3, "shard_group": 2}}, "leave shard_group out"),
        ({"kind": "power_sgd"}, {"training": {"lora": {"rank": 4}}}, "use another kind"),
        ({"kind": "fp16"}, {"synchronization": {"kind": "parameter_server"}}, "set synchronization.push_bytes"),
        ({"kind": "zip"}, {}, "fp16"),
        ({"kind": "top_k", "share": 0}, {}, "training.compression.share"),
        ({"kind": "power_sgd", "rank": 0}, {}, "training.compression.rank"),
    ],
)
def test_what_cannot_be_compressed_is_refused_with_a_way_out(
    compression: dict[str, Any], fields: dict[str, Any], told: str
) -> None:
    training = fields.pop("training", {}) | {"compression": compression}
    with pytest.raises(ConfigError, match=told):
        job("none", training=training, **fields)


@pytest.mark.parametrize(
    ("kind", "against", "pays", "stops"),
    [("top_k", "none", 64, 100), ("power_sgd", "none", 100, 200), ("power_sgd", "fp16", 100, 200)],
)
def test_the_study_finds_where_compression_stops_to_pay(kind: str, against: str, pays: int, stops: int) -> None:
    loaded = load_study("compression")

    def seconds(kind: str, gigabits: int) -> float:
        asked = {"training.compression.kind": kind, "cluster.node.nics.bandwidth": f"{gigabits} Gb/s"}
        changes = (each.changes for each in loaded.points())
        point = next(each for each in changes if {key: node.value for key, node in each} == asked)
        outcome = run_one(loaded.base.changed(point))
        return float(json.loads(outcome.fields)["step.time_s"])

    assert seconds(kind, pays) < seconds(against, pays)
    assert seconds(kind, stops) > seconds(against, stops)
    assert seconds("int8", pays) > seconds("none", pays)
