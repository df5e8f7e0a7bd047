"""Layers of stages as the plan says: who has what, embedding and loss by themselves, and what is said unasked."""

from __future__ import annotations

from typing import Any

import pytest
from equal import assert_same
from plans import small_experiment
from test_plan_search import bounds_of, exhaustive
from test_shortcuts import SHORTCUTS

from sim.ask.plan.axes import axes_of
from sim.ask.plan.search import search_plans
from sim.ask.plan.space import open_space
from sim.ask.run.reuse import plan_step
from sim.ask.run.simulate import simulate
from sim.ask.run.step import simulate_step
from sim.errors import ConfigError
from sim.inputs.records import Experiment
from sim.metrics.memory import memory_by_stage


def job(layers: int = 8, software: dict[str, Any] | None = None, **parallelism: Any) -> Experiment:
    return small_experiment(
        nodes=4,
        model={"layers": layers},
        parallelism={"tensor": 2, "pipeline": 4, **parallelism},
        training={"global_batch": 32},
        software=software or {},
    )


def layers_of(experiment: Experiment) -> list[int]:
    return [chunk.layers for chunk in plan_step(experiment).chunks]


class TestWhoHasWhat:
    def test_a_list_says_it_for_each_stage(self) -> None:
        assert layers_of(job(layers_per_stage=(1, 3, 3, 1))) == [1, 3, 3, 1]
        assert layers_of(job(virtual_stages=2, layers_per_stage=(1, 1, 1, 1, 2, 1, 1, 0))) == [1, 1, 1, 1, 2, 1, 1, 0]

    def test_the_ends_are_said_and_the_rest_is_even(self) -> None:
        assert layers_of(job(first_stage_layers=1, last_stage_layers=1)) == [1, 3, 3, 1]
        assert layers_of(job(last_stage_layers=1)) == [2, 3, 2, 1]
        assert layers_of(job(first_stage_layers=0)) == [0, 3, 3, 2]

    def test_an_even_list_is_the_same_as_none(self) -> None:
        assert_same(simulate_step(job()), simulate_step(job(layers_per_stage=(2, 2, 2, 2))))

    @pytest.mark.parametrize("zero", [0, 1, 3])
    @pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
    def test_work_and_weights_are_conserved(self, schedule: str, zero: int) -> None:
        """Embedding and loss on stages of their own: all blocks and parameters are somewhere, once."""
        plans = [
            plan_step(job(schedule=schedule, zero_stage=zero, layers_per_stage=sizes))
            for sizes in ((2, 2, 2, 2), (0, 4, 4, 0))
        ]
        flops, held = (
            [
                sum(
                    piece.count * piece.passes.matrix_flops
                    for c in plan.chunks
                    for s in c.segments
                    for piece in s.pieces
                )
                for plan in plans
            ],
            [sum(segment.parameters for chunk in plan.chunks for segment in chunk.segments) for plan in plans],
        )
        assert flops[0] == pytest.approx(flops[1], rel=1e-12)
        assert held[0] == held[1]

    def test_a_stage_without_layers_holds_its_end_alone(self) -> None:
        even, apart = (
            list(memory_by_stage(job(layers_per_stage=sizes).setup)) for sizes in ((2, 2, 2, 2), (0, 4, 4, 0))
        )
        model = plan_step(job()).architecture
        assert apart[0]["weights"] / even[0]["weights"] == pytest.approx(
            model.held(model.first).parameters / model.stage(range(2), first=True, last=False).parameters
        )
        assert apart[1]["weights"] == pytest.approx(2 * even[1]["weights"])
        assert apart[0]["activations"] < even[0]["activations"]

    @pytest.mark.parametrize("sizes", [(0, 4, 4, 0), (1, 3, 2, 2)])
    @pytest.mark.parametrize("zero", [0, 1, 3])
    def test_shortcuts_are_exact(self, zero: int, sizes: tuple[int, ...]) -> None:
        overlap = {"gradient_overlap": True, "overlap_slowdown": 0.1, "tensor_overlap": "backward"}
        experiment = job(zero_stage=zero, layers_per_stage=sizes, software=overlap)
        simulation = experiment.simulation.model_copy(update=dict.fromkeys(SHORTCUTS, "off"))
        assert_same(simulate_step(experiment), simulate_step(experiment.model_copy(update={"simulation": simulation})))


class TestWhatIsWrong:
    @pytest.mark.parametrize(
        ("plan", "words"),
        [
            ({"layers_per_stage": (2, 2, 4)}, "3 entries for 4 chunks of the model; list one for each"),
            ({"layers_per_stage": (2, 2, 2, 3)}, "they are 9 layers, the model has 8; take away 1"),
            ({"layers_per_stage": (4, 0, 2, 2)}, "a chunk in the middle has no layers"),
            ({"layers_per_stage": (2, 2, 2, 2), "last_stage_layers": 2}, "last_stage_layers say it too"),
            (
                {"first_stage_layers": 6},
                "2 of 8 layers are left for 3 stages; let first_stage_layers be 5 in all at most",
            ),
            ({"last_stage_layers": 1, "virtual_stages": 2}, "a stage has 2 chunks of the model; use layers_per_stage"),
            ({"last_stage_layers": 1, "pipeline": 1}, "there is one stage, which has all layers"),
            ({"first_stage_layers": 3, "last_stage_layers": 3, "pipeline": 2}, "2 of 8 layers are left for 0 stages"),
        ],
    )
    def test_is_told(self, plan: dict[str, Any], words: str) -> None:
        with pytest.raises(ConfigError, match=words):
            job(**plan)


class TestWhatIsSaidUnasked:
    def test_layers_that_do_not_divide(self) -> None:
        notes = simulate(job(layers=30)).notes
        assert any("30 layers over 4 model chunks lie 7, 2 x 8, 7" in note for note in notes)

    def test_a_vocabulary_that_is_padded(self) -> None:
        experiment = small_experiment(
            model={"vocab": 50257}, parallelism={"tensor": 4}, software={"pads_vocabulary": 128}
        )
        words = "the vocabulary of 50257 is padded to 50688, a multiple of 512: 431 rows that belong to no token"
        assert words in simulate(experiment).notes


SIZES = ((2, 2, 2, 2), (1, 3, 3, 1), (2, 3, 2, 1), (0, 4, 4, 0))
LIMITS: dict[str, tuple[Any, ...]] = {
    "pipeline": (4,),
    "tensor": (1, 2),
    "schedule": ("1f1b", "zb-h1", "zb-h2", "zb-v"),
    "virtual_stages": (1,),
    "microbatch": (1,),
    "zero_stage": (0,),
    "sequence_parallel": (False,),
    "recompute": ("none",),
    "layers_per_stage": SIZES,
}


class TestPlanSearch:
    def test_bounds_are_below_what_runs_take(self) -> None:
        experiment = small_experiment(nodes=2, model={"layers": 8, "vocab": 200_000}, training={"global_batch": 32})
        table = open_space(experiment, axes_of(LIMITS, experiment.setup)).table
        bounds = bounds_of(experiment, table).of(table).seconds
        times = [time for time, _ in exhaustive(experiment, LIMITS)]
        assert min(bounds) <= min(times)

    def test_it_finds_the_best_of_zero_bubble_and_uneven_stages(self) -> None:
        """A large vocabulary makes the last stage slow, so it gets fewer layers."""
        experiment = small_experiment(model={"layers": 8, "vocab": 200_000}, training={"global_batch": 8})
        times = [time for time, _ in exhaustive(experiment, LIMITS)]
        apart = [time for n, time in enumerate(times) if not n or time > times[n - 1] * (1 + 1e-9)]  # others are twins
        found = search_plans(experiment, LIMITS, top=3, jobs=1)
        assert [plan.step_s for plan in found.plans] == pytest.approx(apart[:3], rel=1e-9)
        assert found.plans[0].values["parallelism.layers_per_stage"][-1] < 2
        assert found.plans[0].values["parallelism.schedule"].startswith("zb-")
