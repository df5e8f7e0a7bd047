"""Every experiment that ships runs, and its result keeps the books: parts sum to wholes."""

from __future__ import annotations

import json
from functools import cache

import pytest

from sim.ask.run.single import run_experiment
from sim.metrics.result import BREAKDOWN, Result
from sim.report.jsonout import from_json, result_text
from sim.report.text import report_text
from support import ROOT

NAMES = sorted(file.stem for file in (ROOT / "experiments").glob("*.yaml"))


@cache
def result_of(name: str) -> Result:
    """The result of a catalogue experiment, simulated once per process."""
    return run_experiment(name)


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_books(name: str) -> None:
    result = result_of(name)
    check_step(result)
    check_memory(result)
    check_utilization(result)
    check_comparison(result)
    assert result.name == name
    assert result.description
    assert from_json(json.loads(result_text(result))) == result
    assert max(len(line) for line in report_text(result, 80).splitlines()) <= 80


def check_step(result: Result) -> None:
    step = result.step
    assert tuple(step.breakdown_s) == BREAKDOWN
    assert min(step.breakdown_s.values()) >= 0
    assert sum(step.breakdown_s.values()) == pytest.approx(step.time_s, rel=1e-9)
    assert 0 <= step.comm_overlapped_s <= step.comm_total_s
    assert 0 < step.mfu <= step.hfu < 1
    assert step.samples_per_s * step.time_s == pytest.approx(result.manifest["training"]["global_batch"], rel=1e-9)
    assert (step.tokens_per_s or 0.0) * step.time_s == pytest.approx(tokens_per_step(result), rel=1e-9)


def tokens_per_step(result: Result) -> float:
    training = result.manifest["training"]
    return float(training["global_batch"] * (training.get("sequence_length") or 0))


def check_memory(result: Result) -> None:
    memory = result.memory
    assert sum(memory.parts.values()) == pytest.approx(memory.peak_bytes_per_accelerator, rel=1e-9)
    assert memory.fits == (memory.peak_bytes_per_accelerator <= memory.capacity_bytes)
    assert memory.fits, "what was trained in reality fits"
    assert max(sum(stage.values()) for stage in memory.by_stage) <= memory.peak_bytes_per_accelerator * (1 + 1e-9)


def check_utilization(result: Result) -> None:
    assert sum(result.utilization.accelerator.values()) == pytest.approx(1.0, abs=1e-9)
    assert min(result.utilization.accelerator.values()) > -1e-9
    for link in result.utilization.links:
        assert 0 <= link.mean <= link.peak * (1 + 1e-9), link.name
        assert link.peak <= 1 + 1e-9, link.name


def check_comparison(result: Result) -> None:
    """A run with a measurement is compared with it; how far off it may be is for the validation tests."""
    assert (result.comparison is None) == (result.manifest["measured"] is None)
    if result.comparison:
        assert result.comparison.source
        assert abs(result.comparison.error) < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_says_where_its_measurement_comes_from(name: str) -> None:
    text = (ROOT / "experiments" / f"{name}.yaml").read_text(encoding="utf-8")
    assert "description:" in text
    assert "measured:" not in text or "source:" in text
