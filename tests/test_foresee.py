"""What a step does before anybody meets follows from its longest paths, loops and all."""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from plans import CASES, small_experiment

from sim.engine.executor import Executor
from sim.engine.instructions import instructions_of
from sim.engine.loops import AFTER, BEFORE, WITHIN, Loop, find_loops
from sim.engine.meetings import first_meeting
from sim.engine.network import FlowTable
from sim.engine.parts import find_parts
from sim.engine.program import Action, Program, Script, token
from sim.engine.timetable import Skip, Times
from sim.engine.trace import Trace
from sim.spec.load import load_experiment
from sim.study.step import Prepared, prepare_step

EXACT = 1e-12
FLOWS = FlowTable(  # classes 0 and 1 share link 0, class 2 has link 1 to itself
    n_flows=3,
    n_shared=2,
    flow=np.array([0, 1, 2]),
    link=np.array([0, 0, 1]),
    coefficient=np.ones(3),
    capacity=np.array([10.0, 10.0]),
    link_count=np.array([1, 1]),
    link_example=np.array([0, 1]),
)

Loads = list[tuple[int, float, float]]  # flow class, start and end


def times_of(loads: Loads, skips: tuple[Skip, ...] = ()) -> tuple[Times, np.ndarray]:
    """Times of transfers, and their flow classes."""
    flow, start, end = (np.array(column) for column in zip(*loads, strict=True))
    rows = np.arange(len(loads))
    return Times(rows, start.astype(float), end.astype(float), rows, skips), flow.astype(np.int64)


def meeting(loads: Loads, latency: float = 0.0, skips: tuple[Skip, ...] = ()) -> float:
    times, flow = times_of(loads, skips)
    return first_meeting(times, flow, np.full(len(loads), latency), FLOWS)


class TestMeetings:
    @pytest.mark.parametrize(
        ("loads", "first"),
        [
            ([(0, 0.0, 1.0), (1, 2.0, 3.0)], inf),
            ([(0, 0.0, 1.0), (1, 1.0, 2.0)], inf),
            ([(0, 0.0, 1.0), (2, 0.5, 2.0)], inf),
            ([(0, 0.0, 1.0), (-1, 0.5, 2.0)], inf),
            ([(0, 0.0, 1.0), (1, 0.75, 2.0)], 0.75),
            ([(1, 0.0, 4.0), (0, 5.0, 6.0), (0, 3.0, 5.0)], 3.0),
            ([(0, 0.0, 2.0), (0, 1.0, 2.0)], 1.0),
        ],
    )
    def test_the_first_is_found(self, loads: Loads, first: float) -> None:
        assert meeting(loads) == first

    def test_what_starts_up_is_not_on_its_links_yet(self) -> None:
        assert meeting([(0, 0.0, 1.0), (1, 0.75, 2.0)], latency=0.25) == inf
        assert meeting([(0, 0.0, 1.0), (1, 0.5, 2.0)], latency=0.25) == 0.75

    @given(
        st.lists(st.tuples(st.sampled_from([0, 1, 2]), st.integers(0, 60), st.integers(1, 6)), min_size=2, max_size=8),
        st.integers(1, 4),
        st.integers(6, 12),
        st.integers(1, 5),
    )
    def test_copies_are_heeded(self, raw: list[tuple[int, int, int]], repeated: int, period: int, times: int) -> None:
        """Never later than what all copies written out say; and nothing is found where all is calm and in a row."""
        loads: Loads = [(flow, float(start), float(start + lasts)) for flow, start, lasts in raw]
        loop = Loop(np.arange(1), np.ones(1, dtype=np.int64), 9, 9, {}, 1)
        skip = Skip(loop, 1, times, float(period), slice(0, repeated))
        copies = [(f, s + k * period, e + k * period) for f, s, e in loads[:repeated] for k in range(1, times + 1)]
        found, written_out = meeting(loads, skips=(skip,)), meeting(loads + copies)
        assert found <= written_out
        if len({flow for flow, _, _ in loads}) == len(loads) and {0, 1} - {flow for flow, _, _ in loads}:
            assert found == written_out == inf


@st.composite
def scripts(draw: st.DrawFn) -> Script:
    """Streams that go round in a loop and wait for one another, now or in earlier turns, and some work after it."""
    n_streams, turns = draw(st.integers(1, 4)), draw(st.integers(3, 25))
    lasts, moves = st.sampled_from([0.0, 0.25, 1.0, 1.5, 3.0]), st.sampled_from([0.25, 0.5, 2.0])
    script = Script()
    queues = [script.new_stream(f"queue {s}", "compute", s) for s in range(n_streams)]
    loops: list[list[tuple[int, int, int]]] = [[] for _ in queues]  # first turns, later turns, where those begin
    for step in range(draw(st.integers(1, 10))):
        s, flow, far = draw(st.integers(0, n_streams - 1)), draw(st.sampled_from([-1, -1, -1, 0, 1, 2])), 1
        waits = tuple(map(token, draw(st.lists(st.integers(0, step - 1), unique=True, max_size=3)) if step else []))
        done, back = script.new_kind(step), waits
        if draw(st.booleans()):
            far = draw(st.integers(1, 3))
            back = (*waits, token(draw(st.integers(0, step)), -far))
        action = Action("work", "compute", (s,), draw(lasts))
        if flow >= 0:
            action = Action("send", "pipeline_comm", flow=flow, size=10 * draw(moves), latency=draw(lasts))
        first, later = (script.new_template(each, always(action), token(done)) for each in (waits, back))
        loops[s].append((first, later, far))
    for queue, loop in zip(queues, loops, strict=True):
        for turn in range(turns):
            for first, later, far in loop:
                queue.add(later if turn >= far else first, turn)
        if draw(st.booleans()):
            queue.add(script.new_template((token(0),), always(Action("end", "other", duration=draw(lasts)))), turns - 1)
    beats = {s: len(loop) for s, loop in enumerate(loops) if loop}
    script.parts = find_parts(script.priced(None), beats, FLOWS.conflicts())
    return script


def always(action: Action) -> Callable[[object], Action]:
    """The recipe of an action that no costs matter to."""
    return lambda _: action


def run(program: Program, foresee: bool, skip: bool = True) -> Executor:
    return Executor(program, FLOWS, flow_ranks=((0,),) * 3, foresee=foresee, skip=skip)


class TestAnyScript:
    @given(scripts(), st.booleans())
    def test_happens_at_the_same_times_with_a_clock_alone(self, script: Script, skip: bool) -> None:
        program = script.priced(None)
        foreseen, timed = (run(program, foresee, skip).run() for foresee in (True, False))
        assert_same(foreseen, timed)
        assert_same(foreseen, run(program, False, False).run())

    @given(scripts())
    def test_waits_for_nothing_in_a_later_block(self, script: Script) -> None:
        table = instructions_of(script)
        assert table is not None
        loops, where = find_loops(table, script.parts)
        block, loop_of = np.full(table.n, -1), np.full(table.n, -1)
        for number, loop in enumerate(loops):
            for each in range(loop.n_blocks):
                assert (loop_of[loop.block(each)] == -1).all()
                block[loop.block(each)], loop_of[loop.block(each)] = each, number
        np.testing.assert_array_equal(where == WITHIN, loop_of >= 0)
        for row, until in zip(table.row.tolist(), table.until.tolist(), strict=True):
            assert where[until] <= where[row]
            if where[row] == where[until] == WITHIN:
                assert loop_of[row] == loop_of[until]
                assert block[row] - 1 <= block[until] <= block[row] or block[row] == 0
            if where[row] == AFTER and where[until] == WITHIN:
                assert block[until] >= loops[loop_of[until]].awaited
        assert {BEFORE, WITHIN, AFTER} >= set(where.tolist())


def assert_same(one: Trace, other: Trace) -> None:
    """All instructions of two traces, skipped ones too, begin and end at the same times."""
    assert one.time == pytest.approx(other.time, rel=EXACT)
    mine, theirs = one.unrolled(), other.unrolled()
    for name in ("stream", "position", "template", "index"):
        np.testing.assert_array_equal(mine[name], theirs[name])
    for name in ("start", "end"):
        np.testing.assert_allclose(mine[name].astype(float), theirs[name].astype(float), rtol=EXACT, atol=EXACT)
    np.testing.assert_allclose(one.link_peak, other.link_peak, rtol=EXACT)
    assert (np.diff(one.end) >= -EXACT * one.time).all()
    waited = one.blocker >= 0
    assert (one.blocker[waited] < np.flatnonzero(waited)).all()


class TestItIsTaken:
    """The equalities would say nothing if all were left to the clock."""

    def test_steps_without_meetings_need_no_clock(self) -> None:
        heads = {case: head_of(prepare_step(small_experiment(**CASES[case]))) for case in CASES}
        assert sum(head == inf for head in heads.values()) >= 15
        assert heads["1f1b"] == heads["interleaved"] == inf

    def test_the_clock_begins_where_gradients_meet(self) -> None:
        step = prepare_step(load_experiment("gpt3-175b-a100", []).experiment)
        trace = step.executor.run()
        assert step.executor.head is not None
        assert 0.98 * trace.time < step.executor.head.until < trace.time
        assert sum(repeat.times for repeat in trace.repeats) > 100
        assert len(trace.stream) - len(step.executor.head.stream) < 100

    def test_nothing_is_foreseen_beside_collectives_that_begin_at_once(self) -> None:
        assert head_of(prepare_step(load_experiment("llama3-8b-dgx-h100", []).experiment)) == 0.0


def head_of(step: Prepared) -> float:
    """When the clock begins [s]."""
    step.executor.run()
    return step.executor.head.until if step.executor.head else 0.0
