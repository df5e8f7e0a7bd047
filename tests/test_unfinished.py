"""Trainings that never end: said first, with the reason and what would help, and exit code 1."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from sim.ask.run.simulate import predict, simulate
from sim.ask.run.single import meets_expectations
from sim.ask.seeds.seeds import Seeds, run_seeds
from sim.ask.sweep.judge import OK, UNFINISHED
from sim.ask.sweep.sweep_start import run_study
from sim.cli.app import call
from sim.inputs.load import load_experiment
from sim.metrics.result import Result, RunResult
from sim.report.page.run import run_page
from sim.report.text import report_text

SPOT = ("training.tokens=100B", "prices=aws-p5", "prices.pay=spot", "prices.rental.spot_preemption=6 h")
SAVED = ("checkpoint={interval: 10 min}", "cluster={extends: dgx-h100, storage: superpod-h100-standard}")
NO_SPARES = (
    "training.tokens=100B",
    "failures={name: nodes, modes: [{cause: board, component: node, mtbf: 2 days, repair: {mean: 900 days}}]}",
    "recovery={when_short: stop}",
)


@cache
def run(*overrides: str) -> Result:
    return simulate(load_experiment("llama3-8b-dgx-h100", overrides).experiment)


def life_of(result: Result) -> RunResult:
    assert result.run is not None
    return result.run


def test_spot_nodes_without_a_save_never_get_there() -> None:
    result = run(*SPOT)
    life = life_of(result)
    assert not life.finished
    assert life.why_unfinished == (
        f"the run ended at 100 times the time without faults, after {life.steps:,} of 95,368 steps",
    )
    assert "save the state (checkpoint): something stops the job every 6.000 h" in life.what_helps[0]
    assert any("prices.pay: on_demand" in remedy for remedy in life.what_helps)
    assert not meets_expectations(result)


def test_each_remedy_helps() -> None:
    assert life_of(run(*SPOT, *SAVED)).finished
    assert life_of(run(*SPOT, "prices.pay=on_demand")).finished


def test_the_report_and_the_page_say_it_first() -> None:
    result = run(*SPOT)
    text = report_text(result)
    assert text.startswith("DID NOT FINISH: the run ended at 100 times the time without faults")
    assert "would help: save the state (checkpoint)" in " ".join(text.split())
    assert "not reached" in text
    page = run_page(result, None, "")
    assert page.index("DID NOT FINISH: the run ended") < page.index("step time")
    assert "DID NOT FINISH" not in report_text(run(*SPOT, *SAVED))


def test_the_command_fails_and_its_json_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    changes = [part for override in SPOT for part in ("--set", override)]
    assert call(["run", "llama3-8b-dgx-h100", "--json", *changes]) == 1
    life = json.loads(capsys.readouterr().out)["run"]
    assert (life["finished"], life["outcome"]) == (False, "time_limit")
    assert life["why_unfinished"]
    assert life["what_helps"]


def test_a_job_that_runs_out_of_nodes_did_not_finish() -> None:
    life = life_of(run(*NO_SPARES))
    assert (life.finished, life.outcome) == (False, "no_spares")
    assert any("recovery.warm_spares" in remedy for remedy in life.what_helps)


def test_a_time_limit_is_an_end_that_was_asked_for_unless_nothing_was_done() -> None:
    cut_off = run("training.tokens=100B", "training.time_limit=1 days")
    assert life_of(cut_off).outcome == "time_limit"
    assert life_of(cut_off).finished
    assert any("ended at the time limit" in note for note in cut_off.notes)
    hopeless = run("training.tokens=100B", "training.time_limit=20 s")
    assert life_of(hopeless).steps == 0
    assert not life_of(hopeless).finished


def test_saves_that_come_too_seldom_are_named() -> None:
    seldom = tuple(change.replace("10 min", "10 h") for change in SAVED)
    life = life_of(run(*SPOT, *seldom, "prices.rental.spot_preemption=1 h", "training.tokens=20B"))
    assert not life.finished
    assert any("save more often than every 10.0" in remedy for remedy in life.what_helps)


def test_of_many_lives_one_that_does_not_finish_is_enough(tmp_path: Path) -> None:
    experiment = load_experiment("llama3-8b-dgx-h100", NO_SPARES).experiment
    result = run_seeds(predict(experiment), experiment, Seeds(4, jobs=1), tmp_path)
    life = life_of(result)
    assert sum(life.outcomes.values()) == 4
    assert not life.finished
    assert "of 4 lives ended when no spare was left to wait for" in life.why_unfinished[0]


def test_a_sweep_does_not_take_it_for_a_good_point() -> None:
    """A job that gave up early is the cheapest of all."""
    mode = {"cause": "board", "component": "node", "mtbf": "2 days", "repair": {"mean": "1 h"}}
    base: dict[str, Any] = {
        "extends": "llama3-8b-dgx-h100",
        "cluster": {"extends": "dgx-h100", "storage": "superpod-h100-standard"},
        "training": {"tokens": "100B"},
        "checkpoint": {"interval": "10 min"},
        "failures": {"name": "nodes", "modes": [mode]},
        "prices": "aws-p5",
    }
    axes = [{"key": "recovery.when_short", "values": ["wait", "stop"]}]
    study = {"base": base, "axes": axes, "objectives": [{"minimize": "cost.usd"}]}
    rows = run_study(study, workers=1).rows()
    wait, stop = sorted(rows, key=lambda row: str(row["recovery.when_short"]), reverse=True)
    assert (wait["status"], stop["status"]) == (OK, UNFINISHED)
    assert stop["cost.usd.total"] < wait["cost.usd.total"]
    assert (wait["pareto"], stop["pareto"]) == (True, False)
