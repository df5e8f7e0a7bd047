"""Schedules as tables of tasks: every task once, in an order that works, bubbles and memory as in the papers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sim.errors import PlanError
from sim.phase import Phase
from sim.schedule.catalogue import SCHEDULES, course_of, held_of, schedule_of
from sim.schedule.course import Course
from sim.schedule.gpipe import GPIPE
from sim.schedule.table import Schedule, Task

Ints = NDArray[np.int64]
Case = tuple[str, int, int, int]
BACK_WHOLE = [name for name, kind in SCHEDULES.items() if not kind.splits]  # others: test_new_schedule.py
V_SHAPE = Course(3, (0, 1, 2, 2, 1, 0))


@st.composite
def cases(draw: st.DrawFn, *names: str) -> Case:
    """One of those schedules or of all, stages, chunks a stage, microbatches that it has no objections to."""
    name = draw(st.sampled_from(names or list(SCHEDULES)))
    stages, virtual = draw(st.integers(1, 8)), draw(st.integers(1, 4))
    microbatches = draw(st.integers(1, 5)) * (stages if virtual > 1 else 1) + draw(st.integers(0, 19)) * (virtual == 1)
    assume(not list(SCHEDULES[name].objections(stages, virtual, microbatches)))
    return name, stages, virtual, microbatches


def ends_of_tasks(schedule: Schedule, seconds: dict[Phase, float]) -> dict[Task, float]:
    """When each task ends, if sends take no time."""
    end: dict[Task, float] = {}
    queues = [list(schedule.tasks(stage)) for stage in range(schedule.course.stages)]
    clock, place, moved = [0.0] * len(queues), [0] * len(queues), True
    while moved:
        moved = False
        for stage, queue in enumerate(queues):
            while place[stage] < len(queue) and all(each in end for each in schedule.needs(queue[place[stage]])):
                task = queue[place[stage]]
                begin = max([clock[stage], *(end[each] for each in schedule.needs(task))])
                clock[stage] = end[task] = begin + seconds[task.phase]
                place[stage], moved = place[stage] + 1, True
    assert place == [len(queue) for queue in queues], "the table blocks"
    return end


def walk(schedule: Schedule, seconds: dict[Phase, float]) -> tuple[float, list[float]]:
    """When the last task ends, and how long each stage idles until then, if sends take no time."""
    last = max(ends_of_tasks(schedule, seconds).values())
    stages = range(schedule.course.stages)
    return last, [last - sum(seconds[task.phase] for task in schedule.tasks(stage)) for stage in stages]


class TestTables:
    @given(cases())
    def test_every_task_happens_once(self, case: Case) -> None:
        schedule = schedule_of(*case)
        for stage in range(schedule.course.stages):
            everything = product(schedule.phases, schedule.course.chunks[stage], range(case[3]))
            assert Counter(schedule.tasks(stage)) == Counter(Task(*each) for each in everything)

    @given(cases())
    def test_microbatches_go_through_each_chunk_in_order(self, case: Case) -> None:
        """Tokens of one kind rise, as the engine counts on."""
        schedule = schedule_of(*case)
        for stage in range(schedule.course.stages):
            lines: dict[tuple[Phase, int], list[int]] = {}
            for task in schedule.tasks(stage):
                lines.setdefault((task.phase, task.chunk), []).append(task.microbatch)
            assert all(line == list(range(case[3])) for line in lines.values())

    @given(cases())
    def test_no_table_blocks(self, case: Case) -> None:
        walk(schedule_of(*case), dict.fromkeys(Phase, 1.0))

    @given(st.integers(1, 8), st.integers(1, 24))
    def test_warm_up_of_1f1b(self, stages: int, microbatches: int) -> None:
        """Stage s runs p - s - 1 microbatches ahead, or all there are (Narayanan 2021, section 2.2.1)."""
        for stage, table in enumerate(schedule_of("1f1b", stages, 1, microbatches).tables):
            assert first_backward(table) == min(stages - stage - 1, microbatches - 1) + 1

    @given(st.integers(2, 8), st.integers(2, 4), st.integers(2, 5))
    def test_warm_up_of_the_interleaved_schedule(self, stages: int, virtual: int, rounds: int) -> None:
        """2 (p - s - 1) + (v - 1) p chunks ahead (Megatron-LM, forward_backward_pipelining_with_interleaving)."""
        for stage, table in enumerate(schedule_of("1f1b", stages, virtual, rounds * stages).tables):
            ahead = min(2 * (stages - stage - 1) + (virtual - 1) * stages, rounds * stages * virtual - 1)
            assert first_backward(table) == ahead + 1

    def test_gpipe_runs_all_forward_first(self) -> None:
        assert (
            schedule_of("gpipe", 4, 1, 3).tables[2][:, 0].tolist() == [Phase.FORWARD] * 3 + [Phase.INPUT_GRADIENT] * 3
        )

    def test_the_same_table_is_written_once(self) -> None:
        assert schedule_of("1f1b", 4, 2, 8) is schedule_of("1f1b", 4, 2, 8)


def first_backward(table: Ints) -> int:
    return int(np.flatnonzero(table[:, 0] == Phase.INPUT_GRADIENT)[0])


class TestBubble:
    @given(cases(*BACK_WHOLE))
    def test_stages_idle_as_the_papers_say(self, case: Case) -> None:
        """(p - 1)(F + B), divided by the chunks when interleaved (Narayanan 2021, sections 2.2.1 and 2.2.2)."""
        name, stages, virtual, microbatches = case
        assume(name != "breadth-first" or microbatches >= stages)
        _, idle = walk(schedule_of(*case), {Phase.FORWARD: 1.0, Phase.INPUT_GRADIENT: 2.0})
        assert idle == pytest.approx([3.0 * (stages - 1)] * stages) or virtual > 1
        assert max(idle) == pytest.approx(3.0 * (stages - 1))  # in passes of chunks, of which there are more


def closed_form(case: Case, stage: int) -> int:
    """Chunks whose activations a stage holds at its fullest, one microbatch each.

    GPipe and breadth-first keep all. 1F1B keeps one per stage downstream, itself included. Interleaved 1F1B runs
    2 (p - stage - 1) + (v - 1) p chunks ahead and holds one more (Narayanan 2021, section 2.2;
    p v (1 + (p - 1)/(p v)) on the first stage: Korthikanti 2022, section 4.2.3), but all when
    there are as many microbatches as stages.
    """
    name, stages, virtual, microbatches = case
    everything = microbatches * virtual
    if name in ("gpipe", "breadth-first") or (virtual > 1 and microbatches == stages):
        return everything
    if virtual == 1:
        return min(everything, stages - stage)
    return min(everything, 2 * (stages - stage - 1) + (virtual - 1) * stages + 1)


class TestHeld:
    @given(cases(*BACK_WHOLE))
    def test_stages_hold_as_many_as_the_papers_say(self, case: Case) -> None:
        for stage in range(case[1]):
            assert max(map(sum, held_of(*case, stage))) == closed_form(case, stage)

    @given(cases(), st.lists(st.floats(0.0, 9.0), min_size=4, max_size=4))
    def test_the_fullest_moment_is_among_those_given(self, case: Case, sizes: list[float]) -> None:
        """Whatever the chunks weigh: counted task by task."""
        schedule = schedule_of(*case)
        for stage, chunks in enumerate(schedule.course.chunks):
            size, now, most = dict(zip(chunks, sizes, strict=False)), 0.0, 0.0
            for task in schedule.tasks(stage):
                now += size[task.chunk] * ((task.phase is Phase.FORWARD) - (task.phase is schedule.phases[-1]))
                most = max(most, now)
            assert (schedule.held(stage) @ np.array(list(size.values()))).max() == pytest.approx(most)

    def test_chunks_at_the_ends(self) -> None:
        """The peak of 11 chunks on the first of 4 stages holds 8 of the embedding's, as its table says."""
        assert held_of("1f1b", 4, 2, 8, 0) == ((7, 4), (8, 3))


class TestPeriod:
    @given(cases("1f1b", "gpipe"))
    def test_tasks_repeat_with_the_period(self, case: Case) -> None:
        """After one microbatch, or after one for each stage when chunks take turns."""
        name, stages, virtual, microbatches = case
        step = stages if name == "1f1b" and virtual > 1 else 1
        assume(microbatches >= 3 * step)
        assert schedule_of(*case).period(stages - 1) == step

    def test_what_is_too_short_does_not_repeat(self) -> None:
        assert schedule_of("1f1b", 8, 2, 8).period(7) == 0


class TestCourse:
    def test_chunks_go_round(self) -> None:
        course = course_of("1f1b", 4, 2)
        assert course.stage_of == (0, 1, 2, 3, 0, 1, 2, 3)
        assert course.chunks == ((0, 4), (1, 5), (2, 6), (3, 7))
        assert course.sends == {1: (0, 1, 2, 3), -1: (0, 1, 2, 3)}
        assert course.ends == (0, 3)

    def test_without_a_second_round_the_last_stage_sends_back_only(self) -> None:
        assert course_of("1f1b", 4, 1).sends == {1: (0, 1, 2), -1: (1, 2, 3)}
        assert course_of("1f1b", 1, 1).sends == {}

    def test_two_stages_are_after_one_another_on_the_way(self) -> None:
        course = course_of("1f1b", 2, 2)
        assert [course.hop(chunk, chunk + 1) for chunk in range(3)] == [1, 1, 1]
        assert [course.hop(chunk + 1, chunk) for chunk in range(3)] == [-1, -1, -1]

    def test_the_direction_of_a_send_is_that_of_the_stages(self) -> None:
        """In a V the second half of the model goes back, and nothing is sent where it turns."""
        assert [V_SHAPE.hop(chunk, chunk + 1) for chunk in range(5)] == [1, 1, 0, -1, -1]
        assert V_SHAPE.sends == {1: (0, 1), -1: (1, 2)}
        assert V_SHAPE.ends == (0, 0)

    def test_tasks_need_their_own_and_their_neighbours(self) -> None:
        schedule = Schedule(V_SHAPE, tuple(Phase)[:3], ())
        forward, backward, weight = (Task(phase, 5, 2) for phase in schedule.phases)
        assert schedule.needs(forward) == (Task(Phase.FORWARD, 4, 2),)
        assert schedule.needs(backward) == (forward,)  # the model ends here
        assert schedule.needs(weight) == (backward,)
        assert schedule.needs(backward._replace(chunk=4)) == (forward._replace(chunk=4), backward)
        assert schedule.needs(forward._replace(chunk=0)) == ()


class TestWrongTables:
    @pytest.mark.parametrize(
        ("change", "stage"),
        [
            (lambda table: table[:-1], 1),  # a task is missing
            (lambda table: np.concatenate([table, table[-1:]]), 1),  # or done twice
            (lambda table: table[::-1], 1),  # gradients come before what they are of
            (lambda table: table[[1, 0, *range(2, len(table))]], 1),  # microbatches overtake one another
            (lambda table: np.add(table, [0, 1, 0]), 1),  # of a chunk that is elsewhere
            (lambda table: table, None),
        ],
    )
    def test_are_refused(
        self, change: Callable[[Ints], Ints], stage: int | None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def order(stages: int, virtual: int, microbatches: int) -> tuple[Ints, ...]:
            first, second, *rest = GPIPE.order(stages, virtual, microbatches)
            return first, change(second), *rest

        monkeypatch.setitem(SCHEDULES, "own", replace(GPIPE, name="own", order=order))
        if stage is None:
            assert schedule_of("own", 3, 1, 4).misplaced() is None
        else:
            with pytest.raises(PlanError, match=f"schedule own: stage {stage} does not do each task once"):
                schedule_of("own", 3, 1, 4)
