"""Failures come as often, as unevenly and as clustered as asked for."""

from __future__ import annotations

from itertools import takewhile
from math import factorial

import numpy as np
import pytest
from lives import DAY, failures, job, recovery, saving

from sim.inputs.reliability import Delay, Failures, Frailty
from sim.life.delay import draw
from sim.life.faults import Strike, count_parts, frailties, strikes
from sim.life.life import live
from sim.rng import stream

PARTS = {"accelerator": 8, "nic": 4, "cable": 4}


def events(model: Failures, horizon: float, nodes: int = 100, switches: int = 5, seed: int = 0) -> list[Strike]:
    """All strikes up to the horizon, of nodes that are alike."""
    counts = [count_parts(mode, PARTS, nodes, switches) for mode in model.modes]
    return list(takewhile(lambda s: s.time < horizon, strikes(model, counts, 1.0, lambda _: 1.0, seed)))


@pytest.mark.parametrize("law", ["exponential", "weibull", "lognormal"])
@pytest.mark.parametrize(
    ("component", "parts"), [("accelerator", 800), ("node", 100), ("switch", 5), ("job", 1), ("nic", 400)]
)
def test_every_part_fails_at_its_rate_from_the_start(law: str, component: str, parts: int) -> None:
    """Parts have run for long, so that there is no burst at first; 1,000 events wanted, five standard errors.

    Failures of one part follow one another (shape 0.7), which widens the count by its coefficient of variation.
    """
    mtbf = 40 * DAY
    horizon = 1000 * mtbf / parts
    model = failures({"component": component, "mtbf": mtbf, "law": law, "shape": 0.7})
    found = events(model, horizon)
    assert len(found) == pytest.approx(1000, abs=5 * 1.5 * 1000**0.5)
    assert [strike.time for strike in found] == sorted(strike.time for strike in found)
    early = sum(strike.time < horizon / 2 for strike in found)
    assert early == pytest.approx(len(found) / 2, abs=5 * 1.5 * 500**0.5)


def test_modes_share_events_by_their_rates() -> None:
    model = failures({"cause": "a", "mtbf": 10 * DAY}, {"cause": "b", "mtbf": 30 * DAY})
    found = events(model, 100 * DAY)
    share = sum(strike.mode == 0 for strike in found) / len(found)
    assert share == pytest.approx(0.75, abs=0.06)
    assert {strike.place for strike in found} == set(range(100))


def test_weibull_failures_of_one_part_follow_one_another() -> None:
    """Gaps of one part have the asked coefficient of variation: 1.5 for a shape of 0.69, and 1 when exponential."""
    gaps = np.diff(
        [
            strike.time
            for strike in events(failures({"component": "job", "law": "weibull", "shape": 0.69, "mtbf": 100.0}), 4e5)
        ]
    )
    assert gaps.mean() == pytest.approx(100, rel=0.1)
    assert gaps.std() / gaps.mean() == pytest.approx(1.49, rel=0.1)


def test_lemons_have_their_share_of_the_faults() -> None:
    """A tenth of the nodes with 41 % of the faults, as in the InfiniteHBD trace (arXiv 2502.03885)."""
    weights = frailties(Frailty(nodes=0.1, faults=0.41), 400, seed=3)
    assert weights.mean() == pytest.approx(1.0)
    assert np.sort(weights)[-40:].sum() / weights.sum() == pytest.approx(0.41)
    modes = failures({"mtbf": 400 * 100.0}, frailty={"nodes": 0.1, "faults": 0.41})
    life = live(job(nodes=400, time_limit_s=4e5, failures=modes, recovery=recovery(warm_spares=0)), 3)
    assert len(life.incidents) == pytest.approx(4000, abs=200), "the rate is that of all nodes together"
    struck = np.bincount([incident.nodes[0] for incident in life.incidents], minlength=400)
    lemons = np.argsort(frailties(Frailty(nodes=0.1, faults=0.41), 400, seed=3))[-40:]
    assert struck[lemons].sum() / struck.sum() == pytest.approx(0.41, abs=0.03)


def test_lemons_wear_out_under_other_laws_too() -> None:
    modes = failures({"mtbf": 400 * 100.0, "law": "weibull", "shape": 0.9}, frailty={"nodes": 0.1, "faults": 0.41})
    life = live(job(nodes=400, time_limit_s=4e5, failures=modes, recovery=recovery(warm_spares=0)), 3)
    struck = np.bincount([incident.nodes[0] for incident in life.incidents], minlength=400)
    lemons = np.argsort(frailties(Frailty(nodes=0.1, faults=0.41), 400, seed=3))[-40:]
    assert struck[lemons].sum() / struck.sum() == pytest.approx(0.41, abs=0.05)


def test_batches_strike_neighbours() -> None:
    modes = failures({"mtbf": 16 * 500.0, "batch": {"probability": 0.3, "nodes": 4}, "repair": {"mean": 60}})
    life = live(job(time_limit_s=2e5, failures=modes), 0)
    sizes = [len(incident.nodes) for incident in life.incidents]
    assert set(sizes) >= {1, 4}
    assert sum(size > 1 for size in sizes) / len(sizes) == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize(
    ("delay", "median"),
    [
        ({"kind": "fixed", "mean": 5.0}, 5.0),
        ({"kind": "exponential", "mean": 5.0}, 5 * 0.6931),
        ({"kind": "weibull", "mean": 5.0, "shape": 2.0}, 5 / 0.88623 * 0.6931**0.5),
        ({"kind": "lognormal", "mean": 155.4, "shape": 2.11}, 16.8),
    ],
)
def test_delays_have_their_mean_and_median(delay: dict[str, object], median: float) -> None:
    """The last is the repair of a GPU in the InfiniteHBD trace: mean 155.4 h, median 16.8 h."""
    generator, record = stream(1, "test"), Delay.from_si(delay)
    times = np.array([draw(record, generator) for _ in range(20_000)])
    assert np.median(times) == pytest.approx(median, rel=0.06)
    assert times.mean() == pytest.approx(record.mean, rel=0.25 if delay["kind"] == "lognormal" else 0.03)


def erlang_c(servers: int, load: float) -> float:
    """Share of arrivals that wait in M/M/c (Erlang 1917)."""
    last = load**servers / factorial(servers) * servers / (servers - load)
    return last / (sum(load**k / factorial(k) for k in range(servers)) + last)


@pytest.mark.parametrize(("crew", "load"), [(1, 0.6), (2, 1.4), (5, 4.0)])
def test_the_repair_queue_is_m_m_c(crew: int, load: float) -> None:
    """Mean wait for a repair is ErlangC / (c*mu - lambda), when failures come at a steady rate.

    They do, since spares last. 12,000 repairs; waits in a queue are correlated, so 15 % is allowed.
    """
    repair = 1000.0
    rate = load / repair
    inputs = job(
        nodes=50,
        replicas=1,
        target_steps=1e12,
        time_limit_s=12_000 / rate,
        failures=failures({"mtbf": 50 / rate, "repair": {"kind": "exponential", "mean": repair}}),
        recovery=recovery(warm_spares=100, repair_crew=crew),
    )
    life = live(inputs, 0)
    waits = [work.began - work.asked for work in life.repairs]
    assert len(waits) > 10_000
    assert sum(waits) / len(waits) == pytest.approx(erlang_c(crew, load) / (crew / repair - rate), rel=0.15)


def test_spares_that_wait_for_a_crew_run_out() -> None:
    """Finite crews make a queue of broken nodes, and the job waits for it."""
    modes = failures({"mtbf": 16 * 2000.0, "repair": {"kind": "exponential", "mean": 1500.0}})
    few = live(
        job(failures=modes, recovery=recovery(warm_spares=1, repair_crew=1), target_steps=3000.0, saving=saving(1)), 0
    )
    many = live(job(failures=modes, recovery=recovery(warm_spares=1), target_steps=3000.0, saving=saving(1)), 0)
    assert few.badput_s["waiting"] > many.badput_s["waiting"] > 0
