"""Training data prepared on host cores: closed forms, skew, stragglers, what is conserved, and what links cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from plans import LEAF_SPINE, Fields, small_experiment

from sim.ask.run.preparation import prepare_data
from sim.ask.run.simulate import simulate
from sim.ask.run.step import simulate_step
from sim.errors import ConfigError
from sim.inputs.load import load_experiment
from sim.inputs.records import Experiment
from sim.metrics.result import DataPrepared
from sim.programs.preparing import phases_of

RATE = 8e9  # of storage, each way
STORE: Fields = {"name": "store", "servers": 4, "read_bandwidth": RATE, "write_bandwidth": RATE}
DECODE: Fields = {"name": "decode", "rate": 1e8}


def experiment(job: Fields, store: Fields | None = None, **others: Any) -> Experiment:
    """Two nodes of four cores each prepare 64 partitions of 1 GB."""
    plain = small_experiment(**{"nodes": 2, "parallelism": {"tensor": 8}, **others})
    cluster = plain.setup.cluster.model_dump() | {"storage": {**STORE, **(store or {})}}
    asked = {"cores": 4, "input": 64e9, "partitions": 64, "stages": [DECODE], **job}
    return Experiment.from_si(plain.model_dump() | {"cluster": cluster, "preparation": asked})


def prepared(job: Fields, store: Fields | None = None, **others: Any) -> DataPrepared:
    made = experiment(job, store, **others)
    run = simulate_step(made)
    assert made.preparation is not None
    assert run.cluster.storage is not None
    return prepare_data(run.plan, made.preparation, run.cluster.storage, run.trace.time)


# --- closed forms ---------------------------------------------------------------------------------


def test_tasks_come_in_waves() -> None:
    """64 tasks on 8 cores: each reads and writes 1 GB at an eighth of the rate, and computes 10 s."""
    found = prepared({"overhead": 0.5})
    assert found.time_s == pytest.approx(64 / 8 * (0.5 + 8 * 1e9 / RATE + 1e9 / 1e8 + 8 * 1e9 / RATE), rel=1e-9)
    (phase,) = found.phases
    assert (phase.tasks, phase.copies, phase.limit) == (64, 0, "cores")
    assert phase.slowest_task_s == pytest.approx(phase.median_task_s)


def test_a_core_that_reads_ahead_hides_the_shorter_of_both() -> None:
    """After the first read, cores are never free until the last write."""
    found = prepared({"reads_ahead": True}, {"write_bandwidth": 1e24})
    one_by_one = prepared({}, {"write_bandwidth": 1e24})
    assert 80.0 < found.time_s < 80.0 + 2.5
    assert one_by_one.time_s == pytest.approx(88.0, rel=1e-9)


def test_storage_sets_the_pace_where_cores_are_many() -> None:
    found = prepared({"stages": [{"name": "copy"}]}, {"write_bandwidth": 1e24})
    assert found.time_s == pytest.approx(64e9 / RATE, rel=1e-9)
    assert found.phases[0].limit == "storage"


def test_each_stage_sees_what_the_one_before_leaves() -> None:
    """Unpacked three times as large at 3 GB/s, halved by a filter, and tokenised: 1 + 6 + 7.5 s."""
    stages = [{"name": "filter", "rate": 5e8, "output": 0.5}, {"name": "tokenise", "rate": 2e8, "output": 0.25}]
    job = {"stages": stages, "compression_ratio": 3.0, "decompression_bandwidth": 3e9}
    made = experiment(job).preparation
    assert made is not None
    (phase,) = phases_of(made, 0)
    assert phase.compute_s == pytest.approx(np.full(64, 1 + 3 / 0.5 + 1.5 / 0.2))
    assert phase.written.sum() == pytest.approx(64e9 * 3 * 0.5 * 0.25)


def test_a_shuffle_begins_when_all_before_it_is_done_and_crosses_the_network() -> None:
    """Half of what each of two nodes fetches is its own; the rest comes over its adapters."""
    nics = {"count": 1, "bandwidth": 1e9, "latency": 0.0}
    stages = [DECODE, {"name": "sort", "shuffle": True, "partitions": 8}]
    found = prepared({"stages": stages}, {"write_bandwidth": 1e24}, node={"nics": nics})
    first, second = found.phases
    assert first.time_s + second.time_s == pytest.approx(found.time_s)
    assert found.shuffled_bytes == 64e9
    assert second.time_s == pytest.approx(32e9 / 2 / 1e9, rel=1e-6)
    assert second.limit == "network"


# --- skew and stragglers --------------------------------------------------------------------------


@pytest.mark.parametrize("skew", [0.0, 0.5, 1.5])
@pytest.mark.parametrize("slow", [{}, {"slow_share": 0.1, "slow_factor": 4.0}])
def test_list_scheduling_ends_within_grahams_bound(skew: float, slow: Fields) -> None:
    """No later than all work over all cores and the longest task (Graham 1969)."""
    quick: Fields = {"read_bandwidth": 1e15, "write_bandwidth": 1e24}
    found = prepared({"skew": skew, **slow}, quick)
    (phase,) = found.phases
    work = phase.core_share * found.time_s
    assert work * (1 - 1e-6) <= found.time_s <= (work + phase.slowest_task_s) * (1 + 1e-6)


def test_skew_moves_bytes_between_partitions_and_makes_none() -> None:
    even, skewed = prepared({}), prepared({"skew": 1.0})
    assert skewed.read_bytes == pytest.approx(even.read_bytes, rel=1e-12)
    assert skewed.written_bytes == pytest.approx(even.written_bytes, rel=1e-12)
    assert skewed.time_s > even.time_s


def test_slow_tasks_begun_again_end_a_phase_earlier() -> None:
    job = {"slow_share": 0.05, "slow_factor": 20.0}
    waits, again = prepared(job), prepared({**job, "speculation": True})
    assert waits.phases[0].copies == 0
    assert again.phases[0].copies > 0
    assert again.time_s < waits.time_s
    assert prepared({"speculation": True}).phases[0].copies == 0


# --- beside training ------------------------------------------------------------------------------


def test_on_a_network_of_its_own_nobody_is_slowed() -> None:
    found = prepared({"when": "beside"})
    assert found.training_slowdown == pytest.approx(1.0)
    assert found.training_lost_s == pytest.approx(0.0, abs=1e-6)
    assert found.time_s == pytest.approx(prepared({}).time_s, rel=1e-6)


def test_over_the_links_of_training_both_are_slowed() -> None:
    fabric: Fields = LEAF_SPINE | {"nodes_per_unit": 6}
    shared: Fields = {"network": {"kind": "compute"}, "read_bandwidth": 1e12, "write_bandwidth": 1e12}
    nics = {"count": 1, "bandwidth": 3e9, "latency": 1e-6}
    training: dict[str, Any] = {"node": {"nics": nics}, "fabric": fabric, "parallelism": {"tensor": 4, "zero_stage": 3}}
    job = {"when": "beside", "stages": [{"name": "copy"}], "input": 64e9}
    found = prepared(job, shared, **training)
    assert found.training_slowdown > 1.1
    assert found.beside_slowdown > 1.1
    assert found.training_lost_s == pytest.approx(found.time_s * (1 - 1 / found.training_slowdown))


def test_reads_of_a_step_slow_the_traffic_that_they_cross() -> None:
    """Batches from storage on the compute network; on a network of its own they cross nothing."""
    fabric: Fields = LEAF_SPINE | {"nodes_per_unit": 6}
    nics = {"count": 1, "bandwidth": 3e9, "latency": 1e-6}
    given: dict[str, Any] = {"node": {"nics": nics}, "fabric": fabric, "parallelism": {"tensor": 4, "zero_stage": 3}}
    plain = small_experiment(**{"nodes": 2, **given})
    slowed = {}
    for kind in ("own", "compute"):
        store = {**STORE, "read_bandwidth": 1e12, "network": {"kind": kind}}
        cluster = plain.setup.cluster.model_dump() | {"storage": store}
        made = Experiment.from_si(plain.model_dump() | {"cluster": cluster, "input": {"record": 5e6}})
        feeding = simulate_step(made).feeding
        assert feeding is not None
        slowed[kind] = feeding.slowed_s
    assert slowed["own"] == 0.0
    assert slowed["compute"] > 0.0


# --- words ----------------------------------------------------------------------------------------


def test_the_shipped_experiment_slows_training_and_says_what_it_leaves_out() -> None:
    result = simulate(load_experiment("prepare-beside").experiment)
    assert result.preparation is not None
    assert 1.1 < result.preparation.training_slowdown < 1.3
    assert result.preparation.read_bytes == pytest.approx(250e9)
    assert result.preparation.written_bytes == pytest.approx(250e9 * 3 * 0.5 * 0.9 * 0.5)
    assert any("preparation of data leaves out" in note for note in result.notes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("preparation.cores=500", "500 cores of "),
        ("preparation.nodes=9", "9 nodes of 8 that may work on it; use at most 8"),
        ("preparation.placement=idle", "the job takes all 8 nodes; use placement: job"),
        ("preparation.stages=[{name: a, partitions: 3}]", "partitions change at a shuffle alone; say shuffle: true"),
        ("preparation.stages=[]", "preparation.stages"),
        ("cluster.storage=null", "data is read from storage, and the cluster has none"),
    ],
)
def test_says_what_is_wrong(change: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_experiment("prepare-beside", [change])
