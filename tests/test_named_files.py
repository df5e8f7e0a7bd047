"""Files that definitions name: read again when they change, refused by `check` as by `run` if they cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sim.api import check, simulate
from sim.ask.workers.batch import content_key
from sim.errors import ConfigError
from sim.inputs.load import load_experiment
from sim.inputs.reader import plain, read_file
from support import ROOT, Cli

GRAPH = """<?xml version='1.0' encoding='utf-8'?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns">
<key id="r" for="edge" attr.name="bandwidth" attr.type="{kind}"/>
<key id="k" for="node" attr.name="kind" attr.type="string"/>
<graph edgedefault="undirected">
<node id="a"><data key="k">node</data></node><node id="b"><data key="k">node</data></node><node id="s"/>
<edge source="a" target="s"><data key="r">{rate}</data></edge>
<edge source="b" target="s"><data key="r">{rate}</data></edge>
</graph></graphml>
"""
EXPERIMENT = """
cluster: {{extends: dgx-h100, nodes: 2, fabric: {{kind: graph, graphml: net.graphml}}}}
workload: gpt3-125m
parallelism: {{data: 16}}
training: {{global_batch: 16, sequence_length: 1024, tokens: 1B}}
{more}
"""
FILES = {
    "log.csv": "failures: {name: x, log: {file: log.csv, nodes: 4}}",
    "grid.csv": "site: {name: x, carbon_file: grid.csv}",
    "net.graphml": "",
}
GOOD = {"log.csv": "node,start_days,end_days\na,0.1,0.2\n", "grid.csv": "hour,g\n0,300\n", "net.graphml": ""}


def experiment(folder: Path, more: str = "", kind: str = "string", rate: str = "50 GB/s") -> Path:
    (folder / "net.graphml").write_text(GRAPH.format(kind=kind, rate=rate))
    path = folder / "experiment.yaml"
    path.write_text(EXPERIMENT.format(more=more))
    return path


def test_a_drawn_network_that_changes_on_disk_is_read_again(tmp_path: Path) -> None:
    path = experiment(tmp_path)
    fast, key = simulate(path).step.time_s, content_key(load_experiment(path).experiment)
    modified = (tmp_path / "net.graphml").stat()
    experiment(tmp_path, rate="01 GB/s")
    os.utime(tmp_path / "net.graphml", ns=(modified.st_atime_ns, modified.st_mtime_ns))
    assert simulate(path).step.time_s > 2 * fast
    assert content_key(load_experiment(path).experiment) != key


def test_a_definition_that_changes_within_a_tick_of_the_clock_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("nodes: 1\n")
    modified = path.stat()
    assert plain(read_file(path)) == {"nodes": 1}
    path.write_text("nodes: 2\n")
    os.utime(path, ns=(modified.st_atime_ns, modified.st_mtime_ns))
    assert plain(read_file(path)) == {"nodes": 2}


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("what", ["gone", "pipe", "folder", "zeros"])
def test_what_is_no_file_is_named_by_check_and_run(name: str, what: str, tmp_path: Path, cli: Cli) -> None:
    path = experiment(tmp_path, FILES[name])
    file = tmp_path / name
    file.unlink(missing_ok=True)
    if what == "pipe":
        os.mkfifo(file)
    elif what == "folder":
        file.mkdir()
    elif what == "zeros":
        file.symlink_to("/dev/zero")
    checked, run = cli("check", path), cli("run", path)
    assert (checked.code, run.code) == (3, 3)
    assert name in checked.err
    assert checked.err == run.err


@pytest.mark.parametrize("name", ["log.csv", "grid.csv"])
@pytest.mark.parametrize("text", ["", "\0\0", "a,b\n1,nan\n", "node,start_days,end_days\na,inf,nan\n", "é"])
def test_what_says_something_else_is_refused(name: str, text: str, tmp_path: Path) -> None:
    path = experiment(tmp_path, FILES[name])
    (tmp_path / name).write_text(GOOD[name])
    assert check(path) == []
    (tmp_path / name).write_text(text, encoding="latin-1")
    problems = check(path)
    assert name == "log.csv" or (problems and all(name in problem.where for problem in problems))
    if problems:
        with pytest.raises(ConfigError):
            simulate(path)


def test_definitions_alone_open_the_files_they_name(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text("name: x\npue: 1.1\ncarbon_file: none.csv\n")
    (tmp_path / "failures.yaml").write_text("name: x\nmodes: []\nlog: {file: none.csv, nodes: 4}\n")
    for name in ("site", "failures"):
        (problem,) = check(tmp_path / f"{name}.yaml")
        assert problem.where.endswith("none.csv")


@pytest.mark.parametrize(
    ("kind", "rate"),
    [("double", "-1"), ("double", "NaN"), ("double", "INF"), ("double", "1e300"), ("boolean", "true"), ("int", "x"),
     ("string", "fast"), ("string", "1 s"), ("double", "0"), ("colour", "1")],
)  # fmt: skip
def test_an_edge_of_graphml_with_a_rate_that_is_none_is_refused(kind: str, rate: str, tmp_path: Path) -> None:
    path = experiment(tmp_path, kind=kind, rate=rate)
    (problem,) = check(path)
    assert "graphml" in problem.key
    with pytest.raises(ConfigError):
        simulate(path)


def test_a_plain_number_of_graphml_is_in_si(tmp_path: Path) -> None:
    text = simulate(experiment(tmp_path, rate="50 GB/s")).step.time_s
    assert simulate(experiment(tmp_path, kind="double", rate="5e10")).step.time_s == text


def test_shipped_drawings_are_fine() -> None:
    assert check(ROOT / "topologies" / "two-switch-graph.yaml") == []
