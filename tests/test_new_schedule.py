"""A schedule is a file: this one brings V-shaped chunks, forward all and then backward.

Beside it stand the shipped schedules whose weight gradients are tasks of their own, and breadth-first.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from equal import assert_same
from plans import small_experiment
from test_pipeline import IDEAL
from test_plan_search import bounds_of, exhaustive
from test_schedule import walk
from test_shortcuts import SHORTCUTS

from sim.ask.plan.axes import axes_of, with_values
from sim.ask.plan.search import search_plans
from sim.ask.plan.space import open_space
from sim.ask.run.reuse import plan_step
from sim.ask.run.step import Simulated, simulate_step
from sim.errors import ConfigError
from sim.inputs.records import Experiment
from sim.metrics.breakdown import rank_time
from sim.metrics.memory import moments_by_stage
from sim.phase import Phase
from sim.schedule.catalogue import SCHEDULES, held_of, schedule_of
from sim.schedule.table import Ints, ScheduleKind

F, B, W = Phase.FORWARD, Phase.INPUT_GRADIENT, Phase.WEIGHT_GRADIENT
SECONDS = {F: 1.0, B: 1.0, W: 1.0}


def in_a_v(stages: int, virtual: int, microbatches: int) -> tuple[Ints, ...]:
    """Two chunks a stage, down and up again: all forward, then all backward."""
    turns = np.arange(microbatches)
    tables = []
    for stage in range(stages):
        near, far = stage, 2 * stages - 1 - stage
        passes = ((F, near), (F, far), (B, far), (B, near))
        tables.append(np.concatenate([np.stack([0 * turns + p, 0 * turns + c, turns], axis=1) for p, c in passes]))
    return tuple(tables)


def anything_goes(stages: int, virtual: int, microbatches: int) -> Iterator[tuple[str, str]]:
    """No objections to one chunk a stage."""
    if virtual > 1:
        yield "one chunk a stage", "set virtual_stages to 1"


V_GPIPE = ScheduleKind("v-gpipe", lambda stages, _: (*range(stages), *reversed(range(stages))), in_a_v, anything_goes)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalogue with it."""
    monkeypatch.setitem(SCHEDULES, V_GPIPE.name, V_GPIPE)


def ideal(schedule: str, stages: int, microbatches: int, virtual: int = 1, **software: Any) -> Simulated:
    """Equal stages of matrix products alone, with free sends."""
    parts = IDEAL | {"node": {**IDEAL["node"], "accelerators": stages}, "software": {**IDEAL["software"], **software}}
    return simulate_step(
        small_experiment(
            **parts,
            model={"layers": 2 * stages, "hidden": 2**20, "heads": 1024, "ffn": 2**22, "vocab": 1},
            training={"global_batch": microbatches, "sequence_length": 128},
            parallelism={"pipeline": stages, "schedule": schedule, "virtual_stages": virtual},
            simulation={"skip": "off"},
        )
    )


def job(schedule: str, **parallelism: Any) -> Experiment:
    """A job that exchanges gradients beside its passes, with collectives inside and between nodes."""
    return small_experiment(
        nodes=4,
        model={"layers": 8},
        parallelism={"tensor": 2, "pipeline": 4, "schedule": schedule, **parallelism},
        training={"global_batch": 4 * 12},
        software={"gradient_overlap": True, "overlap_slowdown": 0.1, "tensor_overlap": "backward"},
    )


def task_seconds(run: Simulated) -> dict[str, float]:
    """Seconds of a task of each phase, in the order of phases."""
    actions = [run.trace.program.actions[template.action] for template in run.trace.program.templates]
    return {action.label: action.duration for action in actions if action.category == "compute"}


def seconds_of(run: Simulated, rank: int, part: str) -> float:
    return rank_time(run.trace, rank).exposed.get(part, 0.0)


class TestZeroBubble:
    @pytest.mark.parametrize(("stages", "microbatches"), [(2, 4), (4, 4), (4, 12), (8, 24)])
    def test_the_table_idles_as_published(self, stages: int, microbatches: int) -> None:
        _, idle = walk(schedule_of("zb-h1", stages, 1, microbatches), SECONDS)
        assert idle == [stages - 1.0] * stages

    @pytest.mark.parametrize(("stages", "microbatches"), [(4, 8), (8, 24)])
    def test_no_stage_holds_more_than_the_first_under_1f1b(self, stages: int, microbatches: int) -> None:
        schedule = schedule_of("zb-h1", stages, 1, microbatches)
        assert [schedule.held(stage).max() for stage in range(stages)] == [stages] * stages

    @pytest.mark.parametrize(("stages", "microbatches"), [(2, 4), (4, 4), (4, 12)])
    def test_the_engine_idles_as_published(self, stages: int, microbatches: int) -> None:
        run, plain = (ideal(name, stages, microbatches) for name in ("zb-h1", "1f1b"))
        assert set(task_seconds(run)) == {"forward", "backward", "weight gradient"}
        forward, back, weight = task_seconds(run).values()
        for rank in range(stages):
            work = seconds_of(run, rank, "compute")
            assert work == pytest.approx(seconds_of(plain, rank, "compute"), rel=1e-9)  # split, none is lost or added
            published = (stages - 1) * (forward + back - weight)
            assert seconds_of(run, rank, "bubble") == pytest.approx(published, rel=1e-5)
            assert seconds_of(plain, rank, "bubble") == pytest.approx((stages - 1) * work / microbatches, rel=1e-5)

    def test_matrix_work_is_conserved(self) -> None:
        """Operations are divided among the tasks of the backward pass; collectives run beside what is left."""
        split, plain = (simulate_step(job(name)).plan.chunks for name in ("zb-h1", "1f1b"))
        for one, other in zip(split, plain, strict=True):
            for mine, theirs in zip(one.segments, other.segments, strict=True):
                for piece, whole in zip(mine.pieces, theirs.pieces, strict=True):
                    _, inputs, weights = (each.operations for each in piece.passes.by_phase)
                    back = whole.passes.by_phase[B].operations
                    assert all((each.phase is W) == (each in weights) for each in (*inputs, *weights))
                    found = sorted(each.name for each in (*inputs, *weights))
                    assert found == sorted(each.name for each in back)
                    assert all(each.hidden_by < len(inputs) for each in inputs)

    @pytest.mark.parametrize("zero", [0, 1, 2, 3])
    @pytest.mark.parametrize("name", ["zb-h1", "zb-h2"])
    def test_shortcuts_are_exact(self, name: str, zero: int) -> None:
        experiment = job(name, zero_stage=zero)
        quick = simulate_step(experiment)
        for off in (*((each,) for each in SHORTCUTS), SHORTCUTS):
            simulation = experiment.simulation.model_copy(update=dict.fromkeys(off, "off"))
            assert_same(quick, simulate_step(experiment.model_copy(update={"simulation": simulation})))

    def test_it_is_faster_than_1f1b_and_holds_more(self) -> None:
        quick, plain = (simulate_step(job(name)) for name in ("zb-h1", "1f1b"))
        assert quick.trace.time < plain.trace.time
        held, less = (
            [moments["loss"]["activations"] for moments in moments_by_stage(job(name).setup)]
            for name in ("zb-h1", "1f1b")
        )
        assert held[0] == less[0]
        assert held[-1] == held[0] > less[-1]

    @pytest.mark.parametrize("zero", [0, 1, 3])
    def test_gradients_are_summed_after_the_tasks_that_leave_them(self, zero: int) -> None:
        program = simulate_step(job("zb-h1", zero_stage=zero)).trace.program
        label = [program.actions[template.action].label for template in program.templates]
        signaller = {t.signal[0]: name for t, name in zip(program.templates, label, strict=True) if t.signal}
        awaited = [
            {signaller[kind] for kind, _ in template.waits}
            for template, name in zip(program.templates, label, strict=True)
            if name.startswith("gradients ")
        ]
        assert awaited
        assert all(each == {"weight gradient"} for each in awaited)


class TestZeroBubbleV:
    @pytest.mark.parametrize(("stages", "microbatches"), [(2, 3), (4, 7), (4, 12), (8, 24)])
    def test_the_table_idles_until_the_first_microbatch_is_there(self, stages: int, microbatches: int) -> None:
        """(p - 1) passes of chunks of half the size, half of what ZB-H1 idles."""
        _, idle = walk(schedule_of("zb-v", stages, 2, microbatches), SECONDS)
        assert idle == [stages - 1.0] * stages

    @pytest.mark.parametrize(("stages", "microbatches"), [(2, 8), (4, 8), (8, 24)])
    def test_all_stages_hold_as_many_as_the_first_under_1f1b(self, stages: int, microbatches: int) -> None:
        """p microbatches of two chunks."""
        most = [max(map(sum, held_of("zb-v", stages, 2, microbatches, stage))) for stage in range(stages)]
        assert most == [2 * stages] * stages

    @pytest.mark.parametrize(("stages", "microbatches"), [(2, 4), (4, 8), (4, 12)])
    def test_the_engine_idles_less_than_zb_h1(self, stages: int, microbatches: int) -> None:
        """By half, as tasks take nearly equally long; twice the launches cost next to nothing."""
        run, other = ideal("zb-v", stages, microbatches, virtual=2), ideal("zb-h1", stages, microbatches)
        for rank in range(stages):
            assert seconds_of(run, rank, "compute") == pytest.approx(seconds_of(other, rank, "compute"), rel=1e-6)
            idle, published = seconds_of(run, rank, "bubble"), seconds_of(other, rank, "bubble")
            assert idle == pytest.approx(published / 2, rel=1e-3)

    def test_nothing_is_sent_where_the_model_turns(self) -> None:
        plan = simulate_step(job("zb-v", virtual_stages=2)).plan
        assert [chunk.stage for chunk in plan.chunks] == [0, 1, 2, 3, 3, 2, 1, 0]
        assert "embedding" not in plan.flow_sets


class TestBreadthFirst:
    @pytest.mark.parametrize(("stages", "virtual", "microbatches"), [(2, 2, 4), (4, 2, 4), (4, 3, 10)])
    def test_it_idles_as_interleaved_and_holds_all(self, stages: int, virtual: int, microbatches: int) -> None:
        """(p - 1)(F + B) of chunks (Lamy-Poirier 2022, section 4.1); needs no multiple of the stages."""
        schedule = schedule_of("breadth-first", stages, virtual, microbatches)
        _, idle = walk(schedule, {F: 1.0, B: 2.0})
        assert idle == [3.0 * (stages - 1)] * stages
        assert [schedule.held(stage).sum(axis=1).max() for stage in range(stages)] == [virtual * microbatches] * stages

    def test_it_is_gpipe_where_a_stage_has_one_chunk(self) -> None:
        one, other = (simulate_step(job(name)) for name in ("breadth-first", "gpipe"))
        assert one.trace.time == other.trace.time


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["zb-v", "breadth-first", "v-half", "v-min", "dualpipe-v"])
def test_shortcuts_are_exact_with_two_chunks_a_stage(name: str, zero: int) -> None:
    experiment = job(name, virtual_stages=2, zero_stage=zero)
    quick = simulate_step(experiment)
    for off in (*((each,) for each in SHORTCUTS), SHORTCUTS):
        simulation = experiment.simulation.model_copy(update=dict.fromkeys(off, "off"))
        assert_same(quick, simulate_step(experiment.model_copy(update={"simulation": simulation})))


class TestInAV:
    def test_nothing_is_sent_where_the_model_turns(self) -> None:
        plan = simulate_step(job("v-gpipe")).plan
        assert [chunk.stage for chunk in plan.chunks] == [0, 1, 2, 3, 3, 2, 1, 0]
        assert plan.flows[plan.flow_sets["forward"]].n == plan.flows[plan.flow_sets["backward"]].n
        stages = {plan.stage_of(rank) for rank in plan.flows[plan.flow_sets["forward"]].members[:, 0].tolist()}
        assert stages == {0, 1, 2}
        assert "embedding" not in plan.flow_sets  # both ends are on the first stage

    def test_shortcuts_are_exact(self) -> None:
        experiment = job("v-gpipe")
        simulation = experiment.simulation.model_copy(update=dict.fromkeys(SHORTCUTS, "off"))
        assert_same(simulate_step(experiment), simulate_step(experiment.model_copy(update={"simulation": simulation})))

    def test_a_tied_table_counts_once_where_both_ends_are_on_one_stage(self) -> None:
        whole, halves = (
            sum(segment.parameters for chunk in plan_step(plan).chunks for segment in chunk.segments)
            for plan in (job("1f1b", pipeline=1), job("v-gpipe"))
        )
        assert halves == whole

    def test_each_of_its_chunks_needs_a_layer(self) -> None:
        with pytest.raises(ConfigError, match="v-gpipe on pipeline 8 has 16 chunks for 8 layers"):
            job("v-gpipe", pipeline=8)


class TestByName:
    def test_its_name_is_accepted_and_others_are_told(self) -> None:
        assert job("zb-h1").parallelism.schedule == "zb-h1"
        names = "1f1b, gpipe, breadth-first, zb-h1, zb-h2, zb-v, v-half, v-min, dualpipe-v, v-gpipe"
        with pytest.raises(ConfigError, match=f"must be one of {names}, not 'zb-h3'"):
            job("zb-h3")

    def test_its_objections_are_told(self) -> None:
        with pytest.raises(ConfigError, match=r"zb-h1 has no virtual_stages, 2 are given"):
            job("zb-h1", virtual_stages=2)
        with pytest.raises(ConfigError, match=r"zb-v has two chunks a stage, virtual_stages 1 is given"):
            job("zb-v")
        with pytest.raises(ConfigError, match=r"virtual_stages 2 without a pipeline"):
            job("zb-v", pipeline=1, virtual_stages=2)

    @pytest.mark.parametrize(
        ("name", "virtual"),
        [
            ("zb-h1", 1),
            ("v-gpipe", 1),
            ("zb-v", 2),
            ("breadth-first", 2),
            ("v-half", 2),
            ("v-min", 2),
            ("dualpipe-v", 2),
        ],
    )
    def test_the_plan_search_bounds_it(self, name: str, virtual: int) -> None:
        experiment = small_experiment(
            nodes=2, model={"layers": 8}, training={"global_batch": 32}, software={"gradient_overlap": True}
        )
        limits = {"schedule": (name,), "pipeline": (2, 4), "tensor": (1, 2, 4), "zero_stage": (0, 1, 3)}
        limits |= {"virtual_stages": (virtual,)}
        table = open_space(experiment, axes_of(limits, experiment.setup)).table
        table = table.take(np.arange(0, table.n, max(1, table.n // 12)))
        bounds = bounds_of(experiment, table).of(table).seconds
        shares = []
        for row, bound in enumerate(bounds.tolist()):
            time = simulate_step(with_values(experiment, table.choice(row))).trace.time
            assert bound <= time * (1 + 1e-9), table.choice(row)
            shares.append(bound / time)
        assert np.median(shares) > 0.6

    def test_the_plan_search_finds_it(self) -> None:
        experiment = small_experiment(model={"layers": 8}, training={"global_batch": 8})
        limits = {"schedule": ("1f1b", "zb-h1"), "pipeline": (4,), "tensor": (1, 2), "recompute": ("none",)}
        every = exhaustive(experiment, limits)
        found = search_plans(experiment, limits, top=3, jobs=1)
        assert [plan.step_s for plan in found.plans] == pytest.approx([time for time, _ in every[:3]], rel=1e-9)
        assert found.plans[0].values["parallelism.schedule"] == "zb-h1"
