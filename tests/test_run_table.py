"""Measured runs as CSV: a row is the experiment that YAML would be, and no header is passed over in silence."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim.ask.validate.validate import find_measured
from sim.errors import ConfigError
from sim.inputs.cases import Case, load_cases
from sim.inputs.load import load_experiment
from sim.inputs.run_table import RunColumns
from support import Cli

HEAD = (
    "name,cluster,nodes,workload,tensor,Sequence Parallel,training.global_batch,sequence length,software,step time [ms]"
)
ROW = "run 1,dgx-a100,1,gpt3-125m,2,true,64,2048,megatron-core,1020"
SAME = """
cluster: dgx-a100
nodes: 1
workload: gpt3-125m
parallelism: {tensor: 2, sequence_parallel: true}
training: {global_batch: 64, sequence_length: 2048}
software: megatron-core
measured: {step_time: 1020 ms, source: own}
"""


def table(tmp_path: Path, *lines: str) -> Path:
    file = tmp_path / "runs.csv"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


def cases(tmp_path: Path, *lines: str, columns: RunColumns | None = None) -> list[Case]:
    return load_cases(table(tmp_path, *lines), columns)


def test_a_row_is_the_experiment_that_yaml_would_be(tmp_path: Path) -> None:
    (case,) = cases(tmp_path, HEAD, ROW)
    (tmp_path / "same.yaml").write_text(SAME, encoding="utf-8")
    found, expected = case.load().experiment, load_experiment(tmp_path / "same.yaml").experiment
    assert found.measured is not None
    assert expected.measured is not None
    assert found.name == "run-1"
    assert found.measured.source.endswith("runs.csv, line 2")
    told = {"name": "x", "measured": None}
    assert found.model_copy(update=told) == expected.model_copy(update=told)
    assert found.measured.step_time == expected.measured.step_time == 1.02


@pytest.mark.parametrize(
    ("head", "cell", "columns"),
    [
        ("step_time", "1020 ms", RunColumns()),
        ("measured.step_time (s)", "1.02", RunColumns()),
        ("iter_ms", "1020", RunColumns({"measured.step_time": "iter_ms [ms]"})),
        ("iter [ms]", "1020", RunColumns({"step_time": "iter"})),
    ],
)
def test_units_stand_in_the_cell_or_behind_the_header(
    tmp_path: Path, head: str, cell: str, columns: RunColumns
) -> None:
    lines = HEAD.replace("step time [ms]", head), ROW.replace("1020", cell)
    measured = cases(tmp_path, *lines, columns=columns)[0].load().experiment.measured
    assert measured is not None
    assert measured.step_time == pytest.approx(1.02)


def test_an_empty_cell_says_nothing_and_lists_stand_in_brackets(tmp_path: Path) -> None:
    head = HEAD + ";precision;on_nodes;Extends"
    rows = (ROW.replace(",", ";") + ';bf16;"[node0]";', ROW.replace(",", ";").replace("run 1", "b") + ";;;")
    one, two = cases(tmp_path, head.replace(",", ";"), *rows)
    assert one.load().experiment.parallelism.on_nodes == ("node0",)
    assert two.load().experiment.parallelism.on_nodes is None


def test_a_row_may_extend_a_file_beside_the_table(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(SAME, encoding="utf-8")
    (case,) = cases(tmp_path, "extends,tensor,tokens_per_s", "./base.yaml,4,1000")
    experiment = case.load().experiment
    assert experiment.parallelism.tensor == 4
    assert experiment.training.global_batch == 64


@pytest.mark.parametrize(
    ("lines", "columns", "place", "said"),
    [
        ((HEAD + ",zero_stag", ROW + ",1"), RunColumns(), ":1:11", "as zero_stage is"),
        ((HEAD + ",remark", ROW + ",1"), RunColumns(), ":1:11", "--ignore HEADER"),
        ((HEAD + ",bandwidth", ROW + ",1"), RunColumns(), ":1:11", "may be"),
        ((HEAD + ",parallelism.tensor", ROW + ",1"), RunColumns(), ":1:11", "also said by column 5"),
        ((HEAD + ",cluster.nodes", ROW + ",1"), RunColumns(), ":1:11", "also said by column 2"),
        ((HEAD, ROW), RunColumns({"tensor": "tp"}), "", "is no header of this table"),
        ((HEAD, ROW), RunColumns(ignored=("remarks",)), "", "is no header of this table"),
        ((HEAD, "run 1,dgx-a100"), RunColumns(), ":2:1", "has 2 cells"),
        ((HEAD, ROW.replace("2048", "[2048")), RunColumns(), ":2:8", "write it as in a definition"),
        ((HEAD, ROW, ROW), RunColumns(), ":3:1", "also the name of the case in line 2"),
        (("name,cluster",), RunColumns(), ":1:1", "no column is measured"),
        ((HEAD,), RunColumns(), ":2:1", "holds no run"),
    ],
)
def test_what_is_wrong_with_a_table_is_told_with_its_cell(
    tmp_path: Path, lines: tuple[str, ...], columns: RunColumns, place: str, said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        cases(tmp_path, *lines, columns=columns)
    problem = error.value.problems[0]
    assert problem.where.endswith(place)
    assert said in str(error.value)


def test_a_wrong_value_is_told_with_its_cell(tmp_path: Path) -> None:
    (case,) = cases(tmp_path, HEAD, ROW.replace(",2,true", ",two,true"))
    with pytest.raises(ConfigError, match=r"runs\.csv:2:5: parallelism\.tensor"):
        case.load()


def test_the_command_reads_it(tmp_path: Path, cli: Cli) -> None:
    file = table(tmp_path, HEAD + ",remark", ROW + ",fine")
    refused = cli("validate", str(file))
    assert refused.code == 3
    assert "remark: is no key of an experiment" in refused.err
    done = cli("validate", str(file), "--ignore", "remark", "--json")
    assert done.code == 0
    assert '"measured": 1.02' in done.out
    assert cli("validate", str(file), "--column", "nothing").code == 2


def test_tables_of_others_in_a_folder_are_passed_over(tmp_path: Path) -> None:
    (tmp_path / "same.yaml").write_text(SAME, encoding="utf-8")
    table(tmp_path, "these,are,other,numbers", "1,2,3,4")
    assert [run.name for run in find_measured([tmp_path])] == ["same"]
