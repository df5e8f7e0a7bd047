"""How often to save: the formulas against the figures their authors print, and against simulated lives."""

from __future__ import annotations

from dataclasses import replace
from math import exp, expm1
from statistics import fmean

import pytest
from lives import DAY, constant, failures, job, recovery, saving

from sim.inputs.storage import Checkpointing
from sim.life.best_interval import Trials, saving_steps
from sim.life.interval import daly, young
from sim.life.life import live
from sim.life.rates import mean_time_between_stops

MINUTE = 60.0


def expected_total_time(work: float, interval: float, write: float, restart: float, mtbf: float) -> float:
    """Time to do `work` under exponential failures that also strike saves and restarts (Daly 2006, eq. 20)."""
    return mtbf * exp(restart / mtbf) * expm1((interval + write) / mtbf) * work / interval


def expected_ettr(interval: float, write: float, restart: float, mtbf: float) -> float:
    """Productive share of the time, `expected_total_time` turned round (Kokolis et al., HPCA 2025, call it ETTR)."""
    return 1 / expected_total_time(1.0, interval, write, restart, mtbf)


@pytest.mark.parametrize(("mtbf", "reported", "slowdown"), [(1440, 117, 1.0958), (360, 57, 1.2204), (15, 9.1, 5.0083)])
def test_daly_2006(mtbf: float, reported: float, slowdown: float) -> None:
    """Figure captions of Daly, FGCS 22(3), 2006: a dump of 5 min, a restart of 10 min; M of 24 h, 6 h, 15 min.

    The captions are rounded to the minute (the last to 0.1 min). The total times follow from his eq. 20.
    """
    interval = daly(5, mtbf)
    assert interval == pytest.approx(reported, abs=0.5 if mtbf > 15 else 0.05)
    assert expected_total_time(30_000, interval, 5, 10, mtbf) / 30_000 == pytest.approx(slowdown, abs=1e-4)


def test_young() -> None:
    """sqrt(2*d*M) for Young's 5 min and 24 h is 120 min; Daly takes the dump off."""
    assert young(5, 1440) == 120
    assert daly(5, 1440) < young(5, 1440)


def test_a_save_longer_than_two_mtbf_is_made_once_per_mtbf() -> None:
    """Daly 2006, eq. 37, second case."""
    assert daly(31, 15) == 15


ETTR = [  # GPUs, failures per 1,000 node-days, restart, write, interval, ETTR of the exact form
    (2048, 6.5, 300, 300, 5582, 0.8912),
    (12000, 6.5, 300, 300, 2306, 0.7365),
    (12000, 1.0, 300, 300, 5879, 0.8967),
    (12000, 6.5, 300, 10, 421, 0.9215),
    (16384, 3.789, 300, 20, 667, 0.9162),
    (16384, 3.789, 300, 60, 1156, 0.8758),
    (16384, 6.5, 300, 60, 883, 0.8308),
]


def mtbf_of(gpus: int, rate: float) -> float:
    """Seconds between failures of a job on nodes of 8 (Kokolis et al., HPCA 2025)."""
    return DAY / (-(-gpus // 8) * rate / 1000)


@pytest.mark.parametrize(("gpus", "rate", "restart", "write", "interval", "exact"), ETTR)
def test_ettr_table(gpus: int, rate: float, restart: float, write: float, interval: float, exact: float) -> None:
    """ETTR of Kokolis et al. (HPCA 2025), by the exact form at Daly's interval, where the optimum is flat."""
    assert expected_ettr(interval, write, restart, mtbf_of(gpus, rate)) == pytest.approx(exact, abs=1.5e-3)


@pytest.mark.parametrize(("gpus", "rate", "restart", "write", "interval", "exact"), ETTR)
def test_lives_reach_the_expected_ettr(
    gpus: int, rate: float, restart: float, write: float, interval: float, exact: float
) -> None:
    """A job with exponential failures, also of saves and restarts, does as the closed form says.

    4 lives of 1,000 failures scatter by about 0.2 %; three standard errors are allowed.
    """
    nodes, mtbf = -(-gpus // 8), mtbf_of(gpus, rate)
    inputs = job(
        target_steps=1e9,
        nodes=nodes,
        replicas=1,
        step_time=constant(1.0),
        failures=failures({"mtbf": mtbf * nodes}),
        recovery=recovery(detect={"mean": restart}),
        saving=saving(steps=round(interval), blocking=write),
        time_limit_s=1000 * mtbf,
    )
    simulated = fmean(live(inputs, seed).goodput for seed in range(4))
    assert simulated == pytest.approx(expected_ettr(interval, write, restart, mtbf), abs=0.006)
    assert simulated == pytest.approx(exact, abs=0.01)


def test_time_between_stops_adds_all_rates() -> None:
    """16 nodes of 8 accelerators and one job; what only slows or pauses does not count."""
    modes = (
        {"mtbf": 16 * DAY},
        {"component": "accelerator", "mtbf": 128 * DAY},
        {"component": "job", "mtbf": DAY},
        {"component": "cable", "mtbf": DAY, "effect": "pause", "duration": {"mean": 10}},
    )
    assert mean_time_between_stops(job(failures=failures(*modes))) == pytest.approx(DAY / 3)


def test_policies() -> None:
    price = saving(blocking=60.0)
    inputs = job(failures=failures({"mtbf": 16 * 4 * 3600.0}), saving=price)
    assert saving_steps(inputs, Checkpointing(interval_steps=7)) == 7
    assert saving_steps(inputs, Checkpointing.from_si({"interval": 604.0})) == 60
    assert saving_steps(inputs, Checkpointing(policy="young")) == round(young(60, 4 * 3600) / 10)
    assert saving_steps(inputs, Checkpointing(policy="daly")) == round(daly(60, 4 * 3600) / 10)
    calm = job(saving=price)
    assert saving_steps(calm, Checkpointing(policy="daly")) == 1000, "nothing fails: save once, at the end"


def test_the_best_interval_is_where_daly_says() -> None:
    """The optimum is flat: what counts is that no time is lost against Daly's interval, and that it is near."""
    inputs = job(
        target_steps=40_000.0,
        failures=failures({"mtbf": 16 * 4 * 3600.0}),
        recovery=recovery(detect={"mean": 300}),
        saving=saving(blocking=60.0),
    )
    best = Trials(inputs).best()
    formula = daly(60, 4 * 3600) / 10
    assert formula / 2 < best < formula * 2

    def lost(steps: int) -> float:
        return fmean(live(replace(inputs, saving=saving(steps, blocking=60.0)), seed).elapsed_s for seed in range(3))

    assert lost(best) <= lost(round(formula))


@pytest.mark.parametrize(
    ("gpus", "rate", "hours"),
    [(8, 6.5, 3692.3), (1024, 6.5, 28.85), (16384, 6.5, 1.803), (131072, 6.5, 0.225), (16384, 3.789, 3.093)],
)
def test_mttf_by_gpu_count(gpus: int, rate: float, hours: float) -> None:
    """Kokolis et al. (HPCA 2025): 1.8 h at 16,384 and 0.23 h at 131,072 GPUs; the last is Llama 3's 54 d / 419."""
    nodes = gpus // 8
    inputs = job(nodes=nodes, replicas=1, failures=failures({"mtbf": DAY * 1000 / rate}))
    assert mean_time_between_stops(inputs) / 3600 == pytest.approx(hours, rel=2e-3)
    limit = 400 * hours * 3600
    life = live(replace(inputs, target_steps=1e12, time_limit_s=limit, recovery=recovery(warm_spares=1000)), 1)
    assert len(life.incidents) == pytest.approx(400, abs=60), "three standard deviations of a Poisson count"
