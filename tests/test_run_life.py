"""The life of a job keeps its books, falls back only on what was durable, and recovers as it should."""

from __future__ import annotations

from dataclasses import replace
from math import inf, isclose
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lives import DAY, constant, failures, job, recovery, saving

from sim.life.life import live
from sim.life.life_inputs import BADPUT, Life, LifeInputs, Saving, State
from sim.life.pace import Pace

HOUR = 3600.0


def check_books(life: Life, inputs: LifeInputs) -> None:
    """Every second has one place, in the accounts and on the timeline; every node is somewhere."""
    assert tuple(life.badput_s) == BADPUT
    assert min(life.badput_s.values()) >= -1e-6
    assert isclose(life.productive_s + sum(life.badput_s.values()), life.elapsed_s, rel_tol=1e-9)
    assert isclose(sum(span.seconds for span in life.spans), life.elapsed_s, rel_tol=1e-9)
    total = inputs.nodes + inputs.recovery.warm_spares + inputs.recovery.cold_spares
    for span in life.spans:
        assert 0 <= span.start < span.end <= life.elapsed_s
        assert 0 < span.seconds <= (span.end - span.start) + 1e-9 * max(1.0, span.end)
        assert span.busy_nodes + span.spare_nodes + span.down_nodes <= total
    assert sum(incident.lost_steps for incident in life.incidents) <= life.steps_lost + 1e-6
    assert [i.time for i in life.incidents] == sorted(i.time for i in life.incidents)


@st.composite
def troubled_jobs(draw: st.DrawFn) -> LifeInputs:
    """Jobs with anything that can happen to them at once."""
    times = st.just(0.0) | st.floats(1e-6, 600)
    modes: list[dict[str, Any]] = [
        {
            "mtbf": draw(st.floats(0.5, 20)) * DAY,
            "repair": {"kind": "exponential", "mean": draw(st.floats(60, 9 * HOUR))},
        },
        {"component": "job", "mtbf": DAY, "cause": "software"},
    ]
    extra: list[dict[str, Any]] = [
        {"effect": "pause", "component": "cable", "mtbf": 30 * DAY, "duration": {"mean": 45}, "cause": "flap"},
        {"effect": "slow", "component": "accelerator", "mtbf": 40 * DAY, "duration": {"mean": HOUR}, "cause": "slow"},
        {"effect": "corrupt", "mtbf": 20 * DAY, "duration": {"mean": 2 * HOUR}, "cause": "sdc"},
        {"effect": "planned", "component": "job", "mtbf": DAY, "duration": {"mean": 600}, "cause": "planned"},
        {"mtbf": 10 * DAY, "repair": {"mean": HOUR}, "batch": {"probability": 0.5, "nodes": 3}, "cause": "rack"},
        {"component": "switch", "mtbf": 9 * DAY, "repair": {"mean": HOUR}, "cause": "switch"},
        {"mtbf": 9 * DAY, "law": "weibull", "shape": 0.6, "repair": {"mean": HOUR}, "cause": "old"},
    ]
    modes += draw(st.lists(st.sampled_from(extra), unique_by=lambda mode: mode["cause"]))
    others: dict[str, Any] = {}
    if draw(st.booleans()):
        others["starts"] = {"probability": draw(st.just(0.0) | st.floats(1e-6, 0.7)), "after": {"mean": 300}}
    if draw(st.booleans()):
        others["frailty"] = {"nodes": 0.1, "faults": 0.4}
    save = saving(
        draw(st.integers(1, 60)),
        blocking=draw(times),
        drain=draw(times),
        slowdown=draw(st.floats(1, 1.5)),
        restore=draw(times),
        peer_steps=draw(st.sampled_from((0, 0, 1, 3))),
        peer_blocking=0.1,
        peer_restore=5.0,
        keep=draw(st.integers(1, 5)),
    )
    rescue = recovery(
        warm_spares=draw(st.integers(0, 3)),
        cold_spares=draw(st.integers(0, 2)),
        detect={"kind": "exponential", "mean": draw(times)},
        swap={"kind": "lognormal", "mean": 60.0, "shape": 1.0},
        boot={"mean": 600},
        initialise=draw(times),
        repair_crew=draw(st.sampled_from((None, 1, 2))),
        when_short=draw(st.sampled_from(("wait", "shrink", "stop"))),
    )
    return job(
        target_steps=float(draw(st.integers(1, 30_000))),
        step_time=lambda state: 10.0 * (1 + 0.3 * len(state.slow)) + 8 / state.replicas,
        failures=failures(*modes, **others),
        recovery=rescue,
        saving=draw(st.sampled_from((save, None))),
        blast=((0, 1), (), (14, 15)),
        input_stall_s=draw(st.sampled_from((0.0, 0.5))),
        time_limit_s=draw(st.sampled_from((3 * DAY, 10 * DAY))),
    )


@settings(max_examples=60)
@given(troubled_jobs(), st.integers(0, 2**31))
def test_time_is_conserved_whatever_happens(inputs: LifeInputs, seed: int) -> None:
    life = live(inputs, seed)
    check_books(life, inputs)
    healthy = inputs.step_time(State(inputs.replicas, ()))
    assert life.steps <= inputs.target_steps
    assert life.productive_s <= inputs.target_steps * (healthy - inputs.input_stall_s) * (1 + 1e-9), "no token twice"
    assert (life.outcome == "finished") == (life.steps == inputs.target_steps)


@settings(max_examples=25)
@given(troubled_jobs(), st.integers(0, 2**31))
def test_passing_cycles_at_once_changes_nothing(inputs: LifeInputs, seed: int) -> None:
    fast, slow = live(inputs, seed), live(replace(inputs, bulk=False), seed)
    assert fast.incidents == slow.incidents or all(
        isclose(a.time, b.time, rel_tol=1e-9) and isclose(a.lost_steps, b.lost_steps, abs_tol=1e-4)
        for a, b in zip(fast.incidents, slow.incidents, strict=True)
    )
    assert (fast.steps, fast.checkpoints, fast.outcome) == (slow.steps, slow.checkpoints, slow.outcome)
    assert isclose(fast.elapsed_s, slow.elapsed_s, rel_tol=1e-9)
    for key in BADPUT:
        assert isclose(fast.badput_s[key], slow.badput_s[key], rel_tol=1e-9, abs_tol=1e-9 * fast.elapsed_s), key


class Twin:
    """Training and saving one step at a time, written as the rules are told."""

    def __init__(self, step: float, save: Saving) -> None:
        self.step, self.save, self.now, self.done = step, save, 0.0, 0
        self.durable = [(0.0, 0)]  # when, and how many steps
        self.restart()

    def restart(self) -> None:
        self.since, self.drains_until = 0, -inf

    def train(self, until: float) -> None:
        """Whole steps and saves until `until`, where the job fails."""
        costs = self.save.costs
        while True:
            left, end = 1.0, self.now  # of the step
            if end < self.drains_until:
                share = min(1.0, (self.drains_until - end) / (self.step * costs.drain_slowdown))
                left, end = left - share, end + share * self.step * costs.drain_slowdown
            end += left * self.step
            if end > until:
                break
            self.now, self.done, self.since = end, self.done + 1, self.since + 1
            if self.since >= self.save.steps and self.now >= self.drains_until - 1e-6:
                if self.now + costs.blocking_s > until:
                    break
                self.now += costs.blocking_s
                self.since, self.drains_until = 0, self.now + costs.drain_s
                self.durable.append((self.drains_until, self.done))
        self.durable = [save for save in self.durable if save[0] <= until]
        self.now, self.done = until, self.durable[-1][1]
        self.restart()


@settings(max_examples=150)
@given(
    st.integers(1, 40),
    st.floats(0.01, 100),
    st.sampled_from((0.0, 3.7, 61.3, 500.9)),
    st.floats(1, 1.5),
    st.lists(st.floats(1, 5000), min_size=1, max_size=6),
    st.booleans(),
)
def test_falls_back_to_the_newest_durable_save_only(
    steps: int, blocking: float, drain: float, slowdown: float, gaps: list[float], bulk: bool
) -> None:
    """Against a twin that counts one step after the other."""
    save = saving(steps, blocking=blocking, drain=drain, slowdown=slowdown, keep=3)
    pace, twin, now = Pace(1e9, 7.3, save, bulk), Twin(7.3, save), 0.0
    for gap in gaps:
        now += gap
        pace.advance(now)
        pace.fall_back(now)
        pace.begin(now)
        twin.train(now)
        assert pace.done == twin.done
        assert pace.saved[-1].durable <= now


def test_nothing_happens_to_a_healthy_job() -> None:
    inputs = job(saving=saving(10, blocking=2.0), recovery=recovery(initialise=30.0))
    life = live(inputs, 0)
    assert life.outcome == "finished"
    assert life.elapsed_s == pytest.approx(30 + 1000 * 10 + 99 * 2)
    assert life.checkpoints == 99, "the last is not needed"
    assert life.badput_s["checkpoint_blocking"] == pytest.approx(198)
    assert life.badput_s["initialisation"] == 30
    assert life.failures == 0


def test_the_same_seed_gives_the_same_life() -> None:
    inputs = job(failures=failures({"mtbf": DAY}, frailty={"nodes": 0.1, "faults": 0.4}), saving=saving(10))
    assert live(inputs, 5) == live(inputs, 5)
    assert live(inputs, 5) != live(inputs, 6)


def test_a_drain_sets_a_least_interval() -> None:
    """Saves that are asked for every step come when the last one has drained: 35 s are 4 steps of 10 s."""
    life = live(job(saving=saving(1, blocking=1.0, drain=35.0)), 0)
    assert life.badput_s["checkpoint_blocking"] == pytest.approx(1 + (999 - 1) // 4)


def test_a_draining_save_slows_the_steps_beside_it() -> None:
    """20 s of each drain bring 20/12.5 of a step instead of two, so 4 s are lost with each of 9 saves."""
    life = live(job(target_steps=100.0, saving=saving(10, drain=20.0, slowdown=1.25)), 0)
    assert life.badput_s["slow_parts"] == pytest.approx(9 * 4)


# --- incidents --------------------------------------------------------------------------------


def one_failure(at: float, **fields: Any) -> LifeInputs:
    """A job in which node 3 goes down for an hour at a time, as a log says."""
    from sim.inputs.fault_log import Outage

    log = failures(log={"file": "", "nodes": 66})
    usual: dict[str, Any] = {"failures": log, "outages": (Outage(at, at + HOUR, 0, "gpu"),), "saving": saving(10)}
    return job(**(usual | fields))


def dealt_to_the_job(inputs: LifeInputs) -> int:
    """A seed under which the faulty node is one of the job's."""
    return next(seed for seed in range(100) if live(inputs, seed).incidents)


def test_the_line_of_one_incident() -> None:
    """Detect, diagnose, swap, reschedule, initialise, load, redo: 777 s in are 77 steps, 70 of them saved."""
    stages = {"detect": 20, "diagnose": 30, "swap": 40, "reschedule": 5}
    rescue = recovery(
        **{key: {"mean": value} for key, value in stages.items()}, initialise=7.0, initialise_per_rank=0.5
    )
    inputs = one_failure(777.0, recovery=rescue, saving=saving(10, restore=11.0))
    life = live(inputs, dealt_to_the_job(inputs))
    start = 5 + 7 + 0.5 * 128
    (incident,) = life.incidents
    assert incident.action == "1 warm spare"
    assert incident.downtime_s == pytest.approx(20 + 30 + 40 + start + 11)
    assert incident.lost_steps == pytest.approx((777 - start) / 10 - 70)
    expected = {"detection": 50, "waiting": 40, "initialisation": 2 * start, "restore": 11}
    assert {key: life.badput_s[key] for key in expected} == pytest.approx(expected)
    assert life.badput_s["lost_work"] == pytest.approx(incident.lost_steps * 10)
    assert life.elapsed_s == pytest.approx(10_000 + sum(life.badput_s.values()))
    assert sum(span.seconds for span in life.spans if span.phase == "redo") == pytest.approx(incident.lost_steps * 10)


def test_a_failure_during_recovery_starts_it_again() -> None:
    """A second node fails 100 s into a recovery of 300 s: 400 s in all, and no step is lost twice."""
    from sim.inputs.fault_log import Outage

    outages = (Outage(777.0, 9e9, 0, "first"), Outage(877.0, 9e9, 1, "second"))
    inputs = one_failure(0, outages=outages, recovery=recovery(detect={"mean": 300}))
    seed = next(seed for seed in range(2000) if len(live(inputs, seed).incidents) == 2)
    life = live(inputs, seed)
    assert [incident.cause for incident in life.incidents] == ["first", "second"]
    assert [incident.downtime_s for incident in life.incidents] == pytest.approx([100, 300])
    assert [incident.lost_steps for incident in life.incidents] == pytest.approx([7.7, 0])
    assert life.badput_s["detection"] == pytest.approx(400)


@pytest.mark.parametrize(("policy", "outcome"), [("wait", "finished"), ("shrink", "finished"), ("stop", "no_spares")])
def test_when_spares_run_out(policy: str, outcome: str) -> None:
    """One node of 16 fails for an hour, without a spare. A replica has two nodes; the other becomes a spare."""
    rescue = recovery(warm_spares=0, when_short=policy)
    inputs = one_failure(
        2005.0, recovery=rescue, step_time=lambda state: 10.0, failures=failures(log={"file": "", "nodes": 16})
    )
    life = live(inputs, 0)
    assert life.outcome == outcome
    if policy == "wait":
        assert life.badput_s["waiting"] == pytest.approx(HOUR)
        assert life.incidents[0].action == "1 warm spare, waited for repair"
    if policy == "shrink":
        assert life.incidents[0].action == "went on with 7 of 8 replicas"
        assert life.spans[-1].state.replicas == 7
        nodes = [(span.busy_nodes, span.spare_nodes, span.down_nodes) for span in life.spans]
        assert list(dict.fromkeys(nodes)) == [(16, 0, 0), (14, 1, 1), (14, 2, 0)], "it grows at the next restart only"
        rest = (life.elapsed_s - 2005) / 10
        assert rest * 7 / 8 == pytest.approx(1000 - 200), "every step brings 7/8 of the tokens"
        assert life.badput_s["slow_parts"] == pytest.approx(800 * 10 * (8 / 7 - 1))


def test_cold_spares_take_longer() -> None:
    inputs = one_failure(2000.0, recovery=recovery(warm_spares=0, cold_spares=50, boot={"mean": 900}))
    life = live(inputs, dealt_to_the_job(inputs))
    assert life.incidents[0].action == "1 cold spare"
    assert life.badput_s["waiting"] == pytest.approx(900)


def test_software_starts_again_on_the_same_nodes() -> None:
    modes = failures({"component": "job", "mtbf": 2000.0, "cause": "bug"})
    life = live(job(failures=modes, recovery=recovery(warm_spares=0, detect={"mean": 30}), saving=saving(10)), 0)
    assert life.outcome == "finished"
    assert life.incidents
    assert all(incident.action == "" and not incident.nodes for incident in life.incidents)
    assert life.badput_s["waiting"] == 0


def test_failing_starts_follow_starts() -> None:
    """Half of the starts fail 60 s on: a first failure brings as many more as heads in a row, one on average."""
    starts = {"probability": 0.5, "after": {"mean": 60}}
    modes = failures({"component": "job", "mtbf": 20_000.0, "cause": "bug"}, starts=starts)
    life = live(job(target_steps=1e6, failures=modes, saving=saving(1)), 0)
    counts = life.failures_by_cause
    assert counts["failed_start"] == pytest.approx(counts["bug"], rel=0.25), "about 500 each"


def test_planned_stops_lose_no_work() -> None:
    modes = failures(
        {"component": "job", "mtbf": 3000.0, "cause": "upgrade", "effect": "planned", "duration": {"mean": 100}}
    )
    life = live(job(failures=modes, saving=saving(50, blocking=1.0, drain=9.0)), 3)
    stops = life.failures_by_cause["upgrade"]
    assert stops > 0
    assert not life.incidents
    assert life.badput_s["waiting"] == pytest.approx(100 * stops)
    assert life.steps_lost <= stops, "only the step that was going on"


def test_a_link_flap_holds_the_job_up() -> None:
    modes = failures({"component": "cable", "mtbf": 128 * 2000.0, "effect": "pause", "duration": {"mean": 25}})
    life = live(job(failures=modes, saving=saving(10)), 0)
    assert life.badput_s["slow_parts"] == pytest.approx(25 * life.failures)
    assert life.failures > 0
    assert life.steps_lost == 0


def test_a_slow_part_stretches_steps_while_it_lasts() -> None:
    """The step time is asked with the part and its speed; the time above the healthy step is bad."""
    asked: list[State] = []

    def step_time(state: State) -> float:
        asked.append(state)
        return 20.0 if state.slow else 10.0

    modes = failures({
        "component": "accelerator", "mtbf": 128 * 3000.0, "effect": "slow", "speed": 0.5, "duration": {"mean": 500},
    })  # fmt: skip
    life = live(job(failures=modes, step_time=step_time), 1)
    slow = [state for state in asked if state.slow]
    assert {part.component for state in slow for part in state.slow} == {"accelerator"}
    assert {part.speed for state in slow for part in state.slow} == {0.5}
    slowed = sum(span.seconds for span in life.spans if span.state.slow)
    assert slowed > 0
    assert life.badput_s["slow_parts"] == pytest.approx(slowed / 2)


def test_corruption_goes_back_beyond_the_newest_save() -> None:
    """Found after 1,000 s: all saves since are no good, so at least 100 steps are lost; with two kept, everything."""
    modes = failures({"mtbf": 16 * 4000.0, "effect": "corrupt", "duration": {"mean": 1000}, "cause": "sdc"})
    many = live(job(target_steps=3000.0, failures=modes, saving=saving(10, keep=30)), 2)
    assert many.incidents
    for incident in many.incidents:
        assert 100 <= incident.lost_steps <= 110
    few = live(job(target_steps=300.0, failures=modes, saving=saving(10, keep=2)), 2)
    assert few.incidents[0].action.startswith("no good checkpoint was kept")


def test_peers_save_what_storage_has_not() -> None:
    """A copy every 2 steps: at most 2 are lost. With both of a pair gone, the persistent save is what is left."""
    modes: dict[str, Any] = {"mtbf": 16 * 3000.0, "repair": {"mean": HOUR}}
    save = saving(100, peer_steps=2, peer_restore=3.0, restore=77.0)
    alone = live(job(target_steps=5000.0, failures=failures(modes), saving=save), 0)
    assert len(alone.incidents) > 3
    assert all(incident.lost_steps < 2 for incident in alone.incidents)
    assert alone.badput_s["restore"] == pytest.approx(3 * len(alone.incidents))
    pairs = {**modes, "batch": {"probability": 1.0, "nodes": 3}}
    both = live(job(target_steps=5000.0, failures=failures(pairs), saving=save), 0)
    assert max(incident.lost_steps for incident in both.incidents) > 2
    assert both.badput_s["restore"] == pytest.approx(77 * sum(i.lost_steps > 2 for i in both.incidents), rel=0.2)


def test_input_stalls_are_not_productive() -> None:
    life = live(job(input_stall_s=2.5, step_time=constant(10.0)), 0)
    assert life.badput_s["input_stall"] == pytest.approx(2500)
    assert life.productive_s == pytest.approx(7500)


def test_ends_at_the_time_limit() -> None:
    life = live(job(time_limit_s=3333.0), 0)
    assert (life.outcome, life.elapsed_s, life.steps) == ("time_limit", 3333.0, 333)
