"""Designs to compare: stored results, experiments, names of one's own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sim.ask.run.designs import named_designs
from sim.ask.run.simulate import simulate
from sim.errors import ConfigError
from sim.inputs.load import load_experiment
from support import Cli


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sim.report.jsonout import result_text

    folder = tmp_path_factory.mktemp("results")
    for name, microbatch in (("small", 1), ("large", 2)):
        (folder / name).mkdir()
        result = simulate(load_experiment("quickstart", [("training.microbatch", microbatch)]).experiment)
        (folder / name / "result.json").write_text(result_text(result), encoding="utf-8")
    return folder


def test_results_of_one_name_are_told_apart_by_their_folder(stored: Path) -> None:
    names, results = named_designs([str(stored / "small"), str(stored / "large" / "result.json")])
    assert names == ("small", "large")
    assert results[0].step.time_s != results[1].step.time_s
    assert named_designs([str(stored / "small")] * 2)[0] == ("small 1", "small 2")


def test_experiments_are_simulated_and_may_have_names(stored: Path) -> None:
    names, results = named_designs(["now=quickstart", f"then={stored / 'small'}"])
    assert names == ("now", "then")
    assert results[0].step == results[1].step
    assert named_designs(["quickstart", "gpt3-175b-a100"])[0] == ("quickstart", "gpt3-175b-a100")


def test_two_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two designs are called 'x'; give each a name of its own"):
        named_designs(["x=quickstart", "x=gpt3-175b-a100"])


def test_three_on_the_command_line(cli: Cli, stored: Path, tmp_path: Path) -> None:
    designs = [f"one={stored / 'small'}", f"two={stored / 'large'}", "three=quickstart"]
    told = cli("compare", *designs)
    assert told.code == 0
    assert "one" in told.out.splitlines()[0]
    data = json.loads(cli("compare", *designs, "--json").out)
    assert data["designs"] == ["one", "two", "three"]
    assert all(len(metric["values"]) == 3 for metric in data["metrics"])
    assert cli("compare", *designs, "--html", tmp_path / "all.html").code == 0
    page = (tmp_path / "all.html").read_text(encoding="utf-8")
    assert all(f"<b>{name}</b>" in page for name in ("one", "two", "three"))
    assert cli("compare", designs[0]).code == 2
