"""What lies in host memory or on drives: its traffic over PCIe, who shares it, what hides, what plans make of it."""

from __future__ import annotations

import json
from itertools import product
from typing import Any

import numpy as np
import pytest
from plans import DRIVES, HOST, bytes_by_link, small_experiment

from sim.ask.plan.search import search_plans
from sim.ask.run.assumed import assumptions
from sim.ask.run.step import Simulated, simulate_step
from sim.ask.sweep.sweep_file import load_study
from sim.ask.workers.batch import run_one
from sim.errors import ConfigError
from sim.inputs.records import Experiment
from sim.metrics.energy_step import step_energy
from sim.metrics.memory import lacking_bytes, memory_result
from sim.programs.costs import Costs

PCIE = 20e9  # B/s of a board to its host
FAST = {"host": {"pcie_bandwidth": 1e18}}
PIPE = {"model": {"layers": 12}, "parallelism": {"pipeline": 4}}  # the last layers of no stage stay on the board


def job(offload: dict[str, bool], node: Any = HOST, **fields: Any) -> Experiment:
    training = {"global_batch": 32, "offload": offload} | fields.pop("training", {})
    return small_experiment(node=node, training=training, **fields)


def over(step: Simulated, kind: str) -> float:
    """Bytes over all links of a kind."""
    kinds = np.array([step.cluster.link_kind(number) == kind for number in range(step.cluster.links.n)])
    return float(bytes_by_link(step)[kinds].sum())


def host_comm(step: Simulated) -> float:
    return step.readings.critical.exposed["host_comm"]


def test_all_that_layers_keep_goes_down_and_comes_back() -> None:
    step, plain = simulate_step(job({"activations": True}, **PIPE)), simulate_step(job({}, **PIPE))
    kept = sum(segment.saved for chunk in step.plan.chunks[:-1] for segment in chunk.segments)
    last = sum(segment.saved for segment in step.plan.chunks[-1].segments[:-2])  # its backward passes follow at once
    each = 12 * step.plan.architecture.held(step.plan.architecture.layers[0]).kept
    assert kept + sum(segment.saved for segment in step.plan.chunks[-1].segments) == each
    moved = (kept + last) * step.plan.microbatches[0] * 2  # of two replicas
    for kind in ("gpu-pcie", "pcie-gpu"):
        assert over(step, kind) - over(plain, kind) == pytest.approx(moved)


def test_copies_hide_behind_passes_as_far_as_links_are_fast_enough() -> None:
    plain = simulate_step(job({}, node=FAST, **PIPE)).trace.time
    hidden = simulate_step(job({"activations": True}, node=FAST, **PIPE)).trace.time
    assert hidden == pytest.approx(plain, rel=1e-6)
    times = [
        simulate_step(job({"activations": True}, node={"host": {"pcie_bandwidth": rate}}, **PIPE)).trace.time
        for rate in (1e12, 1e11, 1e10, 1e9)
    ]
    assert sorted(times) == times
    # bound by the bus: a stage takes as long as its bytes down, and up again
    step = simulate_step(job({"activations": True}, node={"host": {"pcie_bandwidth": 1e9}}, **PIPE))
    bytes_of_stage = step.plan.microbatches[0] * sum(segment.saved for segment in step.plan.chunks[0].segments)
    assert step.trace.time > bytes_of_stage / 1e9


def test_the_step_of_the_host_is_gradients_down_update_weights_up() -> None:
    step = simulate_step(job({"optimizer": True}))
    count = Costs(step.job).updated_parameters(step.job.ranks[0])
    assert host_comm(step) == pytest.approx(2 * 2 * count / PCIE)
    assert step.readings.critical.exposed["optimizer"] == pytest.approx(count * 28 / 25e9)


def test_boards_behind_one_uplink_share_it() -> None:
    tree = HOST | {"pcie": {"switches": 2, "staged_efficiency": 1.0}}
    alone, shared = (host_comm(simulate_step(job({"optimizer": True}, node=node))) for node in (HOST, tree))
    assert shared == pytest.approx(4 * alone)


def test_weights_come_up_before_each_gather() -> None:
    zero = {"parallelism": {"zero_stage": 3}, "training": {"global_batch": 24}}
    plain, step = simulate_step(job({}, **zero)), simulate_step(job({"parameters": True}, **zero))
    gathered = sum(segment.parameters for chunk in step.plan.chunks for segment in chunk.segments)
    again = sum(segment.gathered_again for chunk in step.plan.chunks for segment in chunk.segments)
    moved = 2 * (gathered + again) * step.plan.microbatches[0]  # all ranks together hold one copy
    assert over(step, "pcie-gpu") - over(plain, "pcie-gpu") == pytest.approx(moved)
    assert over(step, "gpu-pcie") == pytest.approx(over(plain, "gpu-pcie"))
    fast = [simulate_step(job({"parameters": on}, node=FAST, **zero)).trace.time for on in (False, True)]
    assert fast[0] == pytest.approx(fast[1], rel=1e-6)


def test_drives_are_read_and_written_beside_the_update() -> None:
    """12 B a parameter of a node each way; the slowest of reading, writing and updating counts."""
    fields: dict[str, Any] = {"parallelism": {"zero_stage": 1}}
    host = simulate_step(job({"optimizer": True}, storage=DRIVES, **fields))
    count = 8 * Costs(host.job).updated_parameters(host.job.ranks[0])
    for write, read in ((12e9, 25e9), (1e9, 25e9), (1e18, 1e18)):
        drives = DRIVES | {"write_bandwidth": write, "read_bandwidth": read}
        step = simulate_step(job({"optimizer": True, "drives": True}, storage=drives, **fields))
        longest = max(count / 8 * 28 / 25e9, 12 * count / write, 12 * count / read)
        assert step.trace.time - host.trace.time == pytest.approx(longest - count / 8 * 28 / 25e9, abs=1e-6)
        assert over(step, "host-nvme") == pytest.approx(12 * count)
        assert over(step, "nvme-host") == pytest.approx(12 * count)


def test_what_drives_hold_takes_no_host_memory() -> None:
    on_host, on_drives = (
        memory_result(job({"optimizer": True, "drives": drives}, storage=DRIVES).setup).host_bytes
        for drives in (False, True)
    )
    step = simulate_step(job({}))
    count = Costs(step.job).updated_parameters(step.job.ranks[0])
    assert on_host - on_drives == pytest.approx(8 * 12 * count)


def test_nothing_moves_where_the_bus_is_not_known_and_a_note_says_so() -> None:
    offload = {"optimizer": True, "activations": True}
    step = simulate_step(job(offload, node={}))
    assert host_comm(step) == 0
    assert any("at no cost: cluster.node.host.pcie_bandwidth" in note for note in assumptions(step))
    assert not any("at no cost" in note for note in assumptions(simulate_step(job(offload))))


def test_energy_counts_no_kernels_of_an_optimizer_on_the_host() -> None:
    steps = [simulate_step(job({"optimizer": on}, node=FAST)) for on in (False, True)]
    own, host = (step_energy(step.readings.activity).phases for step in steps)
    rank = steps[0].job.ranks[0]
    update = steps[0].job.alone(rank, [(Costs(steps[0].job).optimizer(rank), 1)]).spent
    assert own["memory"] - host["memory"] == pytest.approx(8 * update.joules["memory"])
    assert own["matrix"] == pytest.approx(host["matrix"])


def test_plan_finds_that_offload_makes_room() -> None:
    """As trying everything does: of plans that fit, the fastest; where boards are large none is moved."""
    limits: dict[str, Any] = {
        "training.offload.optimizer": (False, True), "training.offload.activations": (False, True),
        "tensor": (1, 2), "pipeline": (1, 2), "context": (1,), "zero_stage": (0, 1), "recompute": ("none",),
        "virtual_stages": (1,), "sequence_parallel": (False,), "schedule": ("1f1b",),
        "microbatch": (2,), "order": (("tensor", "context", "data", "pipeline"),),
    }  # fmt: skip

    def plan(capacity: float, moved: tuple[bool, ...], tensor: int, pipeline: int, zero: int) -> Experiment:
        shape = {"tensor": tensor, "pipeline": pipeline, "zero_stage": zero}
        chip = {"memory": {"capacity": capacity, "bandwidth": 2e12}}
        offload = dict(zip(("optimizer", "activations"), moved, strict=True))
        return job(offload, accelerator=chip, parallelism=shape, training={"microbatch": 2})

    shapes = list(product((1, 2), (1, 2), (0, 1)))
    least = min(memory_result(plan(8e10, (False, False), *shape).setup).peak_bytes_per_accelerator for shape in shapes)
    for capacity, needed in ((8e10, False), (0.9 * least, True)):
        found = search_plans(plan(capacity, (False, False), 1, 1, 0), limits, top=1, jobs=1).plans[0]
        assert any(found.values[key] for key in list(limits)[:2]) == needed
        every = [plan(capacity, moved, *shape) for moved in product((False, True), repeat=2) for shape in shapes]
        times = [simulate_step(each).trace.time for each in every if not lacking_bytes(each.setup)]
        assert found.step_s == pytest.approx(min(times), rel=1e-9)


@pytest.mark.parametrize(
    ("offload", "fields", "told"),
    [
        ({"drives": True}, {"storage": DRIVES}, "set offload.optimizer too"),
        ({"optimizer": True, "drives": True}, {}, "give cluster.storage of kind local_nvme"),
        ({"parameters": True}, {"parallelism": {"zero_stage": 1}}, "set zero_stage to 3"),
        ({"activations": True}, {"parallelism": {"pipeline": 4, "schedule": "zb-h1"}}, "use another schedule"),
    ],
)
def test_what_cannot_be_moved_is_refused_with_a_way_out(
    offload: dict[str, bool], fields: dict[str, Any], told: str
) -> None:
    with pytest.raises(ConfigError, match=told):
        job(offload, **fields)


def test_the_study_weighs_hosts_against_more_servers() -> None:
    """What its description says: offload makes room on one server, four hold the model without and cost less."""
    loaded = load_study("offload")
    table = {}
    for changes in (each.changes for each in loaded.points()):
        asked = {key: node.value for key, node in changes}
        if asked["training.offload.activations"] == asked["training.offload.drives"]:
            at = asked["nodes"], asked["training.offload.optimizer"], asked["training.offload.drives"]
            table[at] = json.loads(run_one(loaded.base.changed(changes)).fields)
    assert [nodes for nodes in (1, 2, 4, 8) if table[nodes, False, False]["memory.fits"]] == [4, 8]
    assert table[1, True, False]["memory.fits"]
    one, four = table[1, True, False], table[4, False, False]
    assert one["step.time_s"] / four["step.time_s"] == pytest.approx(5.1, abs=0.06)
    assert one["cost.usd.total"] / four["cost.usd.total"] == pytest.approx(1.29, abs=0.01)
    assert table[1, True, True]["step.time_s"] / one["step.time_s"] == pytest.approx(6.7, abs=0.05)
