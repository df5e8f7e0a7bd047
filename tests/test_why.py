"""Why a run takes as long as it does: the numbers are those of simulations."""

from __future__ import annotations

import json

import pytest

from sim.ask.explain.sensitivity import RESOURCES, with_more
from sim.ask.explain.why import why
from sim.ask.run.simulate import simulate
from sim.inputs.load import load_experiment
from sim.metrics.why import Why
from support import Cli

CHANGES = ["parallelism.tensor=2", "parallelism.pipeline=2", "training.global_batch=16", "training.recompute=full"]


@pytest.fixture(scope="module")
def told() -> Why:
    return why(load_experiment("quickstart", CHANGES).experiment)


def test_the_path_adds_up_to_the_step(told: Why) -> None:
    assert sum(part.seconds for part in told.path) == pytest.approx(told.result.step.time_s, rel=1e-9)


def test_the_worth_of_each_resource_is_that_of_simulating_again(told: Why) -> None:
    experiment = load_experiment("quickstart", CHANGES).experiment
    by_name = {resource.name: resource for resource in RESOURCES}
    assert len(told.resources) >= 6
    for each in told.resources:
        if not each.problem:
            changed, _ = with_more(experiment, by_name[each.resource], told.by)
            again = simulate(changed).step.time_s / told.result.step.time_s - 1
            assert each.change["step_time"] == pytest.approx(again, abs=1e-9)


def test_ideas_gain_what_they_say(told: Why) -> None:
    assert 0 < len(told.ideas) <= 3
    assert len({tuple(idea.changes) for idea in told.ideas}) == len(told.ideas)
    gains = [idea.gain for idea in told.ideas]
    assert gains == sorted(gains, reverse=True)
    for idea in told.ideas:
        changes = [f"{key}={json.dumps(value).strip(chr(34))}" for key, value in idea.changes.items()]
        result = simulate(load_experiment("quickstart", [*CHANGES, *changes]).experiment)
        assert result.step.time_s == pytest.approx(idea.step_s, rel=1e-9)
        assert result.memory.fits


def test_the_command_explains_a_run(cli: Cli) -> None:
    changes = [part for change in CHANGES for part in ("--set", change)]
    outcome = cli("explain", "run", "quickstart", *changes)
    assert (outcome.code, outcome.err) == (0, "")
    for title in ("The critical path", "Communication", "Slack of the rest", "more of a resource", "Worth trying"):
        assert title in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= 80
    data = json.loads(cli("explain", "run", "quickstart", *changes, "--json").out)
    assert sum(part["seconds"] for part in data["path"]) == pytest.approx(data["step_s"], rel=1e-9)


def test_keys_are_still_explained(cli: Cli) -> None:
    assert "parallelism" in cli("explain", "tensor").out
    assert cli("explain", "tensor", "quickstart").code == 2
