"""The shipped study of schedules at equal memory says what it finds."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import pytest

from sim.ask.sweep.sweep_file import load_study
from sim.ask.workers.batch import run_one


@cache
def found() -> dict[tuple[str, int, str], dict[str, Any]]:
    """Fields of the results by schedule, chunks a stage and recomputation."""
    loaded = load_study("schedules")
    rows = {}
    for point in loaded.points():
        experiment = loaded.base.changed(point.changes)
        plan, training = experiment.parallelism, experiment.training
        outcome = run_one(experiment)
        assert outcome.status == "ok", outcome
        rows[str(plan.schedule), plan.virtual_stages, str(training.recompute)] = json.loads(outcome.fields)
    return rows


def of(name: str, field: str, virtual: int = 2, recompute: str = "none") -> float:
    return float(found()[name, virtual, recompute][field])


@pytest.mark.parametrize(
    ("name", "time", "memory"),
    [("dualpipe-v", -0.05, 0.10), ("zb-v", -0.05, 0.06), ("v-half", 0.0, -0.17), ("v-min", 0.09, -0.32)],
)
def test_times_and_memory_are_as_described(name: str, time: float, memory: float) -> None:
    """Against 1F1B, nothing computed again."""
    for field, share in (("step.time_s", time), ("memory.peak_bytes_per_accelerator", memory)):
        assert of(name, field) / of("1f1b", field, 1) - 1 == pytest.approx(share, abs=0.006)


def test_interleaved_and_zb_h2_need_recomputation_which_costs_more_than_they_gain() -> None:
    for name, virtual in (("1f1b", 2), ("zb-h2", 1)):
        assert not found()[name, virtual, "none"]["memory.fits"]
        assert found()[name, virtual, "full"]["memory.fits"]
        assert of(name, "step.time_s", virtual) < of("1f1b", "step.time_s", 1)
        assert of(name, "step.time_s", virtual, "full") > of("1f1b", "step.time_s", 1)


def test_the_fastest_that_fits_is_a_v() -> None:
    fitting = {key: row["step.time_s"] for key, row in found().items() if row["memory.fits"]}
    assert min(fitting, key=lambda key: fitting[key]) == ("dualpipe-v", 2, "none")
