"""Several programs on one network, against what follows by hand, with every shortcut on and off."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from math import e, sqrt
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plans import BESIDE, LEAF_SPINE, small_experiment
from simpy.core import Environment

from sim.ask.run.step import simulate_step
from sim.ask.run.together import Together, simulate_together
from sim.engine.clock import Settling, Sleeper
from sim.engine.executor import Executor, Signals
from sim.engine.network import FlowTable, Network, solve
from sim.engine.program import Action, Program, Script, token
from sim.errors import Deadlock, PlanError
from sim.inputs.records import Experiment
from sim.programs.costs import given_action
from sim.programs.rounds import Rounds
from sim.programs.trainer import Trainer

EXACT = 1e-9
BOTH = pytest.mark.parametrize("skip", [True, False], ids=["rounds left out", "every step"])


def one_link(n_flows: int, priority: tuple[int, ...] = ()) -> FlowTable:
    """Flow classes that share one link of 1 B/s."""
    zeros, ones = np.zeros(n_flows, dtype=np.int64), np.ones(n_flows)
    return FlowTable(n_flows, 1, np.arange(n_flows), zeros, ones, ones[:1], np.array([1]), np.array([0]), priority)


def step_of(flow: int, *bursts: tuple[float, float]) -> Program:
    """A step that computes and then communicates, each burst for so many seconds when alone."""
    script = Script()
    stream = script.new_stream("job", "compute", 0)
    for compute, communicate in bursts:
        work = Action("work", "compute", (0,), compute)
        for action in (work, Action("traffic", "data_comm", flow=flow, size=communicate)):
            stream.add(script.new_template((), partial(given_action, action)))
    return script.priced(None)


def run(
    jobs: list[Program], steps: Sequence[float], lags: Sequence[float], *, skip: bool, priority: tuple[int, ...] = ()
) -> list[Trainer]:
    """Jobs side by side on one link, to their ends."""
    network = Network(one_link(len(jobs), priority), check=True)
    rounds = Rounds(network, skip=skip)
    trainings = [Trainer(rounds, job, n, after=lag) for job, n, lag in zip(jobs, steps, lags, strict=True)]
    network.env.run()
    return trainings


class TestOracles:
    """Compute C, then communicate m (when alone) over a link that all share."""

    @BOTH
    @pytest.mark.parametrize(
        ("compute", "communicate", "lag"),
        [
            (3, 1, 0),
            (3, 1, 0.25),
            (3, 1, 0.999),
            (3, 1, 1),
            (3, 1, 2.5),
            (3, 1, 3),
            (1, 1, 0.5),
            (1, 3, 0.5),
            (1, 3, 1),
        ],
    )
    def test_equal_jobs_keep_their_lag(self, compute: float, communicate: float, lag: float, skip: bool) -> None:
        """C + 2m - d where they meet, C + m where not."""
        jobs = [step_of(number, (compute, communicate)) for number in range(2)]
        first, second = run(jobs, [400, 400], [0.0, lag], skip=skip)
        meet = lag <= communicate
        expected = compute + (2 * communicate - lag if meet else communicate)
        for job in (first, second):
            assert job.step_s[1:-1] == pytest.approx([expected] * 398, rel=EXACT)
        assert second.ends[-2] - first.ends[-2] == pytest.approx(lag, abs=1e-9)
        assert (first.simulated < 10) is skip

    @BOTH
    @pytest.mark.parametrize("n", [2, 3, 5])
    def test_n_equal_jobs_in_phase(self, n: int, skip: bool) -> None:
        jobs = run([step_of(number, (4.0, 1.0)) for number in range(n)], [50] * n, [0.0] * n, skip=skip)
        for job in jobs:
            assert job.step_s == pytest.approx([4.0 + n] * 50, rel=EXACT)

    @BOTH
    def test_strict_priority(self, skip: bool) -> None:
        """The first always takes C + m; the second waits once, and then never meets it again."""
        jobs = [step_of(number, (3.0, 1.0)) for number in range(2)]
        first, second = run(jobs, [60, 60], [0.0, 0.0], skip=skip, priority=(0, 1))
        assert first.step_s == pytest.approx([4.0] * 60, rel=EXACT)
        assert second.step_s == pytest.approx([5.0] + [4.0] * 59, rel=EXACT)

    @BOTH
    def test_strict_priority_starves_the_second(self, skip: bool) -> None:
        """Traffic of the first longer than its computation leaves 1 s of each 4 s to the second, which asks for 3."""
        jobs = [step_of(number, (1.0, 3.0)) for number in range(2)]
        first, second = run(jobs, [60, 60], [0.0, 0.0], skip=skip, priority=(0, 1))
        assert first.step_s == pytest.approx([4.0] * 60, rel=EXACT)
        assert second.step_s[0] == pytest.approx(4 * 3 + 1.0, rel=EXACT)
        assert second.ends[-1] > 1.5 * first.ends[-1]

    @BOTH
    @pytest.mark.parametrize(("c1", "m1", "c2", "m2"), [(3, 1, 3 * sqrt(2), 1), (3, 1, 4.8, 0.7), (1, 1.5, e, 2)])
    def test_unequal_jobs(self, c1: float, m1: float, c2: float, m2: float, skip: bool) -> None:
        """T1 = t1 (1 + (m1/t1)(m2/t2)): where both communicate is a share of a torus. A limit, so far from exact."""
        t1, t2 = c1 + m1, c2 + m2
        expected = t1 * (1 + (m1 / t1) * (m2 / t2))
        steps = [2000, int(2000 * expected / t2)]
        first, _ = run([step_of(0, (c1, m1)), step_of(1, (c2, m2))], steps, [0.0, 0.0], skip=skip)
        assert np.mean(first.step_s) == pytest.approx(expected, rel=5e-4)

    def test_several_bursts_count_by_their_sum(self) -> None:
        t1, t2 = 4.0, 3 * sqrt(2) + 1
        expected = t1 * (1 + (1 / t1) * (1 / t2))
        jobs = [step_of(0, (1.0, 0.4), (2.0, 0.6)), step_of(1, (3 * sqrt(2), 1.0))]
        first, _ = run(jobs, [2000, int(2000 * expected / t2)], [0.0, 0.0], skip=False)
        assert np.mean(first.step_s) == pytest.approx(expected, rel=5e-4)

    def test_commensurate_periods_repeat(self) -> None:
        """Two steps of one in the time of three of the other: left out as one round, and every time is the same."""
        jobs = [step_of(0, (3.0, 1.0)), step_of(1, (5.0, 1.0))]
        plain, quick = (run(jobs, [600, 400], [0.0, 0.25], skip=skip) for skip in (False, True))
        assert quick[0].simulated < 30
        for one, other in zip(plain, quick, strict=True):
            assert one.begins == pytest.approx(other.begins, rel=EXACT)
            assert one.ends == pytest.approx(other.ends, rel=EXACT)

    def test_unequal_jobs_are_not_looked_at_for_ever(self) -> None:
        first, second = run([step_of(0, (3.0, 1.0)), step_of(1, (3 * sqrt(2), 1.0))], [300, 300], [0.0, 0.0], skip=True)
        assert first.simulated == 300
        assert second.simulated < 300  # once it is alone, all its steps are equal


class TestPriorities:
    def test_each_has_what_those_before_it_leave(self) -> None:
        """Links of 4 and 10 B/s: the first takes all of the narrow one, the others what is left of the wide."""
        table = FlowTable(
            n_flows=3,
            n_shared=2,
            flow=np.array([0, 0, 1, 2]),
            link=np.array([0, 1, 1, 1]),
            coefficient=np.ones(4),
            capacity=np.array([4.0, 10.0]),
            link_count=np.ones(2, dtype=np.int64),
            link_example=np.arange(2),
            priority=(0, 1, 1),
        )
        assert solve(table, ((0, 1), (1, 1), (2, 1)), check=True) == {0: 4.0, 1: 3.0, 2: 3.0}
        assert solve(table, ((0, 1), (1, 2)), check=True) == {0: 4.0, 1: 3.0}

    def test_what_is_starved_waits_without_an_alarm(self) -> None:
        network = Network(one_link(2, (0, 1)), check=True)
        first, second = (Executor(step_of(flow, (0.0, 2.0)), network) for flow in (0, 1))
        second.begin()
        first.begin()
        network.env.run(until=1.0)
        assert (second.runners[0].rate, second.runners[0].rings_at) == (0.0, float("inf"))
        network.env.run()
        assert [run.trace().time for run in (first, second)] == [2.0, 4.0]


class TestDeadlocks:
    def stuck(self, signals: Signals | None = None) -> Program:
        """One second of work, then a wait for what nobody signals, unless another program does."""
        script = Script() if signals is None else Script(kinds=signals.kinds)
        stream, never = script.new_stream("stuck", "compute", 0), 0 if signals else script.new_kind("never")
        work = partial(given_action, Action("work", "compute", (0,), 1.0))
        stream.add(script.new_template((), work))
        stream.add(script.new_template((token(never),), work))
        return script.priced(None)

    def test_it_is_seen_at_once_while_another_program_runs_on(self) -> None:
        network = Network(one_link(2))
        rounds = Rounds(network)
        other = Trainer(rounds, step_of(1, (3.0, 1.0)), 2000)
        Trainer(rounds, self.stuck(), 1)
        with pytest.raises(Deadlock, match="stuck waits for 'never' of index 0"):
            network.env.run()
        assert network.env.now == 1.0
        assert len(other.begins) == 1

    def test_it_is_seen_as_soon_as_a_program_begins(self) -> None:
        script = Script()
        stream = script.new_stream("stuck", "compute", 0)
        stream.add(script.new_template((token(script.new_kind("never")),), partial(given_action, Action("a", "other"))))
        run = Executor(script.priced(None), Network(one_link(1)))
        with pytest.raises(Deadlock, match="at 0 s"):
            run.run()

    def test_a_program_that_waits_for_another_is_not_stuck(self) -> None:
        """They share tokens: one signals after 5 s what the other waits for since 1 s."""
        signals = Signals([("done",)])
        network = Network(one_link(1))
        waits = Executor(self.stuck(signals), network, signals=signals)
        script = Script(kinds=signals.kinds)
        stream = script.new_stream("signals", "compute", 0)
        stream.add(script.new_template((), partial(given_action, Action("work", "compute", (0,), 5.0)), token(0)))
        other = Executor(script.priced(None), network, signals=signals)
        waits.begin()
        other.begin()
        network.env.run()
        assert [run.trace().time for run in (waits, other)] == [6.0, 5.0]

    def test_programs_that_wait_for_each_other_are(self) -> None:
        signals = Signals([("done",)])
        network = Network(one_link(1))
        both = [Executor(self.stuck(signals), network, signals=signals) for _ in range(2)]
        for each in both:
            each.begin()
        with pytest.raises(Deadlock):
            network.env.run()
        assert [each.finished.triggered for each in both] == [True, True]


class TestClock:
    def test_the_end_of_an_instant_comes_after_all_else_of_it(self) -> None:
        env, seen = Environment(), list[str]()
        settling = Settling(env)
        env.timeout(1.0).callbacks.append(lambda _: settling.after_all(1, lambda: seen.append("last")))
        env.timeout(1.0).callbacks.append(lambda _: settling.after_all(0, lambda: seen.append("end")))
        env.timeout(1.0).callbacks.append(lambda _: env.timeout(0.0).callbacks.append(lambda _: seen.append("late")))
        env.timeout(1.5).callbacks.append(lambda _: seen.append("afterwards"))
        env.run()
        assert seen == ["late", "end", "last", "afterwards"]

    def test_who_acts_at_the_end_may_ask_again(self) -> None:
        env, seen = Environment(), list[float]()
        settling = Settling(env)

        def act() -> None:
            seen.append(env.now)
            if len(seen) < 3:
                settling.after_all(0, act)

        settling.after_all(0, act)
        env.run()
        assert seen == [0.0, 0.0, 0.0]

    def test_only_the_alarm_set_last_rings(self) -> None:
        env, rung = Environment(), list[float]()
        sleeper = Sleeper()
        for time in (1.0, 3.0, 2.0):
            sleeper.sleep_until(env, time, lambda _: rung.append(env.now))
        env.run()
        assert rung == [2.0]


def training_on(nodes: tuple[int, ...], name: str, *, batch: int = 32, **others: Any) -> Experiment:
    """Replicas of eight ranks on nodes of a cluster of eight nodes, two to a leaf with 4:1 uplinks."""
    places = tuple(node * 8 + local for node in nodes for local in range(8))
    plan = {"tensor": 8, "data": len(nodes), **others.pop("parallelism", {}), "placement": places}
    return small_experiment(
        nodes=8, fabric=LEAF_SPINE | {"leaf_oversubscription": 4.0}, parallelism=plan,
        training={"global_batch": batch}, name=name, **others,
    )  # fmt: skip


@st.composite
def neighbours(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Two or three jobs of any shape on nodes of one cluster, drawn at random."""

    def one_of(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    nodes, cut = draw(st.permutations(range(8))), one_of((2, 4), (2, 3), (1, 4), (2, 4, 6))
    fabric = one_of(LEAF_SPINE, LEAF_SPINE | {"leaf_oversubscription": 4.0}, LEAF_SPINE | {"rail_optimized": True})
    jobs = []
    for first, last in pairwise((0, *cut)):
        tensor, pipeline = one_of((8, 1), (4, 2), (2, 4), (4, 1), (1, 2))
        places = [node * 8 + local for node in nodes[first:last] for local in range(8)]
        data = len(places) // (tensor * pipeline)
        jobs.append(
            {
                "nodes": 8,
                "fabric": fabric,
                "name": f"job{first}",
                "model": {"layers": pipeline * one_of(1, 2), "hidden": one_of(1024, 1280)},
                "software": one_of({}, BESIDE, {"pipeline_overlap": True}, {"tensor_overlap": "backward"}),
                "training": {"global_batch": data * one_of(1, 5, 12)},
                "parallelism": {
                    "tensor": tensor, "pipeline": pipeline, "data": data, "zero_stage": one_of(0, 1, 2, 3),
                    "placement": tuple(draw(st.permutations(places)) if one_of(True, False, False) else places),
                },
            }
        )  # fmt: skip
    return jobs


SHORTCUTS = ("fold", "coalesce", "skip", "prune")


def both(pair: list[dict[str, Any]], off: tuple[str, ...], steps: int, lag: float, **others: Any) -> Together:
    options: dict[str, Any] = {"simulation": dict.fromkeys(off, "off") | {"certificate": off == SHORTCUTS}}
    jobs = [training_on(**each, **options) for each in pair]
    return simulate_together(jobs, [steps] * len(jobs), after=[0.0] + [lag] * (len(jobs) - 1), **others)


PAIRS: dict[str, list[dict[str, Any]]] = {
    "equal": [{"nodes": (0, 2), "name": "a"}, {"nodes": (1, 3), "name": "b"}],
    "unequal": [
        {"nodes": (0, 2), "name": "a"},
        {"nodes": (1, 3), "name": "b", "batch": 40, "model": {"hidden": 1280}},
    ],
    "beside computation": [
        {"nodes": (0, 2), "name": "a", "software": BESIDE},
        {"nodes": (1, 3), "name": "b", "software": BESIDE, "parallelism": {"zero_stage": 3}},
    ],
    "tensor groups over uplinks": [
        {"nodes": (0, 2), "name": "a", "parallelism": {"tensor": 16, "data": 1}, "batch": 12},
        {"nodes": (1, 3), "name": "b", "parallelism": {"tensor": 16, "data": 1}, "batch": 16},
    ],
    "pipelines": [
        {"nodes": (0, 2), "name": "a", "parallelism": {"tensor": 4, "pipeline": 4, "data": 1}, "batch": 24},
        {"nodes": (1, 3), "name": "b", "parallelism": {"tensor": 4, "pipeline": 4, "data": 1}, "batch": 30},
    ],
}  # fmt: skip


class TestTrainings:
    """Nodes 0 and 1, 2 and 3, ... share a leaf: the rings of jobs on 0, 2 and on 1, 3 cross the same uplinks."""

    @pytest.mark.parametrize("lag", [0.0, 0.0007])
    @pytest.mark.parametrize("pair", PAIRS)
    def test_shortcuts_do_not_move_them(self, pair: str, lag: float) -> None:
        found = both(PAIRS[pair], (), 12, lag)
        for off in (*((each,) for each in SHORTCUTS), SHORTCUTS):
            other = both(PAIRS[pair], off, 12, lag)
            for mine, theirs in zip(found.jobs, other.jobs, strict=True):
                np.testing.assert_allclose(mine.begins, theirs.begins, rtol=EXACT, atol=1e-12)
                np.testing.assert_allclose(mine.ends, theirs.ends, rtol=EXACT)

    @settings(max_examples=8, suppress_health_check=[HealthCheck.too_slow])
    @given(neighbours(), st.sampled_from([0.0, 0.0003, 0.002]), st.booleans())
    def test_any_jobs_take_the_same_without_shortcuts(self, jobs: list[Any], lag: float, ranked: bool) -> None:
        n, found = len(jobs), list[Together]()
        for simulation in ({}, dict.fromkeys(SHORTCUTS, "off") | {"certificate": True}):
            made = [small_experiment(**job, simulation=simulation) for job in jobs]
            priorities = range(n) if ranked else ()
            found.append(simulate_together(made, [6] * n, after=[0.0, *[lag] * (n - 1)], priorities=priorities))
        for mine, theirs in zip(found[0].jobs, found[1].jobs, strict=True):
            np.testing.assert_allclose(mine.ends, theirs.ends, rtol=EXACT)

    def test_a_job_alone_is_as_ever(self) -> None:
        for pair in PAIRS.values():
            one = training_on(**pair[1])
            alone = simulate_together([one], [3])
            expected = simulate_step(one)
            assert alone.jobs[0].step_s == pytest.approx([expected.trace.time] * 3, rel=EXACT)
            mine, theirs = ({use.name: use for use in uses} for uses in (alone.links, expected.readings.links))
            assert mine.keys() == theirs.keys()
            for name, use in mine.items():
                assert use.mean == pytest.approx(theirs[name].mean, rel=1e-6)

    def test_jobs_that_share_no_link_do_not_notice_each_other(self) -> None:
        pair = [{"nodes": (0, 1), "name": "a"}, {"nodes": (2, 3), "name": "b"}]
        found = both(pair, (), 5, 0.0)
        for job, each in zip(found.jobs, pair, strict=True):
            alone = simulate_step(training_on(**each)).trace.time  # type: ignore[arg-type]
            assert job.step_s == pytest.approx([alone] * 5, rel=EXACT)

    def test_equal_jobs_meet_as_the_oracle_says(self) -> None:
        """Data parallel without overlap is compute, then communicate: in phase both lose what one communicates."""
        pair = PAIRS["equal"]
        alone = simulate_step(training_on(**pair[0]))
        in_phase = both(pair, (), 400, 0.0)
        gradients = alone.readings.critical.exposed["data_comm"]
        slower = in_phase.jobs[0].step_s[-1] - alone.trace.time
        assert 0.9 * gradients < slower < gradients  # start-up is not shared
        for lag in (0.1, 0.5):
            found = both(pair, (), 400, lag * slower)
            assert found.jobs[1].step_s[5] == pytest.approx(alone.trace.time + (1 - lag) * slower, rel=1e-6)
        assert max(in_phase.simulated) < 10

    def test_the_first_of_two_priorities_is_alone(self) -> None:
        pair = PAIRS["equal"]
        alone = simulate_step(training_on(**pair[0])).trace.time
        for off in ((), SHORTCUTS):
            first, second = both(pair, off, 6, 0.0, priorities=[0, 1]).jobs
            assert first.step_s == pytest.approx([alone] * 6, rel=EXACT)
            assert second.step_s[0] > 1.02 * alone

    def test_an_accelerator_has_one_job(self) -> None:
        pair = [{"nodes": (0, 2), "name": "a"}, {"nodes": (2, 3), "name": "b"}]
        with pytest.raises(PlanError, match="b wants node2/gpu0, which a has"):
            both(pair, (), 1, 0.0)
