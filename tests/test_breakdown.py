"""Where time and bytes go: parts sum to the whole, nothing starts before its inputs, nothing is lost."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from plans import CASES, bytes_by_link, small_experiment

from sim.ask.run.simulate import simulate
from sim.ask.run.step import Simulated, simulate_step
from sim.engine.executor import Executor
from sim.engine.network import FlowTable, Network
from sim.engine.program import Action, Script, Stream, Token, token
from sim.engine.trace import Trace
from sim.errors import Deadlock
from sim.metrics.breakdown import rank_time
from sim.metrics.result import BREAKDOWN, Result

EXACT = 1e-9  # sums of floats in another order


@cache
def result(case: str) -> Result:
    return simulate(small_experiment(**CASES[case]))


@cache
def run(case: str) -> Simulated:
    return simulate_step(small_experiment(**CASES[case]))


class TestIdentities:
    @pytest.mark.parametrize("case", CASES)
    def test_the_breakdown_sums_to_the_step_on_every_rank(self, case: str) -> None:
        step = run(case)
        for rank in step.job.ranks:
            exposed = rank_time(step.trace, rank.number).exposed
            assert tuple(exposed) == BREAKDOWN
            assert sum(exposed.values()) == pytest.approx(step.trace.time, rel=EXACT)
            assert min(exposed.values()) >= -EXACT * step.trace.time

    @pytest.mark.parametrize("case", CASES)
    def test_the_result_adds_up(self, case: str) -> None:
        found = result(case)
        step = found.step
        assert sum(step.breakdown_s.values()) == pytest.approx(step.time_s, rel=EXACT)
        assert sum(found.utilization.accelerator.values()) == pytest.approx(1.0, rel=EXACT)
        assert min(found.utilization.accelerator.values()) >= -EXACT
        assert 0 <= step.comm_overlapped_s <= step.comm_total_s
        assert 0 < step.mfu <= step.hfu < 1

    @pytest.mark.parametrize("case", CASES)
    def test_no_link_carries_more_than_it_can(self, case: str) -> None:
        for use in result(case).utilization.links:
            assert 0 < use.mean <= use.peak * (1 + EXACT), use
            assert use.peak <= 1 + EXACT, use

    @pytest.mark.parametrize("case", CASES)
    def test_bytes_sent_are_bytes_received(self, case: str) -> None:
        """At every switch, and at every server: rings are closed, and what goes forward comes back."""
        step = run(case)
        links, carried = step.cluster.links, bytes_by_link(step)
        names = [step.cluster.vertex_name(vertex) for vertex in range(step.cluster.n_vertices)]
        place = [name.split("/")[0] if name.startswith("node") else name for name in names]
        number = {name: i for i, name in enumerate(dict.fromkeys(place))}
        where = np.array([number[name] for name in place])
        sent, received = (np.bincount(where[ends], carried, len(number)) for ends in (links.source, links.target))
        assert sent.sum() > 0
        np.testing.assert_allclose(sent, received, rtol=EXACT)


class TestOrder:
    @pytest.mark.parametrize("case", CASES)
    def test_nothing_begins_before_its_inputs_or_its_turn(self, case: str) -> None:
        trace = run(case).trace
        rows = trace.unrolled()
        stream = rows["stream"]
        start, end = (rows[name].astype(np.float64) for name in ("start", "end"))
        slack = EXACT * trace.time
        assert (end >= start - slack).all()
        turn = stream[1:] == stream[:-1]
        assert (start[1:][turn] >= end[:-1][turn] - slack).all()
        signalled = signals_of(trace, rows["template"].tolist(), rows["index"].tolist(), end.tolist())
        for template, index, began in zip(
            rows["template"].tolist(), rows["index"].tolist(), start.tolist(), strict=True
        ):
            for kind, at in trace.program.templates[template].waits:
                assert signalled[kind, at + index] <= began + slack

    @pytest.mark.parametrize("case", CASES)
    def test_every_instruction_happens_once(self, case: str) -> None:
        trace = run(case).trace
        rows = trace.unrolled()
        for number, stream in enumerate(trace.program.streams):
            mine = rows["stream"] == number
            assert rows["position"][mine].tolist() == list(range(len(stream.which)))
            assert rows["template"][mine].tolist() == stream.templates()
            assert rows["index"][mine].tolist() == stream.index.tolist()
        assert trace.weights().sum() == len(rows["stream"])


def signals_of(trace: Trace, template: list[int], index: list[int], end: list[float]) -> dict[Token, float]:
    """When each token was signalled."""
    moments: dict[Token, float] = {}
    for number, at, moment in zip(template, index, end, strict=True):
        signal = trace.program.templates[number].signal
        if signal is not None:
            moments[signal[0], signal[1] + at] = moment
    return moments


ONE_FLOW = FlowTable(
    n_flows=1,
    n_shared=1,
    flow=np.array([0]),
    link=np.array([0]),
    coefficient=np.array([1.0]),
    capacity=np.array([10.0]),
    link_count=np.array([1]),
    link_example=np.array([0]),
)


def add(script: Script, stream: Stream, action: Action, waits: tuple[int, ...] = (), signal: int = -1) -> None:
    """Append one instruction that waits for token kinds and signals one."""
    needs = tuple(token(kind) for kind in waits)
    stream.add(script.new_template(needs, lambda _: action, token(signal) if signal >= 0 else None))


def work(rank: int, seconds: float, category: str = "compute") -> Action:
    return Action("work", category, (rank,), seconds, parts=((category, seconds),))


class TestWaits:
    """A wait is charged to the chain of events that ended it, walked back to where the rank became idle."""

    def waiting(self) -> list[dict[str, float]]:
        """Rank 0 works 1 s, then waits for rank 1, which works 3 s and sends 20 B at 10 B/s, then 1 s more."""
        script = Script()
        first, second, sends = (
            script.new_stream("rank 0", "compute", 0),
            script.new_stream("rank 1", "compute", 1),
            script.new_stream("sends", "send", 1),
        )
        worked, arrived = script.new_kind("worked"), script.new_kind("arrived")
        add(script, first, work(0, 1.0))
        add(script, first, work(0, 1.0, "optimizer"), (arrived,))
        add(script, second, work(1, 3.0), (), worked)
        add(script, sends, Action("send", "pipeline_comm", flow=0, size=20.0), (worked,), arrived)
        trace = Executor(script.priced(None), Network(ONE_FLOW), flow_ranks=((0, 1),)).run()
        assert trace.time == pytest.approx(6.0)
        exposed = (rank_time(trace, rank).exposed for rank in (0, 1))
        return [{name: seconds for name, seconds in each.items() if seconds} for each in exposed]

    def test_other_ranks_work_is_bubble_and_transfers_are_themselves(self) -> None:
        first, _ = self.waiting()
        assert first == pytest.approx({"compute": 1.0, "optimizer": 1.0, "bubble": 2.0, "pipeline_comm": 2.0})

    def test_what_is_left_at_the_end_is_bubble(self) -> None:
        _, second = self.waiting()
        assert second == pytest.approx({"compute": 3.0, "bubble": 3.0})

    def test_slower_processors_count_as_computation(self) -> None:
        """A collective of 2 s takes a fifth of the processors from 4 s of work: 0.4 s more."""
        script = Script()
        rank, group = script.new_stream("rank 0", "compute", 0), script.new_stream("group", "gradient")
        add(script, rank, work(0, 4.0))
        beside = Action("gradients", "data_comm", flow=0, size=20.0, steals=(0,))
        add(script, group, beside)
        trace = Executor(script.priced(None), Network(ONE_FLOW), flow_ranks=((0,),), slowdown=0.2).run()
        found = rank_time(trace, 0)
        assert found.exposed["compute"] == pytest.approx(4.4)
        assert [trace.time, found.comm_total] == pytest.approx([4.4, 2.0])


class TestDeadlock:
    def test_a_circle_of_waits_is_named(self) -> None:
        script = Script()
        left, right = script.new_stream("left", "compute", 0), script.new_stream("right", "compute", 1)
        egg, hen = script.new_kind("egg laid"), script.new_kind("hen hatched")
        add(script, left, work(0, 1.0))
        add(script, left, work(0, 1.0), (hen,), egg)
        add(script, right, work(1, 2.0), (egg,), hen)
        with pytest.raises(Deadlock) as stuck:
            Executor(script.priced(None), Network(ONE_FLOW), flow_ranks=((0, 1),)).run()
        message = str(stuck.value)
        assert "2 streams cannot go on at 1 s" in message
        assert "left waits for 'hen hatched' of index 0" in message
        assert "right waits for 'egg laid' of index 0" in message

    def test_a_token_that_nobody_signals(self) -> None:
        script = Script()
        alone = script.new_stream("alone", "compute", 0)
        add(script, alone, work(0, 1.0), (script.new_kind("never"),))
        with pytest.raises(Deadlock, match="alone waits for 'never' of index 0"):
            Executor(script.priced(None), Network(ONE_FLOW), flow_ranks=((0,),)).run()

    def test_an_empty_program_takes_no_time(self) -> None:
        assert Executor(Script().priced(None), Network(ONE_FLOW)).run().time == 0.0
