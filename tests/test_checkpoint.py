"""Checkpoints: whose bytes, over which links, how long, and what a drain takes from training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import CASES, LEAF_SPINE, Fields, small_experiment
from workload_samples import (
    total_parameters,
)

from sim.ask.run.step import simulate_step
from sim.cluster.build import build_cluster
from sim.errors import ConfigError
from sim.inputs.load import load_experiment
from sim.inputs.records import Experiment
from sim.inputs.storage import Checkpointing
from sim.layout.plan import Plan, build_plan
from sim.layout.state import distinct_bytes, needed_bytes, saved_bytes
from sim.layout.transfers import file_transfers, with_transfers
from sim.life.saving import checkpoint_costs
from sim.life.storage_costs import CheckpointCosts
from sim.programs.drains import drain_beside

SYSTEM: Fields = {"name": "store", "servers": 4, "read_bandwidth": 8e9, "write_bandwidth": 4e9}
SAVE: Fields = {"interval": 1800.0, "host_copy_bandwidth": 1e10, "serialization_bandwidth": 1e15}
ON_FABRIC: Fields = {"write_bandwidth": 1e15, "read_bandwidth": 1e15, "network": {"kind": "compute"}}
GIB = 2.0**30


def experiment(save: Fields, storage: Fields, **others: Any) -> Experiment:
    """A small job that saves its state."""
    plain = small_experiment(**others)
    cluster = plain.setup.cluster.model_dump() | {"storage": {**SYSTEM, **storage}}
    return Experiment.from_si(plain.model_dump() | {"cluster": cluster, "checkpoint": {**SAVE, **save}})


def plan_of(made: Experiment) -> Plan:
    merge = made.simulation.prune == "auto"
    return build_plan(made, build_cluster(made.setup.cluster, made.degradations, merge_sprayed=merge))


def costs_of(save: Fields, storage: Fields | None = None, step_s: float = 1.0, **others: Any) -> CheckpointCosts:
    return checkpoint_costs(plan_of(experiment(save, storage or {}, **others)), step_s)


def published(name: str, *changes: str) -> Plan:
    """The plan of an experiment of the catalogue that saves, with changes."""
    store = "cluster.storage={name: any, read_bandwidth: 1 TB/s, write_bandwidth: 1 TB/s}"
    changes = (*changes, "checkpoint={interval: 1 h}")
    changes = changes if any("cluster" in change for change in changes) else (store, *changes)
    return plan_of(load_experiment(name, changes).experiment)


# --- size -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "weights_gib", "total_gib"),
    [("llama3-8b", 15, 105), ("llama3-70b", 130, 912), ("llama3-405b", 755, 5288)],
)
def test_sizes_of_mlperf_storage(model: str, weights_gib: float, total_gib: float) -> None:
    """MLPerf Storage v2, Submission_guidelines.md: sizes, printed as GB, of 16-bit weights and all state.

    They count whole binary units. Its 70B has 0.9 % fewer parameters than Meta's; the others agree to 0.3 %.
    """
    plan = published("llama3-8b-dgx-h100", f"workload={model}", "software=megatron-core")
    for save, gib in ((Checkpointing(bytes_per_parameter=2.0), weights_gib), (Checkpointing(), total_gib)):
        assert saved_bytes(plan, save).sum() / GIB == pytest.approx(gib, rel=0.012)


def test_the_largest_model_of_mlperf_storage_has_the_same_parts() -> None:
    """The same table's 1T: 2,571 of weights, 17,997 in all, so 14 bytes per parameter where weights have 2."""
    parameters = 2571 * GIB / 2
    plan = published("llama3-8b-dgx-h100", "software=megatron-core")
    per_parameter = saved_bytes(plan, Checkpointing()).sum() / total_parameters(plan.model)
    assert per_parameter * parameters / GIB == pytest.approx(17997, rel=1e-4)


def test_opt_175b_wrote_files_of_1_7_gb() -> None:
    """OPT-175B, metaseq chronicles: 1.6 TB in 992 files of 1.7 GB, without a master copy; the first is binary."""
    plan = published(
        "gpt3-175b-a100", "nodes=124", "parallelism={tensor: 8, zero_stage: 3}", "training.global_batch=992",
        "training.recompute=full",
    )  # fmt: skip
    saved = saved_bytes(plan, Checkpointing(bytes_per_parameter=10.0))
    assert np.count_nonzero(saved) == 992
    assert saved.sum() / 2**40 == pytest.approx(1.6, rel=0.02)
    assert saved.max() / 1e9 == pytest.approx(1.7, rel=0.05)


def test_files_of_llama_3_are_as_large_as_published() -> None:
    """Llama 3 (arXiv 2407.21783, section 3.3.1): each GPU saves 1 MB to 4 GB."""
    plan = published("llama3-405b-h100")
    saved = saved_bytes(plan, Checkpointing())
    assert 1e6 <= saved.min() <= saved.max() <= 4e9


SPLITS = st.fixed_dictionaries(
    {
        "tensor": st.sampled_from([1, 2, 4]),
        "pipeline": st.sampled_from([1, 2, 4]),
        "zero_stage": st.sampled_from([0, 1, 2, 3]),
        "shard_group": st.sampled_from([None, 2]),
    }
)


@given(SPLITS, st.sampled_from(["all", "one_replica"]), st.sampled_from([2.0, 10.0, 14.0]), st.booleans())
@settings(max_examples=25)
def test_every_byte_of_the_state_is_saved_once(split: Fields, writers: str, each: float, tied: bool) -> None:
    if split["zero_stage"] == 0:
        split = {**split, "shard_group": None}
    sizes: dict[str, Any] = {"model": {"tied_embeddings": tied}, "training": {"global_batch": 32}}
    plan = plan_of(experiment({}, {}, nodes=4, parallelism=split, **sizes))
    save = Checkpointing.from_si({"writers": writers, "bytes_per_parameter": each})
    total = each * total_parameters(plan.model, 512)
    assert saved_bytes(plan, save).sum() == pytest.approx(total, rel=1e-12)
    needed = needed_bytes(plan, save)
    assert (needed >= distinct_bytes(plan, save) * (1 - 1e-12)).all()
    replicas = 32 // (split["tensor"] * split["pipeline"])
    copies = replicas if split["zero_stage"] == 0 else replicas / (split["shard_group"] or replicas)
    if split["zero_stage"] in (0, 3):
        assert needed.sum() == pytest.approx(total * copies, rel=1e-12)


def test_who_writes_under_zero() -> None:
    """ZeRO 1 of 8 replicas, first replica writes: it holds the weights, all hold an eighth of the optimizer state."""
    plan = plan_of(experiment({}, {}, parallelism={"zero_stage": 1}, training={"global_batch": 8}))
    saved = saved_bytes(plan, Checkpointing(writers="one_replica"))
    n = total_parameters(plan.model, 512)
    assert saved == pytest.approx([n * (2 + 12 / 8)] + [n * 12 / 8] * 7)


def test_adapters_are_saved_and_frozen_weights_read_again() -> None:
    lora = {"rank": 8}
    plan = plan_of(experiment({}, {}, parallelism={"tensor": 2}, training={"lora": lora}))
    n = plan.architecture.undivided.whole.parameters
    trained = plan.architecture.undivided.whole.trained
    assert 0 < trained < 0.05 * n
    assert saved_bytes(plan, Checkpointing()).sum() == pytest.approx(14 * trained)
    assert needed_bytes(plan, Checkpointing()).sum() == pytest.approx(4 * (14 * trained + 2 * n))


# --- time -----------------------------------------------------------------------------------------


def test_bloom_saved_in_40_seconds() -> None:
    """BLOOM (BigScience chronicles): 2.3 TB by 384 processes in 40 s on Jean Zay's parallel file system.

    The size is predicted: 14 bytes for each of 176.2 billion parameters. The write rate of the file system,
    63.2 GB/s, is known from this save alone, so the time tests the path to it: writers, adapters, shares.
    """
    plan = published("bloom-176b", "cluster.storage=jean-zay-gpfs")
    assert plan.grid.n_ranks == 384
    assert total_parameters(plan.model) == pytest.approx(176.247e9, rel=1e-4)
    costs = checkpoint_costs(plan, 105.0)
    assert costs.bytes / 2**40 == pytest.approx(2.3, rel=0.03)
    assert costs.blocking_s == pytest.approx(40, rel=0.03)


def test_8b_on_8_h100_blocks_for_27_seconds() -> None:
    """NVIDIA-NeMo/Automodel PR 635: Llama 3 8B under FSDP, optimizer state and weights, 27.3 s synchronously.

    What one rank serialises sets the pace, not the 20 GB/s of the storage.
    """
    store, save = "cluster.storage=superpod-h100-standard", "checkpoint={interval: 1 h, bytes_per_parameter: 12}"
    made = ("llama3-8b-dgx-h100", "nodes=1", "parallelism={zero_stage: 3}", "software=fsdp", store, save)
    plan = plan_of(load_experiment(made[0], made[1:]).experiment)
    assert checkpoint_costs(plan, 5.0).blocking_s == pytest.approx(27.3, rel=0.05)


def test_the_slowest_of_rank_and_storage_sets_the_pace_of_a_save() -> None:
    """Eight ranks at 0.45 GB/s unless told otherwise; a drain is as slow, a restart reads as storage does."""
    total = costs_of({}).bytes
    default = costs_of({"serialization_bandwidth": None})
    assert default.blocking_s == pytest.approx(total / (8 * 0.45e9))
    assert default.restore_s == costs_of({}).restore_s
    assert costs_of({"serialization_bandwidth": 0.2e9}).blocking_s == pytest.approx(total / (8 * 0.2e9))
    drained = costs_of({"serialization_bandwidth": 0.2e9, "mode": "asynchronous"})
    assert drained.drain_s == pytest.approx(total / (8 * 0.2e9))
    assert drained.blocking_s == costs_of({"mode": "asynchronous"}).blocking_s


def test_a_synchronous_save_takes_its_slowest_part() -> None:
    total = costs_of({}).bytes
    assert costs_of({}).blocking_s == pytest.approx(total / 4e9)
    assert costs_of({"host_copy_bandwidth": 1e8}).blocking_s == pytest.approx(total / 8e8)
    assert costs_of({"writers": "one_replica", "host_copy_bandwidth": 1e8}).blocking_s == pytest.approx(total / 1e8)
    assert costs_of({}).drain_s == 0
    assert costs_of({}).drain_slowdown == 1


def test_an_asynchronous_save_blocks_for_the_copy() -> None:
    costs = costs_of({"mode": "asynchronous"})
    assert costs.blocking_s == pytest.approx(costs.bytes / 8 / 1e10)
    assert costs.drain_s == pytest.approx(costs.bytes / 4e9)
    assert costs.drain_slowdown == 1  # storage has a network of its own


def test_opening_files_takes_its_time() -> None:
    """8 files at 4 per second, as a start-up storm on a metadata server."""
    slow = {"requests": {"metadata_rate": 4.0}}
    assert costs_of({}, slow).blocking_s == pytest.approx(costs_of({}).blocking_s + 2)
    assert costs_of({"writers": "one_replica"}, slow).blocking_s == pytest.approx(costs_of({}).blocking_s + 0.25)


def test_compression_saves_bytes_and_costs_time() -> None:
    plain, packed = costs_of({}), costs_of({"compression_ratio": 1.25})
    assert packed.bytes == pytest.approx(plain.bytes / 1.25)
    assert packed.blocking_s == pytest.approx(plain.blocking_s / 1.25)
    slow = costs_of({"compression_ratio": 1.25, "compression_bandwidth": 1e8, "decompression_bandwidth": 2e8})
    assert slow.blocking_s == pytest.approx(plain.bytes / 8e8)  # eight ranks read 100 MB/s of state each
    assert slow.restore_s == pytest.approx(plain.bytes / 2e8)  # each of eight replicas unpacks all of it


def test_a_restart_reads_as_often_as_there_are_replicas() -> None:
    each, once = costs_of({"restore": "each"}), costs_of({"restore": "broadcast"})
    assert each.restore_s == pytest.approx(8 * each.bytes / 8e9)
    ring = each.bytes * 7 / 8 / 300e9  # an all-gather over the local switch
    assert once.restore_s == pytest.approx(each.bytes / 8e9 + ring, rel=1e-3)
    sharded = costs_of({}, parallelism={"zero_stage": 3})
    assert sharded.restore_s == pytest.approx(each.bytes / 8e9)  # nobody needs what another has


def test_checkpoints_must_fit() -> None:
    size = costs_of({}).bytes
    assert costs_of({"keep": 2}, {"capacity": 2.01 * size}).bytes == size
    with pytest.raises(ConfigError, match=r"2 checkpoints of 1\.\d+ GiB do not fit into the .* of store"):
        costs_of({"keep": 2}, {"capacity": 1.99 * size})
    with pytest.raises(ConfigError, match="in 3 copies"):
        costs_of({"keep": 1}, {"capacity": 2.9 * size, "kind": "replicated", "replication": 3})


def test_copies_must_fit_into_host_memory() -> None:
    size = costs_of({}).bytes
    tight = {"host": {"memory": 0.9 * size}}
    assert costs_of({}, node=tight).bytes == size
    with pytest.raises(ConfigError, match="of host memory, a node has"):
        costs_of({"mode": "asynchronous"}, node=tight)
    assert costs_of({"mode": "asynchronous"}, node={"host": {"memory": 1.1 * size}}).bytes == size


# --- beside training --------------------------------------------------------------------------------

TWO: Fields = {
    "nodes": 2,
    "node": {"accelerators": 1, "local": {"kind": "none", "bandwidth": 0.0}, "nics": {"count": 1, "latency": 0.0}},
    "training": {"global_batch": 2},
}


@pytest.mark.parametrize("copies", [50.0, 0.05])
def test_a_drain_takes_half_of_a_shared_adapter(copies: float) -> None:
    """Two replicas sum gradients over the adapters that drain a checkpoint: max-min gives each half.

    The all-reduce takes twice its time while both run, and the drain has the whole adapter otherwise.
    """
    made = experiment({"mode": "asynchronous"}, ON_FABRIC, **TWO)
    step = simulate_step(made)
    plan = step.plan
    gradients = plan.software.gradient_comm_bytes * total_parameters(plan.model, 512)
    comm, rate = gradients / 25e9, 25e9  # a ring of two sends every byte once
    size = copies * step.trace.time * rate
    assert plan.cluster.storage is not None
    files = file_transfers(plan, plan.cluster.storage, np.full(2, size), np.inf, write=True)
    drain = drain_beside(plan, files, step.trace.time)
    if copies < 1:  # over before the gradients come
        assert drain.seconds == pytest.approx(size / rate)
        assert drain.slowdown == 1
        return
    longer = step.trace.time + comm
    per_step = rate * (longer - comm)  # all of the adapter, but for half of it during 2 * comm
    steps = size / per_step
    assert drain.slowdown == pytest.approx(longer / step.trace.time, rel=0.02)
    assert drain.seconds == pytest.approx(steps * longer, rel=0.02)
    whole = int(steps)
    assert whole * longer * (1 - 1e-9) <= drain.seconds <= (whole + 1) * longer
    assert drain.lost == pytest.approx(whole * comm, abs=comm * 1.0001)


@pytest.mark.parametrize("name", ["1f1b", "ZeRO 1 beside", "replicas on a switch", "three tiers"])
def test_shortcuts_do_not_move_a_drain(name: str) -> None:
    case = CASES[name] | {"nodes": CASES[name].get("nodes", 1)}
    options: tuple[Fields, ...] = (
        {},
        {"fold": "off", "prune": "off", "certificate": True},
        {"coalesce": "off"},
        {"skip": "off"},
    )
    made = [
        experiment({"mode": "asynchronous"}, {**ON_FABRIC, "write_bandwidth": 2e10}, **case, simulation=each)
        for each in options
    ]
    step = simulate_step(made[0]).trace.time
    found = [checkpoint_costs(plan_of(each), step) for each in made]
    for other in found[1:]:
        assert other.drain_s == pytest.approx(found[0].drain_s, rel=1e-9)
        assert other.drain_slowdown == pytest.approx(found[0].drain_slowdown, rel=1e-9)
    assert found[0].drain_slowdown > 1


def test_a_plan_with_waiting_transfers_runs_as_without() -> None:
    made = experiment({"mode": "asynchronous"}, ON_FABRIC, nodes=4, fabric=LEAF_SPINE, training={"global_batch": 32})
    step = simulate_step(made)
    assert step.plan.cluster.storage is not None
    files = file_transfers(step.plan, step.plan.cluster.storage, np.full(32, 1.0), np.inf, write=True)
    assert drain_beside(step.plan, files, step.trace.time).lost == pytest.approx(0, abs=1e-6 * step.trace.time)
    both = with_transfers(step.plan, files, training=True)
    loads = [sum(flow_set.coefficient.sum() for flow_set in plan.flows) for plan in (both, step.plan)]
    assert loads[0] - loads[1] == pytest.approx(32 * 5)  # adapter, leaf, spine, adapter of the server, drives


def test_transfers_of_many_sizes_drain_one_after_another() -> None:
    """Twenty ends, each in a step of its own: steps in which none ends are left out."""
    shape: dict[str, Any] = {**TWO, "nodes": 20, "training": {"global_batch": 20}}
    step = simulate_step(experiment({"mode": "asynchronous"}, {**ON_FABRIC, "servers": 40}, **shape))
    plan, alone = step.plan, step.trace.time
    gradients = plan.software.gradient_comm_bytes * total_parameters(plan.model, 512)
    longer = alone + 2 * 19 / 20 * gradients / 25e9  # the ring has half of an adapter while anyone drains
    assert plan.cluster.storage is not None
    each_step = 25e9 * alone  # moved by a rank in a longer step
    sizes = np.array([each_step * (turn + 0.5) for turn in range(20)])
    files = file_transfers(plan, plan.cluster.storage, sizes, np.inf, write=True)
    drain = drain_beside(plan, files, alone)
    assert drain.seconds == pytest.approx(19.5 * longer, rel=0.03)
    assert drain.slowdown == pytest.approx(longer / alone, rel=0.05)


def test_copies_in_the_memory_of_a_peer() -> None:
    """Each of two nodes sends 1/2 of the state to the other, over an adapter that the gradients need too."""
    costs = costs_of({"mode": "in_memory"}, step_s=simulate_step(experiment({}, {}, **TWO)).trace.time, **TWO)
    half = costs.bytes / 2
    assert costs.peer_blocking_s >= half / 1e10
    assert costs.peer_restore_s == pytest.approx(costs.bytes / 25e9 + costs.bytes / 1e10, rel=1e-3)
    rare = {"mode": "in_memory", "peer_interval_steps": 1000}
    often = costs.peer_blocking_s
    assert costs_of(rare, step_s=1.0, **TWO).peer_blocking_s <= often


# --- wrong input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("save", "message"),
    [
        ("{}", "policy fixed needs interval or interval_steps"),
        ("{interval: 1 h, interval_steps: 10}", "both interval and interval_steps"),
        ("{policy: daly, interval: 1 h}", "policy daly finds the interval itself"),
        ("{interval: 1 h, mode: asynchronous}", "at no known rate"),
        ("{interval: 30}", "30 has no unit"),
        ("{interval: 1 h, mode: in_memory, host_copy_bandwidth: 20 GB/s}", "needs a second node"),
    ],
)
def test_wrong_checkpoints_are_explained(save: str, message: str) -> None:
    store = "cluster.storage={name: s, read_bandwidth: 1 GB/s, write_bandwidth: 1 GB/s}"
    small = ("nodes=1", "training.global_batch=64", "cluster.fabric=null")
    with pytest.raises(ConfigError) as raised:
        load_experiment("llama3-8b-dgx-h100", (store, *small, f"checkpoint={save}"))
    assert message in str(raised.value)


def test_checkpoints_need_storage() -> None:
    with pytest.raises(ConfigError, match="checkpoints need storage, and the cluster has none"):
        load_experiment("llama3-8b-dgx-h100", ("checkpoint={interval: 1 h}",))
