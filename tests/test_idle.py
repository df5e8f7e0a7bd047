"""Accelerators that a plan leaves without work are told wherever the run is."""

from __future__ import annotations

from io import StringIO
from typing import Any

from plans import small_experiment
from rich.console import Console

from sim.ask.plan.files import open_question, winning_file
from sim.ask.plan.search import search_plans
from sim.ask.run.page import page_of
from sim.ask.run.simulate import simulate
from sim.ask.sweep.sweep_start import run_study
from sim.inputs.reader import plain, read_text
from sim.metrics.planning import PlanSearch
from sim.metrics.result import Result
from sim.report.compare import compare
from sim.report.planning import print_search
from sim.report.sweep import print_summary
from sim.report.text import report_text


def half_used(**changes: Any) -> Result:
    return simulate(small_experiment(parallelism={"data": 4}, **changes))


def test_a_run_tells_how_many_are_idle() -> None:
    few, all_at_work = half_used(), simulate(small_experiment())
    assert (few.accelerators, few.accelerators_idle) == (4, 4)
    assert all_at_work.accelerators_idle == 0
    words = "4 of 8 accelerators, powered and paid for"
    head = report_text(few).partition("Result")[0]
    assert words in head
    assert "IDLE" not in report_text(all_at_work)
    assert words in page_of(few)
    assert few.to_json()["accelerators_idle"] == 4


def test_two_runs_are_compared_in_what_they_leave_idle() -> None:
    metrics = {metric.key: metric for metric in compare([simulate(small_experiment()), half_used()]).metrics}
    assert list(metrics["accelerators_idle"].values) == [0, 4]
    assert list(metrics["accelerators"].values) == [8, 4]


def test_a_sweep_has_a_column_where_some_are_idle() -> None:
    study = {
        "base": "quickstart",
        "axes": [{"key": "parallelism.tensor", "values": [4, 8]}, {"key": "parallelism.data", "values": [1]}],
    }
    with_idle = run_study(study, workers=1)
    assert {row["parallelism.tensor"]: row["accelerators_idle"] for row in with_idle.rows()} == {4: 4, 8: 0}
    assert "accelerators_idle" in with_idle.summary("s", "").rows[0]
    out = StringIO()
    print_summary(with_idle.summary("s", ""), Console(file=out, width=120))
    assert "accelerators idle" in " ".join(out.getvalue().split())
    with_idle.close()
    without = run_study({**study, "axes": [{"key": "parallelism.tensor", "values": [8]}]}, workers=1)
    assert "accelerators_idle" not in without.summary("s", "").rows[0]
    without.close()


def searched(*space: str) -> tuple[PlanSearch, Any]:
    question = open_question("quickstart", ["parallelism.data=1"], ["zero_stage=0", "microbatch=1", *space])
    found = search_plans(question.loaded.experiment, question.limits, top=2, jobs=1)
    return found, plain(read_text(winning_file(question, found), "best"))


def test_a_plan_that_fills_the_cluster_is_written_without_its_replicas() -> None:
    found, written = searched("tensor=8")
    assert found.plans[0].values["parallelism.data"] == 1
    assert written["parallelism"].get("data") is None


def test_a_plan_that_was_told_to_leave_some_idle_says_so() -> None:
    found, written = searched("tensor=4", "data=1", "pipeline=1", "context=1")
    assert found.plans[0].accelerators_idle == 4
    assert written["parallelism"]["data"] == 1
    out = StringIO()
    print_search(found, Console(file=out, width=100))
    assert "idle" in out.getvalue()
