"""Long runs that were published: what broke, and how much of the time was training."""

from __future__ import annotations

import pickle
from dataclasses import replace
from functools import cache
from math import sqrt
from statistics import fmean

import pytest
from lives import saving
from scipy.stats import poisson

from sim.ask.run.lives import PreparedLife, prepare_life
from sim.inputs.load import load_experiment
from sim.life.life import live

LLAMA3 = {  # The Llama 3 Herd of Models (arXiv 2407.21783), Table 5, and 47 planned interruptions
    "faulty_gpu": 148, "gpu_hbm3_memory": 72, "software_bug": 54, "network_switch_or_cable": 35,
    "host_maintenance_unplanned": 32, "gpu_sram_memory": 19, "gpu_system_processor": 17, "nic": 7,
    "nccl_watchdog_timeout": 7, "silent_data_corruption": 6, "gpu_thermal_interface_or_sensor": 6, "ssd": 3,
    "power_supply": 3, "server_chassis": 2, "io_expansion_board": 2, "dependency": 2, "cpu": 2, "system_memory": 2,
    "planned_maintenance": 47,
}  # fmt: skip
SEEDS = range(10)


@cache
def prepared(name: str) -> PreparedLife:
    """One experiment, its step simulated once."""
    return prepare_life(load_experiment(name).experiment)


def test_llama3_interruptions_by_cause() -> None:
    """54 days, 16,384 GPUs: mean counts of ten lives within the Poisson interval (99.9 %) of the published ones.

    Software fails and upgrades come only while the job runs, which is 93 % of the time.
    """
    lives = [prepared("llama3-405b-54-days").live(seed) for seed in SEEDS]
    assert {cause for life in lives for cause in life.failures_by_cause} == set(LLAMA3)
    for cause, published in LLAMA3.items():
        mean = fmean(life.failures_by_cause.get(cause, 0) for life in lives)
        low, high = poisson.interval(0.999, mean)
        assert low <= published <= high, f"{cause}: {mean} simulated, {published} published"
        assert mean == pytest.approx(published, abs=4 * sqrt(published / len(lives)) + 0.08 * published)
    assert fmean(life.failures for life in lives) == pytest.approx(466, abs=0.04 * 466)


def test_llama3_trains_over_90_percent_of_the_time_with_asynchronous_saves() -> None:
    """Llama 3, section 3.3.4: effective training time over 90 %."""
    lives = [prepared("llama3-405b-54-days").live(seed) for seed in SEEDS]
    assert min(life.goodput for life in lives) > 0.90
    assert fmean(life.goodput for life in lives) < 0.96


def test_llama3_with_blocking_saves_of_a_minute() -> None:
    """Kokolis et al.'s ETTR at 3.79 failures per 1,000 node-days and 60 s is 0.876 for unplanned failures alone.

    47 planned stops of 11 min take another 1 %, so it is to be within 2 points.
    """
    known = prepared("llama3-405b-54-days")
    steps = round(1156 / known.step_times.healthy_s)
    inputs = replace(known.inputs, saving=saving(steps, blocking=60.0, restore=60.0, keep=200))
    assert fmean(live(inputs, seed).goodput for seed in SEEDS) == pytest.approx(0.876, abs=0.02)


def test_opt_175b() -> None:
    """metaseq chronicles: 33 days of work took 56, which is 59 %; two machines of 128 fail a day."""
    known = prepared("opt-175b")
    inputs = replace(known.inputs, step_time=lambda _: 33 * 86400 / known.inputs.target_steps)
    for case in (known.inputs, inputs):  # with the predicted step time, and with the published one
        assert fmean(live(case, seed).goodput for seed in range(30)) == pytest.approx(0.59, abs=0.06)


def test_a_prepared_life_travels_to_other_processes() -> None:
    known = prepared("llama3-405b-54-days")
    copy = pickle.loads(pickle.dumps(known))
    assert copy.live(3) == known.live(3)
