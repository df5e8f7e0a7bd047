"""The Python interface: its docstrings run, and it says what the command says."""

from __future__ import annotations

import doctest
import html
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sim
import sim.api
from sim.errors import Problem
from support import ROOT, Cli


def test_docstrings_run() -> None:
    failed, tried = doctest.testmod(sim.api)
    assert failed == 0
    assert tried > 10


def test_importing_is_quick_because_nothing_is_loaded() -> None:
    code = "import sim, sys; print(sorted(name for name in sys.modules if name.startswith('sim.') or name == 'numpy'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout.strip() == "[]"


def test_unknown_attributes_are_refused() -> None:
    with pytest.raises(AttributeError, match="module 'sim' has no attribute 'simulat'"):
        _ = sim.simulat  # type: ignore[attr-defined]
    assert {"check", "simulate", "sweep", "ConfigError", "__version__"} <= set(dir(sim))


def test_simulate_is_what_the_command_prints(cli: Cli) -> None:
    ours = sim.simulate("quickstart", set={"training.microbatch": 2}, seed=3)
    printed = json.loads(cli("run", "quickstart", "--set", "training.microbatch=2", "--seed", 3, "--json").out)
    assert ours.seed == 3
    assert printed["step"] == ours.to_json()["step"]


def test_sources_may_be_paths_and_mappings(tmp_path: Path) -> None:
    name = sim.simulate("quickstart")
    path = ROOT / "experiments" / "quickstart.yaml"
    written = {
        "cluster": "dgx-h100",
        "nodes": 1,
        "workload": "llama3-8b",
        "parallelism": {"tensor": 8, "sequence_parallel": True},
        "training": {"global_batch": 64, "sequence_length": 8192, "tokens": "1B"},
    }
    assert sim.simulate(path).step == sim.simulate(str(path)).step == sim.simulate(written).step == name.step


def test_nested_changes_keep_what_stands_beside_them() -> None:
    result = sim.simulate("quickstart", cluster={"node": {"accelerator": {"memory": {"capacity": "10 GiB"}}}})
    assert result.memory.capacity_bytes == 10 * 2**30
    assert not result.memory.fits


def test_check_lists_problems_with_places(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("cluster: dgx-h100\nworkload: llama3-8b\ntraining: {global_batch: 64, sequence_length: 8k}\n")
    assert sim.check(file, "experiment") == sim.check(str(file), "experiment")
    file.write_text(file.read_text().replace("8k", "'8 KiB'"))
    (problem,) = sim.check(file)
    assert isinstance(problem, Problem)
    assert problem.where == f"{file}:3:30"


def test_sweeps_go_to_dataframes_where_pandas_is_there() -> None:
    pandas = pytest.importorskip("pandas")
    axes = [{"key": "training.microbatch", "values": [1, 2]}]
    frame = sim.sweep({"base": "quickstart", "axes": axes}).to_dataframe()
    assert isinstance(frame, pandas.DataFrame)
    assert list(frame["training.microbatch"]) == [1, 2]


def test_notebooks_show_results_as_reports(cli: Cli) -> None:
    result = sim.simulate("quickstart", set={"software": "megatron-core"})
    shown = result._repr_html_()
    assert shown.startswith("<pre ")
    assert not re.search(r"<(script|link|img)|https?:|var\(", shown)
    text = [line.rstrip() for line in html.unescape(re.sub("<[^>]+>", "", shown)).splitlines()]
    printed = cli("run", "quickstart", "--set", "software=megatron-core").out.splitlines()
    assert [line for line in text if "step time" in line] == [line for line in printed if "step time" in line]
    assert {"Result", "Where the step goes", "Links"} <= {*text}


def test_notebooks_show_sweeps_as_tables() -> None:
    table = sim.sweep({"base": "quickstart", "axes": [{"key": "training.microbatch", "values": [1, 2]}]})
    shown = table._repr_html_()
    assert "2 rows: 2 ok" in shown
    assert "microbatch" in shown
