"""Layers that are asked for, stage by stage or chunk by chunk: what lies where, what it takes, and what is refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from plans import small_experiment
from test_plan_search import exhaustive

from sim.ask.plan.search import search_plans
from sim.ask.run.simulate import simulate
from sim.ask.run.step import prepare_step
from sim.errors import ConfigError
from sim.inputs.records import Experiment
from sim.layout.pieces import by_stage
from sim.metrics.memory import memory_by_stage
from sim.schedule.catalogue import course_of

LAYERS, STAGES = 12, 4


def pipeline(
    asked: Sequence[int] | None = None, batch: int = 8, training: dict[str, Any] | None = None, **parallelism: Any
) -> Experiment:
    """Twelve layers on four stages of one server, one replica."""
    return small_experiment(
        node={"accelerators": STAGES},
        model={"layers": LAYERS},
        parallelism={"tensor": 1, "pipeline": STAGES, "data": 1, "layers_per_stage": asked, **parallelism},
        training={"global_batch": batch, "microbatch": 1, **(training or {})},
    )


@st.composite
def divisions(draw: st.DrawFn) -> list[int]:
    """Layers of four stages; those at the ends may be none."""
    inside = [draw(st.integers(1, 5)), draw(st.integers(1, 5))]
    first = draw(st.integers(0, LAYERS - sum(inside)))
    return [first, *inside, LAYERS - sum(inside) - first]


def test_the_even_division_may_be_written_down() -> None:
    one, other = simulate(pipeline()), simulate(pipeline([3, 3, 3, 3]))
    assert (one.step, one.memory) == (other.step, other.memory)


@pytest.mark.parametrize("schedule", ["1f1b", "breadth-first"])
def test_a_stage_shares_its_layers_among_its_chunks(schedule: str) -> None:
    one = simulate(pipeline([2, 4, 4, 2], virtual_stages=2, schedule=schedule))
    other = simulate(pipeline([1, 2, 2, 1, 1, 2, 2, 1], virtual_stages=2, schedule=schedule))
    assert (one.step, one.memory) == (other.step, other.memory)


def test_chunks_of_a_v_are_in_model_order() -> None:
    assert course_of("zb-v", 2, 2).layers(7, (1, 2, 3, 1)) == [1, 2, 3, 1]
    assert course_of("zb-v", 2, 2).layers(8, (2, 6)) == [1, 3, 3, 1]


def stages_of(experiment: Experiment) -> list[float]:
    """FLOPs of the products of each stage for one microbatch."""
    chunks = prepare_step(experiment).plan.chunks
    return [
        sum(
            piece.passes.matrix_flops * piece.count for chunk in own for each in chunk.segments for piece in each.pieces
        )
        for own in by_stage(chunks)
    ]


@settings(deadline=None, max_examples=15)
@given(divisions())
def test_work_and_state_do_not_depend_on_where_layers_lie(asked: list[int]) -> None:
    even, found = pipeline(), pipeline(asked)
    assert sum(stages_of(found)) == pytest.approx(sum(stages_of(even)), rel=1e-12)
    weights = [sum(stage["weights"] for stage in memory_by_stage(each.setup)) for each in (even, found)]
    assert weights[1] == pytest.approx(weights[0], rel=1e-12)


@settings(deadline=None, max_examples=10)
@given(divisions())
def test_another_microbatch_takes_as_long_as_the_longest_stage(asked: list[int]) -> None:
    """No less than a stage on average, no more than all stages one after the other."""
    alone, some, more = (prepare_step(pipeline(asked, batch=batch)).run().trace.time for batch in (1, 15, 16))
    assert alone / STAGES * 0.75 < more - some < alone  # the optimizer is in what one alone takes


def test_an_end_of_its_own_holds_embedding_or_head_alone() -> None:
    stages = memory_by_stage(pipeline([0, 6, 6, 0]).setup)
    first, *inside, last = (stage["activations"] for stage in stages)
    assert first == last == 0
    assert all(size > 0 for size in inside)
    assert all(stage["weights"] > 0 for stage in stages)


def test_what_was_asked_for_is_no_assumption() -> None:
    assert not any("model chunks lie" in note for note in simulate(pipeline([1, 4, 4, 3])).notes)
    silent = simulate(small_experiment(
        node={"accelerators": 4}, model={"layers": 14}, parallelism={"tensor": 1, "pipeline": 4, "data": 1},
    ))  # fmt: skip
    assert any("14 layers over 4 model chunks lie 3, 2 x 4, 3" in note for note in silent.notes)


def test_a_padded_vocabulary_is_told() -> None:
    def notes(vocab: int) -> list[str]:
        experiment = small_experiment(
            node={"accelerators": 4}, model={"vocab": vocab}, software={"name": "stack", "pads_vocabulary": 128},
            parallelism={"tensor": 4, "data": 1},
        )  # fmt: skip
        return [note for note in simulate(experiment).notes if "vocabulary" in note]

    assert notes(51200) == []
    assert notes(50257) == ["a vocabulary of 50,257 is padded to 50,688, a multiple of 128 * tensor 4, as stack does"]


@pytest.mark.parametrize(
    ("asked", "virtual", "told"),
    [
        ([3, 3, 3], 1, "3 entries for pipeline 4; give 4"),
        ([3, 3, 3], 2, "3 entries for pipeline 4; give 4, or 8 for its chunks"),
        ([3, 3, 3, 4], 1, "13 layers in all, the model has 12; let them sum to 12"),
        ([6, 0, 3, 3], 1, "a chunk inside has no layer; only the first and the last may have none"),
        ([0, 4, 4, 4], 2, "a chunk inside has no layer"),
        ([3, 3, 3, 3], 2, "a stage of 3 layers has 2 chunks; give 8 entries, one for each chunk in model order"),
    ],
)
def test_what_cannot_be_is_refused_with_the_way_out(asked: list[int], virtual: int, told: str) -> None:
    with pytest.raises(ConfigError) as error:
        pipeline(asked, virtual_stages=virtual)
    assert any(f"parallelism.layers_per_stage: {told}" in str(problem) for problem in error.value.problems)


SPACE: dict[str, tuple[Any, ...]] = {
    "pipeline": (4,), "tensor": (1, 2), "schedule": ("1f1b", "zb-h1", "zb-h2"), "virtual_stages": (1,),
    "microbatch": (1,), "zero_stage": (0,), "sequence_parallel": (False,), "recompute": ("none",),
    "layers_per_stage": ((2, 2, 2, 2), (1, 3, 3, 1), (2, 3, 2, 1), (0, 4, 4, 0)),
}  # fmt: skip


def test_plan_finds_the_best_of_zero_bubble_and_uneven_stages() -> None:
    """A large vocabulary makes the last stage slow, so it gets fewer layers."""
    experiment = small_experiment(model={"layers": 8, "vocab": 200_000}, training={"global_batch": 8})
    times = [time for time, _ in exhaustive(experiment, SPACE)]
    apart = [time for n, time in enumerate(times) if not n or time > times[n - 1] * (1 + 1e-9)]  # others are twins
    found = search_plans(experiment, SPACE, top=3, jobs=1)
    assert [plan.step_s for plan in found.plans] == pytest.approx(apart[:3], rel=1e-9)
    assert found.plans[0].values["parallelism.layers_per_stage"][-1] < 2
    assert found.plans[0].values["parallelism.schedule"].startswith("zb-")
