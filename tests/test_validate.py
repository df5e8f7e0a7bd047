"""`clustersim validate`: what is found, what is scored, what a broken run does to the others."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from xml.etree import ElementTree

import pytest
from rich.console import Console

import sim.ask.validate.validate as study
from sim.ask.validate.validate import find_measured, predict, summarize, validate
from sim.errors import ConfigError
from sim.metrics.validation import Row, RunTraits, Score, likely_causes, score, scores, worst_rows
from sim.report.validation import print_validation
from sim.report.validation_page import validation_page
from support import Cli, Command

SHARED = """\
  cluster: dgx-a100
  nodes: 1
  software: megatron-lm-2021
  workload: {kind: transformer, layers: 2, hidden: 1024, heads: 16, ffn: 4096, vocab: 51200}
  training: {global_batch: 8, sequence_length: 1024, precision: fp16}
"""
TABLE = f"""\
source: a paper
defaults:
{SHARED}  measured: {{source: table 1}}
cases:
  - {{name: eight, parallelism: {{tensor: 8}}, measured: {{step_time: 30 ms}}}}
  - {{name: four, parallelism: {{tensor: 4}}, measured: {{tokens_per_s: 200000}}}}
"""
SINGLE = "\n".join(line[2:] for line in SHARED.splitlines()) + (
    "\nparallelism: {tensor: 2}\nmeasured: {step_time: 30 ms, source: own}\n"
)
BROKEN = "  - {name: three, parallelism: {tensor: 3}, measured: {step_time: 30 ms}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a table of two cases, one experiment, and files that are none."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "paper.yaml").write_text(TABLE, encoding="utf-8")
    (tmp_path / "runs" / "own.yaml").write_text(SINGLE, encoding="utf-8")
    (tmp_path / "runs" / "plain.yaml").write_text(SINGLE.partition("measured:")[0], encoding="utf-8")
    (tmp_path / "runs" / "node.yaml").write_text("extends: dgx-a100\nname: mine\n", encoding="utf-8")
    return tmp_path / "runs"


def write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8")
    return file


class TestFinding:
    def test_tables_come_first_and_other_files_are_passed_over(self, folder: Path) -> None:
        found = [(run.source, run.name) for run in find_measured([folder])]
        assert found == [("paper", "eight"), ("paper", "four"), ("runs", "own")]

    def test_a_measurement_counts_once(self, folder: Path) -> None:
        write(folder / "again.yaml", SINGLE)
        (folder / "inner").mkdir()
        write(folder / "inner" / "paper.yaml", TABLE)
        assert len(find_measured([folder, folder / "own.yaml"])) == 3

    def test_another_value_of_the_same_run_counts_too(self, folder: Path) -> None:
        write(folder / "other.yaml", SINGLE.replace("30 ms", "31 ms"))
        assert len(find_measured([folder])) == 4

    def test_an_experiment_of_the_catalogue_that_a_table_has_is_not_repeated(self) -> None:
        runs = find_measured()
        names = [run.name for run in runs]
        assert names.count("korthikanti-22b-full") == 1
        assert "llama3-405b-h100" in names
        assert [run.problem for run in runs if run.problem] == []

    def test_a_file_that_is_named_must_be_measured(self, folder: Path) -> None:
        (run,) = find_measured([folder / "plain.yaml"])
        assert "nothing is measured" in run.problem

    def test_a_folder_without_measurements_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="holds no measured run"):
            validate([tmp_path])

    def test_a_broken_file_is_a_row(self, folder: Path) -> None:
        write(folder / "broken.yaml", "measured: [\n")
        (row,) = [row for row in validate([folder]).rows if row.problem]
        assert row.name == "broken"
        assert "broken.yaml:2" in row.problem


class TestPredicting:
    def test_errors_are_those_of_the_step_time(self, folder: Path) -> None:
        eight, four, _ = validate([folder]).rows
        assert eight.error == pytest.approx(eight.predicted / 30e-3 - 1)
        assert four.error == pytest.approx(four.step_s / (8 * 1024 / 200_000) - 1)

    def test_a_broken_case_does_not_end_the_others(self, folder: Path) -> None:
        write(folder / "paper.yaml", TABLE + BROKEN)
        validation = validate([folder])
        assert [bool(row.problem) for row in validation.rows] == [False, False, True, False]
        assert "paper.yaml:" in validation.rows[2].problem
        assert "do not divide 8 accelerators" in validation.rows[2].problem
        assert "(and 2 more)" in validation.rows[2].problem
        assert not validation.passed

    def test_a_defect_is_told_as_such(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(experiment: object) -> None:
            raise ZeroDivisionError("oh")

        monkeypatch.setattr(study, "simulate", fail)
        rows = validate([folder / "own.yaml"]).rows
        assert [row.problem for row in rows] == ["internal error: ZeroDivisionError: oh"]

    def test_processes_give_the_same_rows_in_the_same_order(self, folder: Path) -> None:
        cases = "".join(TABLE.splitlines(keepends=True)[-1].replace("four", f"n{n}") for n in range(4))
        runs = find_measured([write(folder / "paper.yaml", TABLE + cases.replace("200000", "100000"))])
        runs += [replace(run, name=f"{run.name}-again") for run in runs]
        told: list[tuple[int, int]] = []
        both = [predict(runs, jobs, lambda done, total, row: told.append((done, total)))[0] for jobs in (1, 2)]
        assert len(runs) > study.FEW
        assert [replace(row, wall_s=0.0) for row in both[0]] == [replace(row, wall_s=0.0) for row in both[1]]
        assert told == [(n + 1, len(runs)) for n in range(len(runs))] * 2

    def test_an_interrupt_keeps_what_is_done(self, folder: Path) -> None:
        def stop(done: int, total: int, row: Row) -> None:
            raise KeyboardInterrupt

        validation = validate([folder], progress=stop)
        assert [row.name for row in validation.rows] == ["eight"]
        assert not validation.complete
        assert validation.total.n == 1


class TestScores:
    def test_sizes_have_no_sign_the_worst_and_the_bias_have(self) -> None:
        errors = [0.1, -0.3, 0.2, 0.0]
        rows = [Row("s", str(n), "", error=error) for n, error in enumerate(errors)] + [Row("s", "x", "", problem="no")]
        got = score(rows)
        assert (got.n, got.failed, got.worst) == (5, 1, -0.3)
        assert (got.mape, got.median, got.p95, got.bias) == pytest.approx((0.15, 0.15, 0.285, 0.0))
        assert [row.name for row in worst_rows(rows, 2)] == ["1", "2"]

    def test_nothing_predicted_is_no_number(self) -> None:
        assert scores([Row("s", "x", "", problem="no")]) == {"s": Score(1, 1, None, None, None, None, None)}


PLAN = RunTraits("a100", 64, 8, "m", 8192, 48, 128, "fp16", "full", "fsdp", 8, 1, 1, 8, 0, 4, 8, 2048)
WIDE = replace(PLAN, hidden=16384)


def causes(error: float, plan: RunTraits = PLAN, fits: bool = True, **shares: float) -> str:
    return "; ".join(likely_causes(Row("s", "n", "", error=error, shares=shares, plan=plan, fits=fits)))


class TestCauses:
    def test_too_slow_names_the_largest_exposed_part(self) -> None:
        text = causes(0.25, compute=0.6, tensor_comm=0.3, data_comm=0.1)
        assert text.startswith("exposed tensor traffic, 30% of the step, explains it alone")
        assert "gradient and weight traffic, 10% of the step, can explain a part" in text

    def test_too_slow_by_products_alone_says_so(self) -> None:
        assert "longer than the whole measured step" in causes(0.5, compute=0.95)

    def test_too_fast_names_what_is_hidden(self) -> None:
        assert "taken as hidden, 20% of the step, can explain a part" in causes(-0.3, hidden=0.2)

    def test_the_host_is_named(self) -> None:
        assert "issue by the host, 50% of the step" in causes(0.2, host=0.5)

    @pytest.mark.parametrize(
        ("plan", "words"),
        [
            (replace(WIDE, tensor=16), "tensor 16 spans nodes of 8"),
            (replace(WIDE, head_dim=108), "heads 108 wide, no multiple of 8"),
            (replace(WIDE, sequence_length=65536), "attention is 25% of the arithmetic"),
            (replace(WIDE, hidden=2048), "small matrices: hidden 2048 over tensor 8"),
            (replace(WIDE, microbatch=1), "few rows in each product: microbatch 1 of 2048 tokens"),
        ],
    )
    def test_the_plan_is_looked_at(self, plan: RunTraits, words: str) -> None:
        assert words in causes(-0.1, plan)

    def test_what_does_not_fit_ran_differently(self) -> None:
        assert "does not fit into memory" in causes(0.1, fits=False)

    def test_there_is_always_a_word(self) -> None:
        assert "nothing stands out" in causes(-0.1, replace(PLAN, tensor=1))


class TestReports:
    def test_text_stays_within_80_columns_and_names_everything(self, folder: Path) -> None:
        write(folder / "paper.yaml", TABLE.replace("30 ms", "1 ms, tolerance: 10 %") + BROKEN)
        buffer = StringIO()
        print_validation(validate([folder]), Console(file=buffer, width=80))
        text = buffer.getvalue()
        assert max(map(len, text.splitlines())) <= 80
        for words in ("paper", "all", "eight", "four", "1 could not be predicted", "1 missed their tolerance"):
            assert words in text

    def test_the_page_is_whole_and_holds_every_run(self, folder: Path) -> None:
        write(folder / "paper.yaml", TABLE + BROKEN)
        page = validation_page(validate([folder]))
        root = ElementTree.fromstring(f"<body>{page.partition('<body>')[2]}".removesuffix("</html>\n"))
        assert len(root.findall(".//svg/circle")) == 3 + 2  # runs, and the sources of the legend
        assert {"eight", "four", "own"} <= {cell.text for cell in root.iter("td")}
        assert "http" not in page
        assert "prefers-color-scheme: dark" in page

    def test_nothing_predicted_makes_a_page_too(self) -> None:
        page = validation_page(summarize([Row("s", "x", "", problem="it broke")], [], complete=False))
        assert "it broke" in page
        assert "interrupted" in page


class TestCommand:
    def test_exit_codes(self, cli: Cli, folder: Path) -> None:
        assert cli("validate", folder).code == 0
        write(folder / "paper.yaml", TABLE.replace("30 ms", "1 ms, tolerance: 10 %"))
        assert cli("validate", folder).code == 1
        write(folder / "paper.yaml", TABLE + BROKEN)
        assert cli("validate", folder).code == 1
        assert cli("validate", folder / "none.yaml").code == 2
        assert cli("validate", folder / "node.yaml").code == 1

    def test_json_is_one_document(self, cli: Cli, folder: Path) -> None:
        outcome = cli("validate", "--json", folder)
        document = json.loads(outcome.out)
        assert [row["name"] for row in document["rows"]] == ["eight", "four", "own"]
        assert document["total"]["n"] == 3
        assert document["sources"]["paper"]["failed"] == 0
        assert outcome.err == ""

    def test_writes_json_and_page(self, cli: Cli, folder: Path) -> None:
        results = folder.parent / "results"
        assert cli("validate", folder, "-o", results).code == 0
        assert sorted(file.name for file in results.iterdir()) == ["validation.html", "validation.json"]

    def test_changes_reach_every_run(self, cli: Cli, folder: Path) -> None:
        faster, slower = (
            json.loads(cli("validate", "--json", folder, "--set", f"training.global_batch={batch}").out)["rows"]
            for batch in (8, 16)
        )
        assert all(a["step_s"] < b["step_s"] for a, b in zip(faster, slower, strict=True))

    def test_interrupted_prints_what_is_done(self, cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        real = study.predict_one

        def interrupted(run: study.MeasuredRun) -> Row:
            if run.name == "four":
                raise KeyboardInterrupt
            return real(run)

        monkeypatch.setattr(study, "predict_one", interrupted)
        outcome = cli("validate", folder)
        assert outcome.code == 130
        assert "eight" in outcome.out
        assert "interrupted after 1 runs" in outcome.err

    def test_runs_as_a_command(self, clustersim: Command, folder: Path) -> None:
        done = clustersim("validate", str(folder))
        assert done.returncode == 0, done.stderr
        assert "Largest errors" in done.stdout
