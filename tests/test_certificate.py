"""Folding by certificate: a step over a part of the links, checked against all of them, is that of all of them.

The oracle of every case is the engine with each rank, link and flow on its own.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import Any

import numpy as np
import pytest
from equal import EXACT, assert_same
from plans import CASES, LEAF_SPINE, small_experiment

import sim.ask.run.proof
import sim.ask.run.size
import sim.layout.plan
from sim.ask.run.bounds import step_bounds
from sim.ask.run.proof import proved_step
from sim.ask.run.simulate import simulate
from sim.ask.run.step import Runs, Simulated, prepare_step, simulate_step
from sim.engine.lockstep import out_of_step
from sim.engine.moves import moves_of
from sim.engine.overload import check_loads
from sim.engine.trace import Trace
from sim.errors import ConfigError, PlanError
from sim.inputs.load import load_experiment
from sim.inputs.records import Experiment, Simulation
from sim.metrics.energy_step import step_energy

FIXED, RANDOM = 60, 200
ONCE_WRONG = 1104, 1150  # joined rows for ever; took rates that held for an instant for a peak
ANEW = {"reuse": "off"}


@pytest.fixture(autouse=True)
def every_job_is_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    """However few ranks it has, and however little they fold, or skip."""
    monkeypatch.setattr(sim.ask.run.proof, "WORTH", 1.1)
    monkeypatch.setattr(sim.layout.plan, "PROVED_RANKS", 0)
    monkeypatch.setattr(sim.layout.plan, "FOLDED", 1.0)


def job(seed: int) -> dict[str, Any]:
    """Some job on a cluster whose middle may bind: ragged units, hashing, thin uplinks, shuffled nodes."""
    random = Random(seed)

    def one_of(*values: Any) -> Any:
        return random.choice(values)

    tensor, pipeline, data = one_of(1, 2, 2, 4), one_of(1, 2, 2, 3), one_of(3, 4, 5, 6, 8)
    nodes = -(-tensor * pipeline * data // 2) + one_of(0, 1)
    tiers = {"tiers": 3, "units_per_pod": 2, "cores": one_of(1, 2)} if one_of(True, False, False) else {}
    hashed = {"kind": "ecmp", "seed": seed}
    return {
        "nodes": nodes,
        "node": {"accelerators": 2, "nics": {"count": one_of(1, 2), "bandwidth": one_of(12.5e9, 25e9)}},
        "fabric": LEAF_SPINE
        | {
            "nodes_per_unit": one_of(1, 2, 3, 5),
            "spines": one_of(2, 4, 8),
            "leaf_oversubscription": one_of(1.0, 1.0, 2.0),
            "rail_optimized": one_of(True, False),
        }
        | tiers,
        "routing": one_of({}, {}, {"kind": "spray"}, hashed, hashed | {"queue_pairs": 2}),
        "model": {"layers": pipeline * one_of(1, 2)},
        "parallelism": {
            "tensor": tensor,
            "pipeline": pipeline,
            "data": data,
            "zero_stage": one_of(0, 1, 2, 3) if pipeline == 1 else one_of(0, 1),
            "placement": one_of("packed", "packed", "random", "random_nodes", "fragmented", "round_robin"),
        },
        "software": {
            "gradient_overlap": one_of(True, False),
            "pipeline_overlap": one_of(True, False),
            "overlap_slowdown": one_of(0.0, 0.0, 0.1),
        },
        "training": {"global_batch": data * one_of(1, 4, 9)},
        "degradations": [{"accelerator": "node0/gpu1", "factor": 0.7}] if one_of(True, False, False) else [],
        "seed": seed,
    }


def both(fields: dict[str, Any]) -> tuple[Simulated, Simulated]:
    """A job folded by certificate, and with every rank on its own."""
    proved = simulate_step(small_experiment(**fields, simulation=ANEW))
    return proved, simulate_step(small_experiment(**fields, simulation=ANEW | {"fold": "off"}))


def check(seed: int) -> None:
    try:
        proved, plain = both(job(seed))
    except ConfigError:
        pytest.skip("no valid job")
    assert_same(proved, plain)
    used, expected = (step_energy(each.readings.activity).phases for each in (proved, plain))
    assert used == pytest.approx(expected, rel=EXACT)
    bounds = step_bounds(small_experiment(**job(seed)))
    assert bounds.lower_s * (1 - EXACT) <= plain.trace.time <= bounds.upper_s * (1 + EXACT)


@pytest.mark.parametrize("seed", [*range(FIXED), *ONCE_WRONG])
def test_a_proved_step_is_the_step(seed: int) -> None:
    check(seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1_000, 1_000 + RANDOM))
def test_more_proved_steps_are_the_step(seed: int) -> None:
    check(seed)


@pytest.mark.parametrize("case", CASES)
def test_cases_of_the_shortcuts_are_proved(case: str) -> None:
    proved, plain = both(CASES[case])
    assert_same(proved, plain)


def hashed(seed: int) -> dict[str, Any]:
    """Four replicas of many microbatches, whose sends share hashed links: they repeat one by one, and meet at times."""
    return {
        "nodes": 16,
        "node": {"accelerators": 2, "nics": {"count": 2, "bandwidth": 12.5e9}},
        "fabric": LEAF_SPINE | {"nodes_per_unit": 3, "spines": 4},
        "routing": {"kind": "ecmp", "seed": seed},
        "parallelism": {"tensor": 2, "pipeline": 4, "data": 4},
        "training": {"global_batch": 4 * 40},
    }


class TestPartsSkippedOneByOne:
    @pytest.mark.parametrize(("seed", "skipped"), [(0, True), (7, True), (4, False), (9, False)])
    def test_they_take_as_long_as_with_every_period_simulated(self, seed: int, skipped: bool) -> None:
        quick = simulate_step(small_experiment(**hashed(seed), simulation=ANEW))
        slow = simulate_step(small_experiment(**hashed(seed), simulation=ANEW | {"fold": "off", "skip": "off"}))
        assert any(repeat.loose for repeat in quick.trace.repeats) == skipped
        assert quick.proof.rounds > 2
        assert not slow.trace.repeats
        assert_same(quick, slow)

    def test_where_little_is_skipped_no_further_round_tries(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sim.ask.run.proof, "WORTH", 0.0)
        step = simulate_step(small_experiment(**hashed(7), simulation=ANEW))
        assert not any(repeat.loose for repeat in step.trace.repeats)

    def test_parts_that_slow_one_another_repeat_together(self) -> None:
        step = simulate_step(small_experiment(**hashed(0), simulation=ANEW))
        assert [repeat.loose for repeat in step.trace.repeats] == [(0, 1, 2, 3)]

    def test_a_meeting_behind_their_back_is_refuted_and_simulated(self) -> None:
        """Links of less capacity than they were simulated with are overloaded where a part was not there to see it."""
        step = simulate_step(small_experiment(**hashed(7), simulation=ANEW))
        trace, table = step.trace, step.trace.table
        assert check_loads(trace, moves_of(trace)).is_fine
        slower = table.capacity / 2
        found = check_loads(replace(trace, table=replace(table, capacity=slower)), moves_of(trace)).met
        assert found
        for times in found.values():
            assert np.all((times[:, 0] >= 0) & (times[:, 0] < times[:, 1]) & (times[:, 1] <= trace.time))

    def test_without_stops_nothing_is_skipped_that_may_meet(self) -> None:
        prepared = prepare_step(small_experiment(**hashed(7), simulation=ANEW))
        trace = prepared.runs.run(simulate_step(prepared.setup.experiment).job, None)
        assert not any(repeat.loose for repeat in trace.repeats)


def ends_of_backward(trace: Trace) -> list[float]:
    """When the last backward pass of each rank class ends [s]."""
    labels = [action.label for action in trace.program.actions]
    return [
        float(end)
        for _, action, end in sorted(zip(trace.stream, trace.actions(), trace.end, strict=True))
        if labels[action] == "end of backward"
    ]


class TestRanksInLockStep:
    def slow_cable(self) -> Experiment:
        return small_experiment(
            nodes=8,
            node={"accelerators": 2, "nics": {"count": 2, "bandwidth": 200e9}},
            model={"layers": 8},
            parallelism={"tensor": 2, "pipeline": 2, "data": 4},
            software={"gradient_overlap": True, "overlap_slowdown": 0.2},
            training={"global_batch": 4 * 6},
            degradations=[{"link": "node2/nic1->switch0", "factor": 0.1}],
            simulation=ANEW,
        )

    def test_ranks_that_are_not_slowed_alike_are_found_out(self) -> None:
        prepared = prepare_step(self.slow_cable())
        groups = {number for number, flow in enumerate(prepared.job.flows) if flow.key == "tensor"}
        hoped = replace(prepared.job, in_step=frozenset(groups))
        unproved, exact = prepared.runs.run(hoped, {}), simulate_step(self.slow_cable()).trace
        assert out_of_step(unproved)
        proved = proved_step(hoped, Runs().run)
        assert proved.proof.rounds > 1
        wrong, right, found = (ends_of_backward(each) for each in (unproved, exact, proved.trace))
        assert not np.allclose(wrong, right, rtol=1e-4)
        np.testing.assert_allclose(found, right, rtol=EXACT)

    def test_the_proved_step_is_the_step(self) -> None:
        plain = self.slow_cable().model_copy(update={"simulation": Simulation(fold="off", coalesce="off", reuse="off")})
        assert_same(simulate_step(self.slow_cable()), simulate_step(plain))


@pytest.fixture(scope="module")
def ragged() -> Experiment:
    """Replicas of 16 nodes in units of 20, of which the last is partly filled."""
    changes = ("nodes=1024", "training.global_batch=12288", "parallelism.data=null", "simulation.reuse=off")
    return load_experiment("gpt3-175b-a100", changes).experiment


class TestAt8192Accelerators:
    def test_links_that_bind_join_and_classes_stay_few(self, ragged: Experiment) -> None:
        exactness, folding = (getattr(simulate(ragged), name) for name in ("exactness", "folding"))
        assert exactness.answer == "exact"
        assert exactness.rounds == 2
        assert exactness.links_joined > 0
        assert exactness.links_checked > 1000
        assert folding["rank_classes"] < 300

    def test_a_link_made_slower_behind_its_back_is_refuted(self, ragged: Experiment) -> None:
        """What was proved for links as they are says nothing about links of a tenth of their capacity."""
        step = simulate_step(ragged)
        moves, table = moves_of(step.trace), step.trace.table
        assert check_loads(step.trace, moves).is_fine
        loaded = np.flatnonzero(table.left_out & (step.trace.link_peak > 0.5))[0]
        capacity = table.capacity.copy()
        capacity[loaded] /= 10
        found = check_loads(replace(step.trace, table=replace(table, capacity=capacity)), moves)
        assert set(found.link.tolist()) == {int(loaded)}
        on_it = set(table.flow[table.link == loaded].tolist())
        assert set(found.flow.tolist()) <= on_it

    def test_the_first_round_alone_would_be_wrong(self, ragged: Experiment) -> None:
        prepared = prepare_step(ragged)
        unproved = prepared.runs.run(prepared.job, {})
        assert len(check_loads(unproved, moves_of(unproved)).link)
        proved = simulate_step(ragged).trace.time
        assert abs(proved / unproved.time - 1) > 1e-6


def test_a_job_that_no_memory_holds_is_refused_before_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sim.ask.run.size, "MOST_MEMORY", 1e-6)
    with pytest.raises(PlanError, match=r"ranks are unlike all others, which takes .* of memory.*run --bounds"):
        prepare_step(small_experiment(**hashed(0), simulation=ANEW))
