"""The runs of the blind test: they can be read and checked, and none of them is compared by default.

How far off they are is never tested, so that nothing is tuned to them; docs/models.md has the result.
"""

from __future__ import annotations

import pytest

from sim.ask.validate.validate import BLIND, find_measured
from sim.ask.validate.validate import MeasuredRun as Run
from sim.inputs.cases import load_cases, load_table
from sim.inputs.records import Measured
from support import ROOT

FOLDER = ROOT / "experiments" / BLIND
RUNS = {
    "bloom": 36,
    "dgxc": 50,
    "flash_attention": 11,
    "internlm": 27,
    "llm_foundry": 63,
    "megascale": 11,
    "megatron_bridge": 20,
    "megatron_bridge_moe_later": 15,
    "megatron_deepspeed": 4,
    "mlperf_v5_1": 3,
    "nemo": 30,
    "paxml": 11,
    "pytorch": 18,
    "vtrain": 62,
    "zero_bubble": 12,
}


def test_the_blind_tables_are_these() -> None:
    assert sorted(file.stem for file in FOLDER.glob("*.yaml")) == sorted(RUNS)


@pytest.mark.parametrize("table", RUNS)
def test_every_blind_run_passes_the_checks_and_says_what_was_measured(table: str) -> None:
    cases = load_cases(FOLDER / f"{table}.yaml")
    assert len(cases) == RUNS[table]
    for case in cases:
        measured = case.load().experiment.measured
        assert isinstance(measured, Measured)
        assert measured.source
        assert measured.assumed
        assert measured.step_time or measured.tokens_per_s or measured.tokens_per_s_per_accelerator
    assert all(len(entry.reason) > 10 for entry in load_table(FOLDER / f"{table}.yaml").left_out)


def what(run: Run) -> tuple[str, str]:
    return run.source, run.name


def test_no_blind_run_is_compared_by_default_or_repeats_one_that_is() -> None:
    compared = find_measured()
    assert not {what(run) for run in compared} & {what(run) for run in find_measured([FOLDER])}
    together = find_measured([ROOT / "experiments"])
    assert len(together) == len(compared) + sum(RUNS.values())
