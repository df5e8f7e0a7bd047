"""The first minutes: `init`, files from pipes, words that people use, tables of scaling."""

from __future__ import annotations

import csv
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from sim.report.visible import safe_cell
from support import ROOT, Cli

ANSWERS = ("--workload", "llama3-8b", "--cluster", "dgx-h100-superpod", "--nodes", "8", "--batch", "256")


def test_init_writes_an_experiment_that_runs_and_is_explained_in_it(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    told = cli("init", file, *ANSWERS, "--amount", "300B")
    assert told.code == 0, told.err
    assert "next: clustersim run" in told.err
    text = file.read_text(encoding="utf-8")
    assert text.count("#") > 6
    assert "nodes: 8" in text
    assert cli("run", file).code == 0
    assert cli("init", file, *ANSWERS, "--amount", "1B").code == 2, "it does not overwrite"


@pytest.mark.parametrize("workload", ["resnet-50", "bert-large", "mixtral-8x7b", "dlrm-dcnv2"])
def test_init_knows_how_other_models_begin(workload: str, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    told = cli("init", file, "--workload", workload, *ANSWERS[2:], "--amount", "1B")
    assert "software:" in file.read_text(encoding="utf-8")
    assert told.code in (0, 3), told.err
    assert "Traceback" not in told.err


def test_init_asks_and_takes_what_is_proposed(tmp_path: Path) -> None:
    line = [sys.executable, "-m", "sim.cli", "init", str(tmp_path / "mine.yaml")]
    done = subprocess.run(line, input="\n" * 5, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("?") >= 5
    assert done.stdout.strip() == ""


def test_init_refuses_names_that_are_not_there(cli: Cli, tmp_path: Path) -> None:
    told = cli("init", tmp_path / "mine.yaml", "--workload", "llama3-8c", *ANSWERS[2:], "--amount", "1B")
    assert told.code == 3
    assert "did you mean llama3-8b" in told.err
    assert not (tmp_path / "mine.yaml").exists()


@pytest.mark.parametrize("verb", ["run", "check"])
def test_an_experiment_may_come_through_a_pipe(verb: str, tmp_path: Path) -> None:
    text = "extends: quickstart\nname: piped\ntraining: {microbatch: 2}\n"
    line = [sys.executable, "-m", "sim.cli", verb, "-"]
    done = subprocess.run(line, input=text, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    wrong = text.replace("microbatch", "microbach")
    done = subprocess.run(line, input=wrong, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 3
    assert "<stdin>:3:12: training.microbach: unknown key" in done.stderr
    script = f"{shlex.quote(sys.executable)} -m sim.cli {verb} <(printf 'extends: quickstart\\n')"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("word", ["gpus", "models", "servers", "frameworks"])
def test_lists_go_by_what_people_call_them(word: str, cli: Cli) -> None:
    assert cli("list", word).code == 0


def test_a_study_given_to_run_is_explained(cli: Cli) -> None:
    told = cli("run", "power-cap")
    assert told.code == 3
    assert "power-cap is a study: clustersim sweep takes it" in told.err


def test_scaling_as_a_table_and_a_page(cli: Cli, tmp_path: Path) -> None:
    rows, page = tmp_path / "s.csv", tmp_path / "s.html"
    told = cli(
        "scale", "gpt3-175b-a100", "--nodes", "64,128", "--mode", "strong", "--csv", rows, "--html", page, "-j", 1
    )
    assert told.code == 0
    with rows.open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert [row["nodes"] for row in found] == ["64", "128"]
    assert all(float(row["step_s"]) > 0 for row in found)
    assert "1,024" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("cell", "told"), [("=1+1", "'=1+1"), ("-x", "'-x"), (-1.5, -1.5), ("plain", "plain"), (None, None)]
)
def test_no_cell_is_a_formula(cell: object, told: object) -> None:
    assert safe_cell(cell) == told
