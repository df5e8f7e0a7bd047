"""Jobs that share links for ever: what recurs is exact, what drifts is off by no more than is said."""

from __future__ import annotations

from math import e, sqrt
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plans import small_experiment
from test_programs import PAIRS, neighbours, one_link, run, step_of, training_on

from sim.ask.run.together import simulate_lasting, simulate_together
from sim.programs.bracket import Tenant
from sim.programs.lasting import Lasting, even_steps, lasting

EXACT = 1e-9


def long_run(
    *jobs: tuple[float, float], most: int = 64, lags: tuple[float, ...] = (), **more: tuple[int, ...]
) -> Lasting:
    """Jobs that compute, then communicate (when alone) over one link."""
    tenants = [Tenant(step_of(number, job)) for number, job in enumerate(jobs)]
    return lasting(tenants, one_link(len(jobs), **more), most, lags)


@pytest.mark.parametrize("lag", [0.0, 0.25, 0.999, 1.0, 2.5])
def test_equal_jobs_keep_their_lag(lag: float) -> None:
    """C + 2m - d where they meet, C + m where not."""
    found = long_run((3, 1), (3, 1), lags=(0.0, lag))
    assert found.way == "recurs"
    for pace in found.paces:
        assert pace.step == pytest.approx(5 - lag if lag <= 1 else 4, rel=EXACT)
        assert (pace.low, pace.high, pace.error) == pytest.approx((4, 5, 0), rel=EXACT)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_n_equal_jobs_in_phase(n: int) -> None:
    found = long_run(*[(4, 1)] * n)
    assert [pace.step for pace in found.paces] == pytest.approx([4 + n] * n, rel=EXACT)
    assert found.simulated < 5 * n


def test_priorities() -> None:
    """The first takes C + m; the second waits once, and never meets it again; what it may lose is not bounded."""
    first, second = long_run((3, 1), (3, 1), priority=(0, 1)).paces
    assert (first.step, first.high, second.step) == pytest.approx((4, 5, 4), rel=EXACT)
    assert second.high == float("inf")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((3, 1), (3 * sqrt(2), 1)),
        ((3, 1), (4.8 + e / 1000, 0.7)),
        ((1, 1.5), (e, 2)),
        ((3, 1), (3.0 + 1 / 999.7, 1)),
        ((30, 1), (e, 0.3)),
    ],
)
@pytest.mark.parametrize("most", [16, 64, 256])
def test_two_that_drift(first: tuple[float, float], second: tuple[float, float], most: int) -> None:
    """t1 (1 + (m1/t1)(m2/t2)) as a share of a torus; near a resonance (1,000 steps in the time of 1,001) too."""
    t1, t2 = sum(first), sum(second)
    factor = 1 + first[1] / t1 * second[1] / t2
    found = long_run(first, second, most=most)
    for pace, t in zip(found.paces, (t1, t2), strict=True):
        assert found.way == "even"
        assert pace.low <= pace.step <= pace.high
        assert abs(pace.step - t * factor) <= pace.error + EXACT
        assert pace.error <= 4 * min(first[1], second[1]) * max(t1 / t2, t2 / t1) / most


def test_commensurate_periods_are_exact() -> None:
    """Two steps of one in the time of three of the other: as the mean of very many steps of each."""
    found = long_run((3, 1), (5, 1), lags=(0.0, 0.25))
    jobs = [step_of(0, (3.0, 1.0)), step_of(1, (5.0, 1.0))]
    first, second = run(jobs, [6000, 4000], [0.0, 0.25], skip=True)
    assert found.way == "recurs"
    for pace, job in zip(found.paces, (first, second), strict=True):
        assert pace.step == pytest.approx(sum(job.step_s[3000:3600]) / 600, rel=EXACT)


@pytest.mark.parametrize("n", [3, 4])
def test_more_jobs_say_how_far_off_they_are(n: int) -> None:
    """Against 20,000 steps: batches say what is missing, and what is proved holds."""
    bursts = [(3 * sqrt(k + 1), 0.6) for k in range(n)]
    found = long_run(*bursts, most=300)
    jobs = [step_of(number, burst) for number, burst in enumerate(bursts)]
    truth = run(jobs, [20_000] * n, [0.0] * n, skip=False)
    assert found.way == "batches"
    for pace, job in zip(found.paces, truth, strict=True):
        mean = sum(job.step_s[:10_000]) / 10_000
        assert pace.low <= mean <= pace.high
        assert abs(pace.step - mean) <= max(2 * pace.error, 0.002 * mean)
        assert pace.error < 0.02 * mean


@pytest.mark.parametrize("ratio", [sqrt(2), e, 0.3, 1 / 3, 1.0, 17.02, 1.001])
def test_even_steps_are_convergents(ratio: float) -> None:
    first, second = even_steps(ratio, 1.0, 500)
    assert max(first, second) <= 500
    assert abs(first * ratio - second) <= 1 / first


@pytest.mark.parametrize("pair", PAIRS)
def test_trainings_last_as_many_steps_say(pair: str) -> None:
    jobs = [training_on(**each) for each in PAIRS[pair]]
    found = simulate_lasting(jobs, 48)
    steps = [600, 600]
    together = simulate_together(jobs, steps)
    span = min(float(job.ends[-1]) for job in together.jobs)
    for pace, job in zip(found.paces, together.jobs, strict=True):
        mean = float(job.step_s[job.ends <= span].mean())
        assert pace.low * (1 - EXACT) <= mean <= pace.high * (1 + EXACT)
        assert abs(pace.step - mean) <= max(pace.error, 0.002 * mean)
        assert (pace.error == 0) is (found.way == "recurs")


@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@given(neighbours(), st.booleans())
def test_no_step_is_outside_of_what_is_proved(jobs: list[dict[str, Any]], shortcuts: bool) -> None:
    off = {} if shortcuts else dict.fromkeys(("fold", "coalesce", "skip", "prune"), "off")
    made = [small_experiment(**job, simulation=off) for job in jobs]
    found = simulate_lasting(made, 3)
    together = simulate_together(made, [4] * len(made), after=[0.0003 * number for number in range(len(made))])
    for pace, job in zip(found.paces, together.jobs, strict=True):
        assert pace.low * (1 - EXACT) <= job.step_s.min()
        assert job.step_s.max() <= pace.high * (1 + EXACT)
