"""Clusters, placements and steps of earlier experiments are used again, and nothing moves."""

from __future__ import annotations

from math import inf
from types import SimpleNamespace
from typing import Any, get_args

import pytest
from plans import LEAF_SPINE, small_experiment

from sim.ask.run.reuse import plan_step, step_key
from sim.ask.run.simulate import simulate
from sim.comm.pattern import Carrier, Group
from sim.comm.tuner import collective_cost
from sim.graph.operation import CollectiveKind
from sim.inputs.load import load_experiment
from sim.inputs.records import Experiment
from sim.layout.plan import layout_key
from sim.memo import Memo
from sim.metrics.memory import memory_key, memory_result
from sim.metrics.result import MemoryResult, Result
from sim.programs.assemble import assemble
from sim.programs.ranks import build_job
from sim.record import text_of

BASE: dict[str, Any] = {
    "nodes": 4,
    "fabric": LEAF_SPINE,
    "model": {"layers": 8},
    "parallelism": {"tensor": 4, "pipeline": 2, "data": 4},
    "training": {"global_batch": 32},
}
CHANGES: dict[str, dict[str, Any]] = {
    "itself": {},
    "model": {"model": {"layers": 4, "hidden": 512}},
    "tied": {"model": {"layers": 8, "tied_embeddings": False}},
    "training": {"training": {"global_batch": 64, "microbatch": 2, "recompute": "none"}},
    "software": {"software": {"gradient_overlap": True}},
    "slow host": {"software": {"host_issue": 1e-4}},
    "slowdown": {"software": {"gradient_overlap": True, "overlap_slowdown": 0.2}},
    "tensor": {"parallelism": {"tensor": 2, "pipeline": 4, "data": 4}},
    "zero": {"parallelism": {"tensor": 4, "pipeline": 2, "data": 4, "zero_stage": 1}},
    "gpipe": {"parallelism": {"tensor": 4, "pipeline": 2, "data": 4, "schedule": "gpipe"}},
    "sequence": {"parallelism": {"tensor": 4, "pipeline": 2, "data": 4, "sequence_parallel": True}},
    "chunks": {"parallelism": {"tensor": 4, "pipeline": 2, "data": 4, "virtual_stages": 2}},
    "groups": {"parallelism": {"tensor": 4, "pipeline": 2, "data": 4, "zero_stage": 1, "shard_group": 2}},
    "second copy": {"parallelism": {"data": 32, "zero_stage": 3, "second_copy": 8}},
    "second copies": {"parallelism": {"data": 32, "zero_stage": 3, "second_copy": 4}},
    "another seed": {"seed": 5},
    "random": {"parallelism": {"tensor": 4, "pipeline": 2, "data": 4, "placement": "random"}},
    "other seed": {"parallelism": {"tensor": 4, "pipeline": 2, "data": 4, "placement": "random"}, "seed": 5},
    "slow": {"degradations": [{"accelerator": "node0/gpu1", "factor": 0.5}]},
    "slow link": {"degradations": [{"link": "node0/nic0->unit0/leaf0", "factor": 0.5}]},
    "fabric": {"fabric": LEAF_SPINE | {"leaf_oversubscription": 4.0}},
    "routing": {"routing": {"kind": "ecmp", "seed": 3}},
    "nodes": {"nodes": 5},
    "power limit": {"power": {"limit": 200.0}},
    "faster memory": {"accelerator": {"memory": {"capacity": 8e10, "bandwidth": 3e12}}},
    "other kind": {"accelerator": {"kind": "tpu"}},
    "start-up": {"node": {"collectives": {"ring_hop": 5e-6}}},
    "slow ports": {"node": {"local": {"kind": "switch", "bandwidth": 100e9, "latency": 2e-6}}},
    "window": {"node": {"nics": {"window": 1e4}}},
    "adapters": {"node": {"nics": {"bandwidth": 50e9}}},
    "power of fans": {"node": {"power": {"fans": {"idle": 100.0, "busy": 200.0}}}},
    "slow kind": {"accelerator": {"matrix": {"peak": {"bf16": 1e14, "fp16": 1e14}, "efficiency": 0.5}}},
    "fold": {"simulation": {"fold": "off"}},
    "prune": {"simulation": {"prune": "off"}},
}


LONG: dict[str, Any] = {
    "extends": "gpt3-175b-a100",
    "cluster": {"extends": "dgx-a100-superpod", "storage": "ddn-ai400x2"},
    "training": {"global_batch": 64, "tokens": "1B"},
    "checkpoint": {"interval": "10 min", "host_copy_bandwidth": "20 GB/s"},
    "failures": "infinitehbd",
    "recovery": {"warm_spares": 4},
    "site": "google-iowa",
    "prices": "own-a100",
}
RUN_CHANGES = (
    ("name", "another"),
    ("checkpoint.interval", "1 h"),
    ("checkpoint.mode", "asynchronous"),
    ("checkpoint.restore", "broadcast"),
    ("failures.modes.8.mtbf", "20 days"),
    ("failures", "lanl-2005"),
    ("recovery.warm_spares", 0),
    ("site.pue", 1.5),
    ("site", None),
    ("prices", None),
    ("training.tokens", "2B"),
    ("training.time_limit", "1 h"),
    ("measured", None),
)  # what happens between the steps, and what they cost


def experiment(change: str, reuse: str = "auto") -> Experiment:
    fields = BASE | CHANGES[change]
    return small_experiment(**fields | {"simulation": fields.get("simulation", {}) | {"reuse": reuse}})


def content(result: Result) -> dict[str, Any]:
    """All of a result but the time it took and the switch itself."""
    return {name: value for name, value in result.to_json().items() if name not in ("wall_s", "manifest")}


@pytest.mark.parametrize("change", CHANGES)
def test_a_result_does_not_depend_on_what_ran_before(change: str) -> None:
    """Every other change of the experiment runs first, so that whatever can be mistaken for it is known."""
    alone = content(simulate(experiment(change, reuse="off")))
    for other in CHANGES:
        assemble(build_job(plan_step(experiment(other))))
    for _ in range(2):
        assert content(simulate(experiment(change))) == alone


def test_a_long_run_does_not_depend_on_what_ran_before() -> None:
    """All of them share one simulated step, and what is read off it."""
    changed = [load_experiment(LONG, [change]).experiment for change in RUN_CHANGES]
    assert len({step_key(each) for each in changed}) == 1
    anew = [load_experiment(LONG, [change, "simulation.reuse=off"]).experiment for change in RUN_CHANGES]
    results = [simulate(each) for each in changed]
    for found, alone in zip(results, map(simulate, anew), strict=True):
        assert content(found) == content(alone)
    assert [result.manifest["name"] for result in results[:2]] == ["another", "experiment"]


def test_steps_that_differ_have_other_keys() -> None:
    keys = {step_key(experiment(change)) for change in CHANGES}
    assert len(keys) == len(CHANGES)


def test_what_is_equal_is_used_again() -> None:
    first = plan_step(experiment("itself"))
    for change in ("itself", "model", "training", "software", "gpipe", "sequence", "zero", "another seed"):
        again = plan_step(experiment(change))
        assert again.cluster is first.cluster
        assert again.partition is first.partition
    for change in ("faster memory", "slow kind", "start-up", "power of fans"):
        other = plan_step(experiment(change))
        assert other.cluster.links is first.cluster.links
        assert other.partition is first.partition
    for change in ("tensor", "random", "fold", "chunks", "groups"):
        other = plan_step(experiment(change))
        assert other.cluster is first.cluster
        assert other.partition is not first.partition


def test_chunks_are_used_again_for_the_same_model_and_split() -> None:
    first = plan_step(experiment("itself")).chunks
    for change in ("itself", "fabric", "adapters", "slow kind", "fold"):
        assert plan_step(experiment(change)).chunks is first
    for change in ("model", "tied", "training", "software", "tensor", "zero"):
        assert plan_step(experiment(change)).chunks is not first


def test_times_are_used_again_on_the_same_board_node_and_stack() -> None:
    first = build_job(plan_step(experiment("itself"))).known
    for change in ("itself", "fabric", "adapters", "tensor", "fold"):
        assert build_job(plan_step(experiment(change))).known is first
    for change in ("software", "slow host", "slowdown", "start-up", "slow ports", "faster memory", "power limit"):
        assert build_job(plan_step(experiment(change))).known is not first


HELD: dict[str, dict[str, Any]] = {
    "twice the batch": {"training": {"global_batch": 64}},
    "a batch of two microbatches": {"training": {"global_batch": 8}},
    "one microbatch": {"training": {"global_batch": 4}},
    "one microbatch, sharded": {"training": {"global_batch": 4}, "parallelism": {"data": 4, "zero_stage": 2}},
    "sharded": {"parallelism": {"data": 4, "zero_stage": 2}},
    "few replicas": {"parallelism": {"data": 2, "zero_stage": 2}},
    "tokens": {"training": {"global_batch": 32, "tokens": 1e9}},
    "full recomputation": {"training": {"global_batch": 32, "recompute": "full"}},
    "optimizer": {"training": {"global_batch": 32, "optimizer": "sgd"}},
    "less memory": {"accelerator": {"memory": {"capacity": 1e9, "bandwidth": 2e12}}},
    "reserved memory": {"accelerator": {"memory": {"capacity": 8e10, "bandwidth": 2e12, "reserved": 1e9}}},
    "kept gradients": {"software": {"gradient_buffer": False}},
}


def test_memory_that_may_be_used_again_is_equal() -> None:
    """Experiments of equal keys have equal memory, whatever else they differ in; many have."""
    found: dict[object, list[MemoryResult]] = {}
    for change in (*CHANGES.values(), *HELD.values()):
        setup = small_experiment(**BASE | change).setup
        found.setdefault(memory_key(setup), []).append(memory_result(setup))
    assert all(each == alike[0] for alike in found.values() for each in alike)
    assert len({repr(alike[0]) for alike in found.values()}) > 15
    base, more, faster = (
        memory_key(small_experiment(**BASE | change).setup)
        for change in ({}, HELD["twice the batch"], CHANGES["faster memory"])
    )
    assert base == more
    assert faster != memory_key(small_experiment(**BASE | HELD["less memory"]).setup)


def test_memory_is_not_used_again_when_switched_off() -> None:
    one, other, anew = (simulate(experiment("itself", reuse=reuse)).memory for reuse in ("auto", "auto", "off"))
    assert one is other
    assert one is not anew
    assert one == anew


LAID = tuple(Carrier(name, 1e11, 1e-6) for name in ("exchange", "broadcast"))


@pytest.mark.parametrize("kind", get_args(CollectiveKind))
@pytest.mark.parametrize("group", [Group(8, 1, 1e-6, 3e11, inf, LAID), Group(16, 2, 2e-6, 3e11, 25e9, LAID)])
def test_collectives_cost_what_two_records_of_the_node_say(kind: str, group: Group) -> None:
    """Times are kept by these two."""
    node = plan_step(experiment("itself")).cluster.node
    part = SimpleNamespace(collectives=node.collectives, local=node.local)
    assert collective_cost(kind, 1e6, group, part) == collective_cost(kind, 1e6, group, node)  # type: ignore[arg-type]


def test_switched_off_everything_is_made_anew() -> None:
    one, other = (plan_step(experiment("itself", reuse="off")) for _ in range(2))
    assert one.cluster is not other.cluster
    assert one.partition is not other.partition
    assert one.chunks is not other.chunks
    assert build_job(one).known is not build_job(one).known


def test_layouts_that_differ_have_other_keys() -> None:
    keys = [
        layout_key(experiment(change))
        for change in ("itself", "tied", "tensor", "random", "other seed", "fold", "chunks")
    ]
    assert len(set(keys)) == len(keys)


def test_the_text_of_a_record_is_written_once_and_is_its_own() -> None:
    record = plan_step(experiment("itself")).software
    changed = record.model_copy(update={"host_issue": 1.0})
    assert text_of(record) is text_of(record)
    assert text_of(record) == text_of(record.model_copy()) == record.model_dump_json()
    assert text_of(changed) == changed.model_dump_json() != text_of(record)


class TestMemo:
    def test_old_values_make_room(self) -> None:
        memo: Memo[int] = Memo(limit=3)
        made: list[int] = []
        for key in (1, 2, 3, 1, 4, 1, 3, 2):
            if key not in memo.known:
                made.append(key)
            memo.get(key, lambda: 0, lambda value: 1.0)
        assert made == [1, 2, 3, 4, 2]
        assert memo.weight == len(memo.known) == 3

    def test_a_value_above_the_limit_is_kept_alone(self) -> None:
        memo: Memo[str] = Memo(limit=10)
        for key in ("a", "b"):
            memo.get(key, lambda: "small", lambda value: 1.0)
        memo.get("large", lambda: "large", lambda value: 100.0)
        assert list(memo.known) == ["large"]
        memo.get("a", lambda: "small", lambda value: 1.0)
        assert list(memo.known) == ["a"]
