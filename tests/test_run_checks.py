"""Failures and recoveries that make no sense are said to, with their place and a way out."""

from __future__ import annotations

from typing import Any

import pytest
from uncovered import uncovered_numbers

from sim.errors import ConfigError
from sim.inputs.load import list_catalogue, load_definition, load_experiment
from sim.inputs.reliability import Failures

MODE = {"cause": "x", "component": "node", "mtbf": "10 days"}
WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no end": ({"training": {"global_batch": 64, "sequence_length": 8192}}, "failures", "without an end"),
    "pause without a duration": ({"mode": {"effect": "pause"}}, "failures.modes.0.duration", "without a duration"),
    "a slow node": ({"mode": {"effect": "slow", "duration": {"mean": "1 h"}}}, "failures.modes.0.effect", "not"),
    "planned node": ({"mode": {"effect": "planned", "duration": {"mean": "1 h"}}}, "failures.modes.0.effect", "job"),
    "a repaired job": ({"mode": {"component": "job", "repair": {"mean": "1 h"}}}, "failures.modes.0.repair", "no node"),
    "switch for ever": ({"mode": {"component": "switch"}}, "failures.modes.0.repair", "time of repair"),
    "a batch of jobs": (
        {"mode": {"component": "job", "batch": {"probability": 0.5, "nodes": 2}}}, "failures.modes.0.batch", "batches",
    ),
    "lemons that last": ({"frailty": {"nodes": 0.4, "faults": 0.1}}, "failures.frailty.faults", "less than"),
    "too many replicas": (
        {"recovery": {"when_short": "shrink", "min_replicas": 9}}, "recovery.min_replicas", "with 1 replicas",
    ),
    "bare number": ({"mode": {"mtbf": 3}}, "failures.modes.0.mtbf", "has no unit"),
    "unknown law": ({"mode": {"law": "gamma"}}, "failures.modes.0.law", "exponential"),
}  # fmt: skip


def written(changes: dict[str, Any]) -> dict[str, Any]:
    """The quickstart with one failure mode, changed."""
    failures = {"name": "test", "modes": [MODE | changes.get("mode", {})]}
    if "frailty" in changes:
        failures["frailty"] = changes["frailty"]
    training = {"global_batch": 64, "sequence_length": 8192, "tokens": "1B"}
    return {
        "cluster": "dgx-h100",
        "nodes": 1,
        "workload": "llama3-8b",
        "parallelism": {"tensor": 8},
        "training": changes.get("training", training),
        "failures": failures,
        "recovery": changes.get("recovery", {}),
    }


def test_the_plain_case_is_right() -> None:
    assert load_experiment(written({})).experiment.failures is not None


@pytest.mark.parametrize("case", WRONG)
def test_says_what_is_wrong(case: str) -> None:
    changes, key, said = WRONG[case]
    with pytest.raises(ConfigError) as caught:
        load_experiment(written(changes))
    problems = [problem for problem in caught.value.problems if problem.key == key]
    assert problems, caught.value
    assert said in str(problems[0])


@pytest.mark.parametrize("name", list_catalogue("failures"))
def test_every_rate_in_the_catalogue_has_a_source(name: str) -> None:
    model = load_definition("failures", name)
    assert isinstance(model, Failures)
    assert model.modes
    assert uncovered_numbers(model) == []


def test_a_log_is_found_beside_the_file_that_names_it(tmp_path: Any) -> None:
    (tmp_path / "faults.csv").write_text("node,start,end\n", encoding="utf-8")
    (tmp_path / "mine.yaml").write_text("name: mine\nlog: {file: faults.csv, nodes: 4}\n", encoding="utf-8")
    loaded = load_experiment(written({}) | {"failures": str(tmp_path / "mine.yaml")})
    failures = loaded.experiment.failures
    assert isinstance(failures, Failures)
    assert failures.log is not None
    assert failures.log.file == str(tmp_path / "faults.csv")
