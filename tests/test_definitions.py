"""Every number of a result can be explained on the command line, by its key or by the name that people give it."""

from __future__ import annotations

from dataclasses import fields

import pytest

from sim.metrics.result import CostResult, EnergyResult, MemoryResult, RunResult, StepResult
from sim.report.definitions import definitions, definitions_of
from support import Cli


@pytest.mark.parametrize(
    ("section", "record"),
    [
        ("step", StepResult),
        ("memory", MemoryResult),
        ("run", RunResult),
        ("energy", EnergyResult),
        ("cost", CostResult),
    ],
)
def test_every_number_is_explained(section: str, record: type) -> None:
    keys = {one.key for one in definitions()}
    assert {f"{section}.{field.name}" for field in fields(record)} - keys == set()


@pytest.mark.parametrize(
    ("asked", "key", "told"),
    [
        ("mfu", "step.mfu", "P: peak rate of one accelerator"),
        ("MFU", "step.mfu", "model FLOP utilization"),
        ("time to train", "run.time_to_train_s.mean", ""),
        ("goodput", "run.goodput", "share of the time that advanced the training"),
        ("bubble", "step.breakdown_s.bubble", "waits for another pipeline stage"),
        ("run.badput_s.lost_work", "run.badput_s.lost_work", "that a failure undid"),
    ],
)
def test_a_number_is_found_by_what_people_call_it(asked: str, key: str, told: str) -> None:
    found = definitions_of(asked)
    assert any(key.startswith(one.key) and told in one.text for one in found)


def test_on_the_command_line(cli: Cli) -> None:
    assert cli("explain", "mfu").out.startswith("step.mfu (a number of a result)\nmodel FLOP utilization")
    assert "software.choices.context" in cli("explain", "context").out
    missed = cli("explain", "goodputt")
    assert missed.code == 3
    assert "goodput" in missed.err
