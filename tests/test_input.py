"""The input pipeline: what storage, decompression and host cores let through, and what a step waits for."""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from plans import Fields, small_experiment
from simpy.core import Environment

from sim.ask.run.simulate import simulate
from sim.ask.run.step import simulate_step
from sim.engine.pipe import SharedPipe
from sim.errors import ConfigError
from sim.inputs.checks import check_experiment
from sim.inputs.load import load_experiment
from sim.inputs.records import Experiment
from sim.inputs.storage import Checkpointing, InputPipeline
from sim.life.feeding import InputSupply, feed, supply_of
from sim.life.saving import checkpoint_costs
from sim.report.text import report_text

# Record and its deviation [B], records of a batch, step [s], least accelerator utilization to pass, files of records:
# argonne-lcf/dlio_benchmark, configs/workload (commit e1919d7), as MLPerf Storage uses them.
DLIO: dict[str, tuple[float, float, int, float, float, int]] = {
    "resnet50 on A100": (114660.07, 0.0, 400, 0.435, 0.90, 1251),
    "resnet50 on H100": (114660.07, 0.0, 400, 0.224, 0.90, 1251),
    "unet3d on A100": (146600628, 68341808, 7, 0.636, 0.90, 1),
    "unet3d on H100": (146600628, 68341808, 7, 0.323, 0.90, 1),
    "cosmoflow on A100": (2828486, 71311, 1, 0.00551, 0.70, 1),
    "cosmoflow on H100": (2828486, 71311, 1, 0.00350, 0.70, 1),
}
DEMAND_MB = [105.4, 204.8, 1613.5, 3177.1, 513.3, 808.1]  # printed beside them: what one accelerator reads per second
TB = 1e12


def dlio(name: str, together: float, accelerators: int = 1, **changes: Any) -> InputSupply:
    """A DLIO workload on storage of `together` B/s."""
    record, deviation, batch, _, _, per_file = DLIO[name]
    fields = {"record": float(record), "record_deviation": float(deviation), "records_per_file": float(per_file)}
    return supply(batch, together, fields | {"workers": 8, "prefetch": 16} | changes, accelerators)


def supply(batch: float, together: float, data: Fields, replicas: int = 1, **others: Any) -> InputSupply:
    given = {"alone": together, "latency": 0.0, "cores": 0, "replicas_per_node": min(8, replicas)} | others
    return InputSupply(InputPipeline.from_si(dict(data)), batch, replicas, together=together, **given)


# --- the six cases of DLIO -----------------------------------------------------------------------


@pytest.mark.parametrize(("name", "megabytes"), list(zip(DLIO, DEMAND_MB, strict=True)), ids=DLIO)
def test_demand_of_an_accelerator(name: str, megabytes: float) -> None:
    found = feed(dlio(name, TB), DLIO[name][3])
    assert found.wanted_samples_per_s * DLIO[name][0] / 1e6 == pytest.approx(megabytes, rel=1e-3)


@pytest.mark.parametrize("name", DLIO)
@pytest.mark.parametrize("share", [2.0, 0.95, 0.6, 0.3])
def test_accelerator_utilization_is_the_share_of_demand_that_storage_serves(name: str, share: float) -> None:
    """Utilization is compute time over total time; where reading is the limit, that is supply over demand.

    Within 2 points. Random sizes average out for a single accelerator with a queue of batches.
    """
    record, _, batch, step_s, least, _ = DLIO[name]
    found = feed(dlio(name, share * record * batch / step_s), step_s)
    assert found.accelerator_utilization == pytest.approx(min(1.0, share), abs=0.02)
    assert (found.accelerator_utilization >= least) == (share >= least)
    assert found.limit == ("storage" if share < 1 else "none")


@pytest.mark.parametrize("name", ["resnet50 on H100", "cosmoflow on H100"])
def test_accelerators_that_an_appliance_feeds(name: str) -> None:
    """MLPerf Storage counts accelerators at the least utilization that passes: bandwidth / (utilization * demand).

    Records of nearly equal size, one DDN AI400X2 (90 GB/s, datasheet, recalled).
    """
    record, _, batch, step_s, least, _ = DLIO[name]
    most = 90e9 * step_s / (record * batch * least)
    for accelerators, passes in ((int(most * 0.97), True), (ceil(most * 1.03), False)):
        found = feed(dlio(name, 90e9, accelerators), step_s)
        assert (found.accelerator_utilization >= least) == passes


def test_skewed_records_cost_a_synchronous_job_more() -> None:
    """With 64 accelerators in step and little read ahead, the largest batch of each step sets the pace."""
    record, deviation, batch, step_s, *_ = DLIO["unet3d on H100"]
    each = 1.05 * record * batch / step_s  # drives of its own for each: what one does not use helps nobody
    one_ahead = {"record": record, "workers": 1, "prefetch": 1}
    even = feed(supply(batch, 64 * each, one_ahead, 64, alone=each), step_s)
    skewed = feed(supply(batch, 64 * each, one_ahead | {"record_deviation": deviation}, 64, alone=each), step_s)
    pooled = feed(supply(batch, 64 * each, one_ahead | {"record_deviation": deviation}, 64), step_s)
    assert even.stall_s == 0
    largest = record * batch + 2.35 * deviation * batch**0.5  # mean of the largest of 64 (normal order statistics)
    assert skewed.stall_s == pytest.approx(largest / each - step_s, rel=0.05)
    assert pooled.stall_s < 0.1 * skewed.stall_s  # a shared file system evens it out


# --- closed forms ----------------------------------------------------------------------------------


@given(st.floats(0.01, 10), st.floats(0.01, 10), st.integers(1, 4))
@settings(max_examples=20)
@example(1.0, 1.0, 1)
def test_one_worker_ahead_hides_what_fits_into_a_step(supply_s: float, step_s: float, prefetch: int) -> None:
    """Deterministic: stall = max(0, supply - compute), whatever the depth of the queue."""
    line = supply(1, 1.0, {"record": supply_s, "workers": 1, "prefetch": prefetch})
    assert feed(line, step_s).stall_s == pytest.approx(max(0.0, supply_s - step_s), abs=1e-9)


@given(st.floats(0.01, 10), st.floats(0.01, 10))
@settings(max_examples=20)
def test_nothing_is_hidden_without_prefetch(supply_s: float, step_s: float) -> None:
    line = supply(1, 1.0, {"record": supply_s, "workers": 1, "prefetch": 0})
    assert feed(line, step_s).stall_s == pytest.approx(supply_s, rel=1e-9)


@given(st.integers(1, 6), st.integers(1, 8), st.floats(0.1, 4))
@settings(max_examples=30)
def test_workers_and_cores_prepare_side_by_side(workers: int, cores: int, step_s: float) -> None:
    """Batches of 10 s of core time: one leaves every 10 / min(workers, cores) seconds."""
    data = {"record": 1.0, "preprocessing": 1.0, "workers": workers, "prefetch": 2 * workers}
    found = feed(supply(10, 1e12, data, cores=cores), step_s)
    every = 10 / min(workers, cores)
    assert found.supplied_samples_per_s == pytest.approx(10 / every, rel=0.03)
    assert found.stall_s == pytest.approx(max(0.0, every - step_s), rel=0.03, abs=0.02 * every)
    assert found.limit == ("preprocessing" if every > step_s * 1.01 else found.limit)


def test_cores_are_shared_by_the_replicas_of_a_node() -> None:
    data = {"record": 1.0, "preprocessing": 1.0, "workers": 4, "prefetch": 8}
    alone = feed(supply(10, 1e12, data, 1, cores=8), 0.5)
    crowded = feed(supply(10, 1e12, data, 8, cores=8), 0.5)
    assert alone.stall_s == pytest.approx(2.5 - 0.5, rel=0.03)
    assert crowded.stall_s == pytest.approx(10 - 0.5, rel=0.03)


def test_jpeg_preprocessing_of_a_host() -> None:
    """92 JPEG images per second and core (decode, crop, resize, normalise; measured, one EPYC core): 64 cores feed
    5,888 images/s, so eight A100 that want 919.5 each (DLIO) see 80 % of their demand."""
    data = {"record": 114660.07, "preprocessing": 1 / 92, "workers": 16, "prefetch": 32}
    found = feed(supply(400, TB, data, 8, cores=64), 0.435)
    assert found.limit == "preprocessing"
    assert found.accelerator_utilization == pytest.approx(64 * 92 / (8 * 919.5), abs=0.02)


def test_decompression_costs_core_time_and_saves_bandwidth() -> None:
    """zlib-1: 2.743 times smaller, 390 MB/s out of one core (zstd's benchmark page)."""
    plain = {"record": 100e6, "workers": 1, "prefetch": 1}
    packed = plain | {"record": 100e6 / 2.743, "compression_ratio": 2.743, "decompression_bandwidth": 390e6}
    assert feed(supply(1, 100e6, plain), 0.1).stall_s == pytest.approx(1.0 - 0.1)
    found = feed(supply(1, 100e6, packed), 0.1)
    assert found.stall_s == pytest.approx(1 / 2.743 + 100 / 390 - 0.1)
    fast = feed(supply(1, 1e12, packed), 0.1)
    assert fast.limit == "decompression"
    assert fast.stall_s == pytest.approx(100 / 390 - 0.1, rel=1e-3)


@pytest.mark.parametrize("cached", [0.0, 0.5, 0.9, 1.0])
def test_a_cache_takes_its_share_off_storage(cached: float) -> None:
    line = supply(1, 1.0, {"record": 10.0, "workers": 1, "prefetch": 1, "cached": cached}, latency=1.0)
    assert feed(line, 1.0).stall_s == pytest.approx(max(0.0, 11.0 * (1 - cached) - 1.0), abs=1e-9)


def test_small_files_wait_and_large_ones_do_not() -> None:
    data = {"record": 1.0, "workers": 1, "prefetch": 1}
    single = supply(100, 1e9, data, latency=0.01)
    packed = supply(100, 1e9, data | {"records_per_file": 50.0}, latency=0.01)
    assert feed(single, 0.01).stall_s == pytest.approx(1.0 - 0.01, rel=1e-3)
    assert feed(packed, 0.01).stall_s == pytest.approx(0.02 - 0.01, rel=1e-3)


def test_a_shuffle_buffer_fills_before_the_first_step() -> None:
    data = {"record": 1.0, "workers": 2, "prefetch": 1, "shuffle_buffer": 100.0}
    assert feed(supply(1, 40.0, data, 8, alone=40.0), 1.0).fill_s == pytest.approx(100 / 5)
    assert feed(supply(1, 40.0, data, 8, alone=2.0), 1.0).fill_s == pytest.approx(100 / 4)


def test_the_same_seed_gives_the_same_wait() -> None:
    line = dlio("unet3d on H100", 3e9)
    assert feed(line, 0.323, 5) == feed(line, 0.323, 5)
    assert feed(line, 0.323, 5) != feed(line, 0.323, 6)


def test_one_node_stands_for_all_where_batches_are_equal() -> None:
    """A deviation of next to nothing makes every replica count."""
    data = {"record": 1e6, "workers": 3, "prefetch": 4, "preprocessing": 0.01}
    fast = feed(supply(8, 2e8, data, 32, cores=16), 0.2)
    slow = feed(supply(8, 2e8, data | {"record_deviation": 1e-3}, 32, cores=16), 0.2)
    assert fast.stall_s == pytest.approx(slow.stall_s, rel=0.02)


# --- the shared pipe ---------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.floats(0, 5), st.floats(0.1, 10)), min_size=1, max_size=8), st.floats(0.2, 20))
@settings(max_examples=40)
def test_the_pipe_loses_and_invents_nothing(readers: list[tuple[float, float]], each: float) -> None:
    """Against small time steps: every reader gets the least of its limit and an even share."""
    env, ended = Environment(), np.zeros(len(readers))
    pipe = SharedPipe(env, 10.0, each)

    def reader(i: int, start: float, size: float) -> Any:
        yield env.timeout(start)
        yield pipe.read(size)
        ended[i] = env.now

    for i, (start, size) in enumerate(readers):
        env.process(reader(i, start, size))
    env.run()
    assert ended == pytest.approx(shared_slowly(readers, 10.0, each), rel=1e-6)


def shared_slowly(readers: list[tuple[float, float]], total: float, each: float) -> list[float]:
    """The same by going from event to event with plain sums."""
    left, ended, now = [size for _, size in readers], [0.0] * len(readers), 0.0
    while any(size > 0 for size in left):
        active = [i for i, (start, _) in enumerate(readers) if left[i] > 0 and start <= now]
        later = [start for i, (start, _) in enumerate(readers) if left[i] > 0 and start > now]
        rate = min(each, total / len(active)) if active else 0.0
        ends = [now + left[i] / rate for i in active]
        then = min(ends + later)
        for i, end in zip(active, ends, strict=True):
            left[i] = 0.0 if end <= then * (1 + 1e-12) else left[i] - rate * (then - now)
            ended[i] = then if left[i] == 0.0 else 0.0
        now = then
    return ended


# --- in a run ----------------------------------------------------------------------------------------

STORE: Fields = {"name": "store", "servers": 4, "read_bandwidth": 8e9, "write_bandwidth": 4e9}


def fed(data: Fields | None, storage: Fields | None = None, **others: Any) -> Experiment:
    shape: dict[str, Any] = {"nodes": 2, "training": {"global_batch": 16}}
    plain = small_experiment(**(shape | others))
    cluster = plain.setup.cluster.model_dump() | {"storage": {**STORE, **(storage or {})}}
    return Experiment.from_si(plain.model_dump() | {"cluster": cluster, "input": data})


@pytest.mark.parametrize("others", [{}, {"parallelism": {"tensor": 2, "pipeline": 4, "zero_stage": 1}}])
def test_the_wait_is_in_the_breakdown(others: Fields) -> None:
    plain = simulate(fed(None, **others))
    hungry = simulate(fed({"record": 1e9, "workers": 2}, **others))
    assert plain.input is None
    assert plain.step.breakdown_s["input_stall"] == 0
    assert hungry.input is not None
    stall = hungry.input.stall_s
    assert stall == pytest.approx(16e9 / 8e9 - plain.step.time_s, rel=0.01)
    assert hungry.step.breakdown_s["input_stall"] == pytest.approx(stall)
    assert hungry.step.time_s == pytest.approx(plain.step.time_s + stall)
    assert sum(hungry.step.breakdown_s.values()) == pytest.approx(hungry.step.time_s, rel=1e-12)
    assert hungry.input.accelerator_utilization == pytest.approx(plain.step.time_s / hungry.step.time_s)


def test_data_in_time_changes_nothing() -> None:
    assert simulate_step(fed({"record": 1e3})).trace.time == simulate_step(fed(None)).trace.time


def test_one_rank_of_a_replica_reads() -> None:
    plan = simulate_step(fed(None, parallelism={"tensor": 4, "pipeline": 2})).plan
    assert plan.cluster.storage is not None
    found = supply_of(plan, InputPipeline.from_si({"record": 1e6}), plan.cluster.storage)
    assert (found.replicas, found.batch, found.replicas_per_node) == (2, 8, 2)
    assert found.together == pytest.approx(8e9)


@pytest.mark.parametrize(
    ("storage", "together", "alone"),
    [
        ({}, 8e9, 8e9),
        ({"network": {"kind": "own", "node_bandwidth": 1e9}}, 2e9, 1e9),
        ({"requests": {"connection_bandwidth": 1e8}}, 8e9, 1e8),
        ({"requests": {"read_rate": 1000.0}}, 1e9, 1e9),
        ({"requests": {"metadata_rate": 500.0}}, 5e8, 8e9),
        ({"kind": "local_nvme"}, 16e9, 8e9),
        ({"failed_servers": 2}, 4e9, 4e9),
    ],
)
def test_supply_follows_the_links(storage: Fields, together: float, alone: float) -> None:
    plan = simulate_step(fed(None, storage)).plan
    assert plan.cluster.storage is not None
    found = supply_of(plan, InputPipeline.from_si({"record": 1e6}), plan.cluster.storage)
    assert found.together == pytest.approx(together)
    assert found.alone == pytest.approx(alone)


def test_batches_ahead_must_fit_into_host_memory() -> None:
    node = {"host": {"cores": 8, "memory": 1e9}}
    with pytest.raises(ConfigError, match="of batches and shuffle buffers a node"):
        simulate(fed({"record": 1e8}, node=node))


def test_language_models_are_never_short_of_data() -> None:
    """Tokens are 2 to 4 bytes: storage that trains images badly trains text well."""
    text = "input={record: 32 KiB, preprocessing: 1 ms}"
    result = simulate(load_experiment("llama3-8b-dgx-h100", ("cluster.storage=local-nvme", text)).experiment)
    assert result.input is not None
    assert result.input.limit == "none"
    assert result.step.breakdown_s["input_stall"] == 0


@pytest.mark.parametrize(
    ("storage", "data", "message"),
    [
        ("null", "{record: 1 MB}", "training data needs storage"),
        ("local-nvme", "{record: 0}", "must be more than 0 B"),
        ("local-nvme", "{record: 1 MB, cached: 120 %}", "not between 0 and 1"),
    ],
)
def test_wrong_input_is_explained(storage: str, data: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        load_experiment("llama3-8b-dgx-h100", (f"cluster.storage={storage}", f"input={data}"))
    assert message in str(raised.value)


def test_work_on_samples_needs_cores() -> None:
    made = fed({"record": 1e6, "preprocessing": 0.01}, node={"host": {"cores": 0}})
    assert any("no known cores" in str(problem) for problem in check_experiment(made))


def test_the_report_says_what_holds_data_back_and_what_a_save_costs() -> None:
    made = fed({"record": 1e9, "workers": 2})
    text = report_text(simulate(made.model_copy(update={"checkpoint": Checkpointing(interval_steps=10)})))
    rows = {line.split("  ")[1].strip(): line for line in text.splitlines() if line.startswith("  ")}
    assert "limited by storage" in rows["accelerators busy"]
    assert "8.000 samples/s" in rows["supplied"]
    assert "1.172 GB" in rows["size"]  # 14 bytes for each of 83.7 million parameters
    assert "Training data" not in report_text(simulate(fed(None)))
    assert "Checkpoints" not in report_text(simulate(fed(None)))


def test_a_drain_beside_a_step_that_waits_has_its_time_too() -> None:
    """Steps twice as long, half of them waiting: a drain that loses nothing takes no longer."""
    on_fabric = {"network": {"kind": "compute"}}
    save = Checkpointing.from_si({"mode": "asynchronous", "interval_steps": 10, "host_copy_bandwidth": 1e10})
    found = []
    for data in (None, {"record": 1e9, "workers": 2}):
        made = fed(data, on_fabric).model_copy(update={"checkpoint": save})
        run = simulate_step(made)
        found.append(checkpoint_costs(run.plan, run.trace.time))
    assert found[1].drain_s == pytest.approx(found[0].drain_s, rel=0.05)
    assert 1 <= found[1].drain_slowdown <= found[0].drain_slowdown * (1 + 1e-9)
