"""The command line: verbs, exit codes, one JSON document on stdout, messages on stderr."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from sim import __version__
from sim.ask.run.step import Runs, prepare_step
from sim.cli.progress import bar
from sim.engine.executor import Executor
from sim.errors import Deadlock
from sim.inputs.load import CATALOGUE, list_catalogue, load_experiment
from support import ROOT, Cli, Command, Outcome

SMALL = ("quickstart", "--set", "workload.layers=4", "--set", "training.global_batch=8")
BROKEN = """\
cluster: dgx-h1000
workload: llama3-8b
training: {global_batch: 64, sequence_length: 8192, precission: bf16}
"""


def definitions() -> list[Path]:
    """Every file of the catalogue."""
    return [file for kind in CATALOGUE for file in list_catalogue(kind).values()]


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """An experiment with two mistakes."""
    file = tmp_path / "broken.yaml"
    file.write_text(BROKEN, encoding="utf-8")
    return file


class TestCommand:
    def test_help_names_every_verb(self, cli: Cli) -> None:
        outcome = cli("--help")
        assert outcome.code == 0
        verbs = ("run", "check", "list", "explain", "schema", "report", "compare")
        assert all(f"\n  {verb} " in outcome.out for verb in verbs)

    def test_version(self, cli: Cli) -> None:
        assert cli("--version").out == f"clustersim {__version__}\n"

    @pytest.mark.parametrize(
        "arguments",
        [("fly",), ("run",), ("run", "--unknown", "quickstart"), ("run", "a", "b"), ("run", "a", "--seed", "-1")],
    )
    def test_wrong_usage_is_2_and_says_why(self, cli: Cli, arguments: tuple[str, ...]) -> None:
        outcome = cli(*arguments)
        assert (outcome.code, outcome.out) == (2, "")
        assert "Error:" in outcome.err

    def test_help_needs_no_heavy_library(self, clustersim: Command) -> None:
        script = "import sys; from sim.cli.app import call; call(['--help']); print(*sys.modules, file=sys.stderr)"
        done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
        loaded = {name.partition(".")[0] for name in done.stderr.split()}
        assert not loaded & {"numpy", "networkx", "pydantic", "simpy", "rich", "yaml"}

    def test_runs_as_a_process(self, clustersim: Command) -> None:
        assert clustersim("--version").stdout == f"clustersim {__version__}\n"

    def test_a_closed_pipe_is_quiet(self, tmp_path: Path) -> None:
        line = f"{shlex.quote(sys.executable)} -m sim.cli list dgx-a100-superpod --all | head -n 1"
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stderr) == (0, "")

    def test_an_unexpected_error_is_4_without_a_traceback(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sim.ask.run.single.run_experiment", _raise(ZeroDivisionError("oops")))
        outcome = cli("run", "quickstart")
        assert (outcome.code, outcome.out) == (4, "")
        assert outcome.err == "internal error: ZeroDivisionError: oops; --debug shows where\n"

    def test_debug_shows_the_traceback(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sim.ask.run.single.run_experiment", _raise(ZeroDivisionError("oops")))
        assert "Traceback" in cli("run", "quickstart", "--debug").err

    def test_a_deadlock_is_4(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sim.ask.run.single.run_experiment", _raise(Deadlock("stage 1 waits for stage 0")))
        outcome = cli("run", "quickstart")
        assert (outcome.code, outcome.err) == (4, "Deadlock: stage 1 waits for stage 0\n")

    def test_an_interrupt_is_130(self, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("sim.ask.run.single.run_experiment", _raise(KeyboardInterrupt()))
        outcome = cli("run", "quickstart")
        assert (outcome.code, outcome.out) == (130, "")


class TestCheck:
    def test_reports_all_problems_of_all_files(self, cli: Cli, broken: Path) -> None:
        outcome = cli("check", broken, "quickstart")
        lines = outcome.err.splitlines()
        assert outcome.code == 3
        assert outcome.out.startswith("quickstart: fine; no software is named")
        assert lines[0].startswith(f"{broken}:1:1: cluster: no cluster is called 'dgx-h1000'; did you mean ")
        assert lines[1].startswith(f"{broken}:3:")
        assert "training.precission" in lines[1]
        assert lines[-1] == "2 problems"

    def test_prints_one_json_document(self, cli: Cli, broken: Path) -> None:
        outcome = cli("check", broken, "--json")
        problems = json.loads(outcome.out)[str(broken)]
        assert [problem["key"] for problem in problems] == ["cluster", "training.precission"]

    def test_knows_every_kind_of_file(self, cli: Cli) -> None:
        files = definitions()
        outcome = cli("check", *files)
        assert (outcome.code, outcome.err) == (0, "")
        assert outcome.out.count(": fine") == len(files)

    def test_finds_a_slow_part_that_does_not_exist(self, cli: Cli) -> None:
        outcome = cli("check", "quickstart", "--set", "degradations=[{accelerator: node0/gpu9, factor: 0.5}]")
        assert outcome.code == 3
        assert "node0/gpu9" in outcome.err

    def test_says_that_a_file_is_missing(self, cli: Cli) -> None:
        assert cli("check", "./nothing.yaml").err == "nothing.yaml: no such file\n1 problem\n"


class TestList:
    def test_shows_every_definition_with_a_line(self, cli: Cli) -> None:
        for kind in CATALOGUE:
            outcome = cli("list", kind)
            assert outcome.code == 0
            assert "invalid" not in outcome.out
            assert all(f"\n  {name} " in outcome.out for name in list_catalogue(kind))

    def test_shows_every_name_of_every_kind(self, cli: Cli) -> None:
        names = {name for line in cli("list").out.splitlines() for name in line.strip(" ,").split(", ")}
        assert names >= {file.stem for file in definitions()}

    @pytest.mark.parametrize("kind", ["experiment", "experiments"])
    def test_shows_one_kind(self, cli: Cli, kind: str) -> None:
        listed = json.loads(cli("list", kind, "--json").out)
        assert set(listed["experiment"]) == {file.stem for file in ROOT.glob("experiments/*.yaml")}
        assert all(listed["experiment"].values())

    def test_shows_the_parts_of_a_cluster_by_name(self, cli: Cli) -> None:
        lines = cli("list", "dgx-h100").out.splitlines()
        assert "8 x nic" in lines
        assert "  node0/gpu0->node0/nvswitch" in lines
        assert "  and 6 more (--all)" in lines

    def test_shows_all_parts_on_demand(self, cli: Cli) -> None:
        listing = json.loads(cli("list", "dgx-a100-superpod", "--set", "nodes=20", "--all", "--json").out)
        assert all(group["count"] == len(set(group["names"])) for group in listing["groups"])

    def test_shows_a_definition_as_written(self, cli: Cli) -> None:
        assert "  memory.bandwidth: 2039 GB/s" in cli("list", "a100-sxm-80gb").out

    def test_does_not_know_every_name(self, cli: Cli) -> None:
        outcome = cli("list", "dgx-h10")
        assert outcome.code == 3
        assert "did you mean" in outcome.err

    def test_exports_a_graph(self, cli: Cli, tmp_path: Path) -> None:
        import networkx

        drawn, linked = tmp_path / "graph.graphml", tmp_path / "graph.json"
        for file in (drawn, linked):
            assert cli("list", "dgx-h100", "--export", file) == Outcome(0, "", f"wrote {file}\n")
        data = json.loads(linked.read_text(encoding="utf-8"))
        graph = networkx.read_graphml(drawn)
        assert {node["id"] for node in data["nodes"]} == set(graph.nodes)
        assert len(data["links"]) == graph.number_of_edges()

    @pytest.mark.parametrize(
        "arguments",
        [
            ("dgx-h100", "graph.png"),
            ("gpt3-175b", "graph.json"),
            ("node", "graph.json"),
            ("dgx-h100", "/no/such/graph.json"),
        ],
    )
    def test_refuses_to_export_what_it_cannot(self, cli: Cli, arguments: tuple[str, str]) -> None:
        assert cli("list", arguments[0], "--export", arguments[1]).code == 2


class TestExplainAndSchema:
    def test_explains_a_key(self, cli: Cli) -> None:
        text = cli("explain", "parallelism.tensor").out
        assert "ranks that share each matrix" in text
        assert "default  1" in text

    def test_lists_the_keys_of_an_experiment(self, cli: Cli) -> None:
        assert "  parallelism " in cli("explain").out

    def test_helps_with_an_unknown_key(self, cli: Cli) -> None:
        outcome = cli("explain", "parallelism.tensors")
        assert outcome.code == 3
        assert "did you mean" in outcome.err

    @pytest.mark.parametrize("kind", ["experiment", "cluster", "node", "accelerator", "workload", "software"])
    def test_prints_a_schema(self, cli: Cli, kind: str) -> None:
        assert json.loads(cli("schema", kind).out)["title"] == f"clustersim {kind}"

    def test_names_the_kinds_there_are(self, cli: Cli) -> None:
        outcome = cli("schema", "car")
        assert outcome.code == 2
        assert "accelerator, node, storage, cluster" in outcome.err

    def test_the_reference_page_is_what_the_records_say(self) -> None:
        from sim.inputs.document import reference_markdown

        page = (ROOT / "docs" / "input.md").read_text(encoding="utf-8")
        assert page == reference_markdown(), "write it anew: make docs"


class TestStoredResults:
    def test_report_prints_a_result_again(self, cli: Cli, stored: Path) -> None:
        assert cli("report", stored).out == cli("report", stored.parent).out
        assert "gpt3-175b-a100" in cli("report", stored).out

    def test_report_gives_the_json_back(self, cli: Cli, stored: Path) -> None:
        assert cli("report", stored, "--json").out == stored.read_text(encoding="utf-8")

    def test_compare_sets_two_side_by_side(self, cli: Cli, stored: Path) -> None:
        outcome = cli("compare", stored, stored)
        assert outcome.code == 0
        assert "The input is the same." in outcome.out
        assert {metric["ratio"] for metric in json.loads(cli("compare", stored, stored, "--json").out)["metrics"]} <= {
            1,
            None,
        }

    def test_what_is_no_result_is_3(self, cli: Cli, broken: Path) -> None:
        outcome = cli("report", broken)
        assert outcome.code == 3
        assert "is not JSON" in outcome.err


class TestRun:
    def test_prints_a_report(self, cli: Cli) -> None:
        outcome = cli("run", *SMALL)
        assert (outcome.code, outcome.err) == (0, "")
        assert "Where the step goes" in outcome.out

    def test_prints_one_json_document(self, cli: Cli) -> None:
        outcome = cli("run", *SMALL, "--json")
        assert json.loads(outcome.out)["step"]["time_s"] > 0
        assert outcome.err == ""

    def test_a_file_works_as_well_as_a_name(self, cli: Cli) -> None:
        by_name = _timeless(cli("run", "quickstart", "--json").out)
        assert _timeless(cli("run", ROOT / "experiments" / "quickstart.yaml", "--json").out) == by_name

    def test_sets_values_and_the_seed(self, cli: Cli) -> None:
        result = json.loads(cli("run", *SMALL, "--seed", 7, "--json").out)
        assert result["seed"] == 7
        assert result["manifest"]["training"]["global_batch"] == 8

    def test_writes_result_and_manifest(self, cli: Cli, tmp_path: Path) -> None:
        folder = tmp_path / "deep" / "folder"
        printed = cli("run", *SMALL, "--json", "-o", folder).out
        assert (folder / "result.json").read_text(encoding="utf-8") == printed
        manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        assert manifest["version"] == __version__
        assert manifest["input"] == json.loads(printed)["manifest"]

    def test_a_folder_that_cannot_be_is_wrong_usage(self, cli: Cli, broken: Path) -> None:
        assert cli("run", "quickstart", "-o", broken / "folder").code == 2

    def test_what_does_not_fit_is_1_and_says_so(self, cli: Cli) -> None:
        outcome = cli("run", *SMALL, "--set", "training.microbatch=8", "--set", "training.sequence_length=131072")
        assert outcome.code == 1
        assert "DOES NOT FIT" in outcome.out

    def test_a_missed_tolerance_is_1(self, cli: Cli) -> None:
        measured = "measured={step_time: 1 h, source: nowhere, tolerance: 5 %}"
        outcome = cli("run", *SMALL, "--set", measured)
        assert outcome.code == 1
        assert "OUTSIDE 5.0 %" in outcome.out

    def test_invalid_input_is_3_with_a_document_too(self, cli: Cli, broken: Path) -> None:
        outcome = cli("run", broken, "--json")
        error = json.loads(outcome.out)["error"]
        assert (outcome.code, error["exit_code"], len(error["problems"])) == (3, 3, 2)
        assert outcome.err.splitlines()[-1] == "2 problems"

    @pytest.mark.parametrize(
        "setting", ["training.microbatch=3", "parallelism.tensor=16", "training.batch=1", "nonsense"]
    )
    def test_a_wrong_setting_is_3(self, cli: Cli, setting: str) -> None:
        outcome = cli("run", "quickstart", "--set", setting)
        assert (outcome.code, outcome.out) == (3, "")

    def test_is_the_same_under_every_hash_seed(self, clustersim: Command) -> None:
        first, second = (clustersim("run", *SMALL, "--json", PYTHONHASHSEED=seed).stdout for seed in ("1", "4242"))
        assert _timeless(first) == _timeless(second)

    def test_works_from_any_folder(self, clustersim: Command, tmp_path: Path) -> None:
        done = clustersim("run", *SMALL, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def _raise(error: BaseException) -> Callable[..., Any]:
    def function(*_: object, **__: object) -> None:
        raise error

    return function


def _timeless(document: str) -> str:
    """A result without the time it took; everything else must be the same bytes."""
    result = json.loads(document)
    del result["wall_s"]
    return json.dumps(result)


@pytest.mark.parametrize(
    ("words", "option"),
    [(("timeline", "quickstart", "--to", "1 ms", "-o"), "--output"), (("report", "RESULT", "--html"), "--html")],
)
def test_a_folder_in_place_of_a_file_is_a_wrong_option(
    cli: Cli, tmp_path: Path, words: tuple[str, ...], option: str
) -> None:
    assert cli("run", "quickstart", "-o", tmp_path).code == 0
    outcome = cli(*(str(tmp_path) if word == "RESULT" else word for word in words), tmp_path)
    assert outcome.code == 2
    assert option in outcome.err
    assert "directory" in outcome.err


class TestBounds:
    def test_they_hold_the_step_time(self, cli: Cli) -> None:
        bounds = json.loads(cli("run", *SMALL, "--bounds", "--json").out)["exactness"]
        run = json.loads(cli("run", *SMALL, "--json").out)
        assert bounds["answer"] == "bounds"
        assert run["exactness"] == {
            "answer": "exact",
            "links_checked": 0,
            "links_joined": 0,
            "lower_s": None,
            "rounds": 1,
            "upper_s": None,
        }
        assert bounds["lower_s"] <= run["step"]["time_s"] * (1 + 1e-9) <= bounds["upper_s"] * (1 + 2e-9)

    def test_text_says_how_wide_they_are(self, cli: Cli) -> None:
        outcome = cli("run", *SMALL, "--bounds")
        assert outcome.code == 0
        assert "step time between" in outcome.out

    def test_a_bounded_step_has_no_lives(self, cli: Cli) -> None:
        assert cli("run", *SMALL, "--bounds", "--seeds", "3").code == 2

    @pytest.mark.parametrize("change", ["power.limit=500 W"])
    def test_what_bounds_do_not_know_is_refused(self, cli: Cli, change: str) -> None:
        outcome = cli("run", *SMALL, "--bounds", "--set", change)
        assert outcome.code == 3
        assert change.split("=", maxsplit=1)[0] in outcome.err


class TestLongSteps:
    """A step that takes more than a minute: somebody is asked or told, while it goes on."""

    @pytest.fixture
    def long(self, monkeypatch: pytest.MonkeyPatch) -> Runs:
        monkeypatch.setattr(Runs, "seconds_left", lambda _: 240.0)
        return Runs()

    def wait(self) -> None:
        for _ in range(40):
            time.sleep(0.05)

    def test_a_script_is_told(self, long: Runs, capsys: pytest.CaptureFixture[str]) -> None:
        with bar("simulating", lambda: 0.5, long):
            self.wait()
        told = capsys.readouterr()
        assert "about 4 min more" in told.err
        assert "--bounds" in told.err
        assert not told.out

    def test_whoever_is_sure_is_not(self, long: Runs, capsys: pytest.CaptureFixture[str]) -> None:
        with bar("simulating", lambda: 0.5, long, sure=True):
            self.wait()
        assert not capsys.readouterr().err

    @pytest.mark.parametrize(("answer", "ends"), [("n", True), ("y", False)])
    def test_at_a_terminal_it_is_a_question(
        self, long: Runs, answer: str, ends: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        here, there = os.openpty()
        with os.fdopen(there) as terminal, pytest.raises(KeyboardInterrupt) if ends else nullcontext():
            monkeypatch.setattr("sys.stdin", terminal)
            monkeypatch.setattr("sim.cli.output.speaks_to_terminal", lambda: True)
            os.write(here, f"{answer}\n".encode())
            with bar("simulating", lambda: 0.5, long):
                self.wait()
        assert "Go on? [Y/n]" in capsys.readouterr().err

    def test_what_is_left_follows_from_what_was_done(self) -> None:
        """Steps as fast as those before them, and no more rows than those until parts repeat."""
        prepared = prepare_step(load_experiment("gpt3-175b-a100").experiment)
        runs = prepared.runs
        assert runs.seconds_left() == 0
        runs.run(prepared.job, {})
        assert runs.executor is not None
        assert runs.expected / 2 < runs.executor.n_rows < runs.expected * 2
        runs.began = time.perf_counter() - 100
        assert runs.seconds_left() < 100

    def test_who_watches_may_ask_while_the_run_is_let_go(self, monkeypatch: pytest.MonkeyPatch) -> None:
        prepared = prepare_step(load_experiment("quickstart").experiment)
        runs, asked = prepared.runs, list[tuple[float, int]]()
        runs.run(prepared.job, {})

        def forget(executor: Executor, name: str) -> None:
            object.__delattr__(executor, name)
            asked.append((executor.progress(), executor.n_rows))

        monkeypatch.setattr(Executor, "__delattr__", forget, raising=False)
        runs.release()
        assert len(asked) > 5
        assert set(asked) == {(0.0, 0)}
