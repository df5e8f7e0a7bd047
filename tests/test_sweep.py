"""Studies: what their files may say, which points they have, and what becomes of each."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import sim.ask.run.simulate
from sim.ask.run.simulate import predict, simulate
from sim.ask.sweep.fields import flatten, is_result
from sim.ask.sweep.judge import pareto
from sim.ask.sweep.store import Outcome, Store
from sim.ask.sweep.study_page import study_view
from sim.ask.sweep.sweep import sweep
from sim.ask.sweep.sweep_file import LoadedStudy, load_study
from sim.ask.sweep.sweep_start import run_study
from sim.ask.workers.batch import Batch, content_key, run_one
from sim.ask.workers.dispatch import dispatch
from sim.ask.workers.pool import InThisProcess, LocalProcesses
from sim.errors import ConfigError, Deadlock
from sim.inputs.catalogue import list_catalogue
from sim.inputs.expression import Absent, ExpressionError, parse_expression
from sim.inputs.load import load_experiment
from sim.inputs.records import ClusterSpec, Experiment
from support import ROOT, Cli

MICROBATCHES = {"key": "training.microbatch", "values": [1, 2, 4]}


def study(**keys: Any) -> LoadedStudy:
    return load_study({"base": "quickstart", **keys})


def shown(loaded: LoadedStudy) -> list[dict[str, Any]]:
    return [point.shown for point in loaded.points()]


def values(**axis: Any) -> list[Any]:
    """The values of the only axis of a study."""
    return [value for point in shown(study(axes=[axis])) for value in point.values()]


# --- axes -------------------------------------------------------------------------------------


def test_ranges_include_both_ends() -> None:
    key = "training.global_batch"
    assert values(key=key, range={"first": 8, "last": 32, "step": 8}) == [8, 16, 24, 32]
    assert values(key=key, range={"first": 8, "last": 20, "count": 3}) == [8, 14, 20]
    assert values(key=key, log_range={"first": 8, "last": 70, "factor": 2}) == [8, 16, 32, 64]
    assert values(key=key, log_range={"first": 1, "last": 1000, "count": 4}) == [1, 10, 100, 1000]
    assert values(key="power.limit", range={"first": "300 W", "last": "0.7e3 W", "count": 3}) == [300.0, 500.0, 700.0]
    assert values(key="training.tokens", log_range={"first": "1B", "last": "4B", "factor": 2}) == [1e9, 2e9, 4e9]
    fraction = "cluster.node.accelerator.memory.efficiency"
    assert values(key=fraction, range={"first": "70 %", "last": "90 %", "step": "10 %"}) == [0.7, 0.8, 0.9]


def test_entries_of_lists_are_quantities_too() -> None:
    assert values(key="failures.modes.0.mtbf", values=["1 day", "2 days"]) == [86400.0, 172800.0]


def test_units_are_those_of_the_file() -> None:
    axes = [
        {"key": "site.electricity", "values": [0, "0.05 USD/kWh", "60 USD/MWh"]},
        {"key": "cluster.node.nics.bandwidth", "range": {"first": "100 Gb/s", "last": "400 Gb/s"}},
        {"zip": {"training.global_batch": [8, "1k"], "failures.modes.0.mtbf": ["1 day", "48 h"]}},
        {"key": "cluster.node.accelerator.memory.efficiency", "values": ["70 %"]},
    ]
    units = study(axes=axes, sampling={"method": "sobol", "points": 2}).units
    assert {key: unit.name for key, unit in units.items()} == {
        "site.electricity": "USD/kWh",
        "cluster.node.nics.bandwidth": "Gb/s",
        "failures.modes.0.mtbf": "day",
    }


def test_people_see_quantities_in_the_units_of_the_file() -> None:
    axes = [
        {"key": "site.electricity", "values": ["0.05 USD/kWh", "90 USD/MWh"]},
        {"key": "power.limit", "values": [None, "350 W"]},
    ]
    table = run_study(study(axes=axes, objectives=[{"minimize": "step.time_s"}]), workers=1)
    written = {"point": [0, 1, 2, 3], "site.electricity (USD/kWh)": [0.05, 0.05, 0.09, 0.09]}
    written |= {"power.limit (W)": [None, 350.0, None, 350.0]}
    summary, view = table.summary("s", "d"), study_view(table, "s", "d")
    assert summary.keys == view.keys == tuple(written)[1:]
    for rows in (sorted(summary.rows, key=lambda row: row["point"]), view.rows):
        assert {name: [row[name] for row in rows] for name in written} == written
    assert [row["site.electricity"] for row in table.rows()] == pytest.approx([0.05 / 3.6e6] * 2 + [0.09 / 3.6e6] * 2)


def test_a_grid_has_all_combinations_the_last_axis_fastest() -> None:
    points = shown(study(axes=[MICROBATCHES, {"key": "parallelism.tensor", "values": [4, 8]}]))
    assert [tuple(point.values()) for point in points] == [(1, 4), (1, 8), (2, 4), (2, 8), (4, 4), (4, 8)]


def test_zipped_keys_change_together() -> None:
    zipped = {"parallelism.tensor": [2, 4, 8], "training.microbatch": [1, 2, 4]}
    assert [tuple(point.values()) for point in shown(study(axes=[{"zip": zipped}]))] == [(2, 1), (4, 2), (8, 4)]


def test_a_conditional_axis_varies_only_where_it_holds() -> None:
    conditional = {"key": "parallelism.sequence_parallel", "values": [True, False], "when": "parallelism.tensor > 4"}
    loaded = study(axes=[{"key": "parallelism.tensor", "values": [4, 8]}, conditional])
    assert [tuple(point.values()) for point in shown(loaded)] == [(4,), (8, True), (8, False)]
    assert loaded.size == 3


@pytest.mark.parametrize("method", ["random", "latin_hypercube", "sobol"])
def test_samples_are_seeded_and_cover_the_axes(method: str) -> None:
    axes = [
        {"key": "training.global_batch", "range": {"first": 1, "last": 1000}},
        {"key": "power.limit", "log_range": {"first": "100 W", "last": "700 W"}},
        MICROBATCHES,
    ]
    loaded, again, other = (
        study(axes=axes, sampling={"method": method, "points": 64, "seed": seed}) for seed in (1, 1, 2)
    )
    points = shown(loaded)
    assert points == shown(again) != shown(other)
    assert len(points) == loaded.size == 64
    assert all(1 <= point["training.global_batch"] <= 1000 for point in points)
    assert all(100 <= point["power.limit"] <= 700 for point in points)
    assert {point["training.microbatch"] for point in points} == {1, 2, 4}
    if method != "random":
        halves = sum(point["training.global_batch"] <= 500 for point in points)
        assert halves == 32, "half of a stratified sample lies in each half"


def test_a_sample_of_few_points_has_each_once() -> None:
    loaded = study(axes=[MICROBATCHES], sampling={"method": "random", "points": 50})
    assert sorted(point["training.microbatch"] for point in shown(loaded)) == [1, 2, 4]


# --- expressions ------------------------------------------------------------------------------


def look_up(name: str) -> Any:
    return {"a.b": 8, "c": 2.5, "word": "full", "yes": True, "none_here": None}[name]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a.b <= 8", True), ("1 < c < 3", True), ("a.b * c / 4 - 1", 4.0), ("a.b % 3 == 2 and not a.b < 8", True),
        ("word in ['full', 'none']", True), ("word == 'selective' or yes", True), ("max(a.b, 9) // 2", 4),
        ("-a.b ** 2", -64.0), ("a.b if yes else c", 8), ("none_here == null", True), ("missing == none", True),
        ("log2(a.b) == 3", True), ("yes == true", True), ("round(c) + ceil(c) + floor(c)", 7),
    ],
)  # fmt: skip
def test_expressions_are_evaluated(text: str, value: Any) -> None:
    assert parse_expression(text).evaluate(look_up) == value


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("__import__('os').system('true')", "column 1"), ("a.b.__class__()", "no function 'a.b.__class__'"),
        ("(lambda: 1)()", "no function"), ("[x for x in y]", "ListComp is not allowed in an expression, column 1"),
        ("a.b <=", "not an expression, column"), ("f'{c}'", "JoinedStr is not allowed"),
        ("x := 3", "not an expression"),
        ("'a'.join", "only key paths have keys"), ("a[0]", "Subscript is not allowed"), ("b'x'", "not allowed"),
        ("min()", "min takes values"), ("a << 2", "LShift is not allowed"), ("1" * 2000, "longer than 1000"),
    ],
)  # fmt: skip
def test_other_code_is_refused(text: str, problem: str) -> None:
    with pytest.raises(ExpressionError, match=problem.replace("(", r"\(").replace("[", r"\[")):
        parse_expression(text)


def test_absent_values_and_bad_arithmetic_are_told() -> None:
    with pytest.raises(Absent, match=r"missing\.x is absent"):
        parse_expression("missing.x < 3").evaluate(look_up)
    for text in ("c / 0", "9 ** 9 ** 9", "word + 1", "sqrt(-1)", "'a' < 'b'"):
        with pytest.raises(ExpressionError):
            parse_expression(text).evaluate(look_up)


@given(st.text(max_size=40))
def test_no_text_breaks_the_reader_of_expressions(text: str) -> None:
    with suppress(ExpressionError):
        parse_expression(text).evaluate(look_up)


# --- problems of study files ------------------------------------------------------------------

BROKEN = """\
base: quickstart
axes:
  - key: parallelism.tensr
    values: [1, 2]
  - key: training.microbatch
    range: {first: 1, last: 8}
  - zip: {nodes: [1, 2], parallelism.data: [1]}
  - key: parallelism.context
    values: [1]
    when: training.sequence_lenght > 1 and parallelism.pipeline > 1
  - key: parallelism.pipeline
    values: [1, 2]
  - key: power.limit
    range: {first: 300 W, last: 1 kW, step: 100 W}
constraints: [parallelism.tensor <= 8, step.tme_s < 3]
objectives: [{minimize: step.time_s, maximize: step.mfu}]
"""


def test_every_problem_is_told_with_its_place(tmp_path: Path, cli: Cli) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text(BROKEN)
    outcome = cli("check", file)
    assert outcome.code == 3
    lines = outcome.err.splitlines()
    for place, key, words in (
        ("3:5", "axes.0.key", "'parallelism.tensr' is no key of an experiment; did you mean parallelism.tensor"),
        ("7:5", "axes.2.zip", "need equally many values: nodes has 2, parallelism.data has 1"),
        ("10:5", "axes.3.when", "'training.sequence_lenght', column 1, is no key of an experiment; did you mean"),
        ("10:5", "axes.3.when", "parallelism.pipeline, column 34, is not known yet; put its axis before this one"),
        ("14:27", "axes.5.range.last", "first is in W, last in kW; use one unit"),
        ("15:40", "constraints.1", "'step.tme_s', column 1, is no key of an experiment or field of a result; did you"),
        ("16:14", "objectives.0", "an objective has one of minimize and maximize"),
        ("5:5", "axes.1", "this range is open"),
    ):
        start = f"{file}:{place}: {key}: "
        assert any(line.startswith(start) and words in line for line in lines), (start, words, outcome.err)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"constraints": ["parallelism.tensor <= "]}, "constraints.0: 'parallelism.tensor <= ' is not an expression"),
        ({"axes": [{"key": "nodes"}]}, "axes.0: an axis has one of values, range, log_range and zip, not none"),
        ({"axes": [MICROBATCHES, MICROBATCHES]}, "'training.microbatch' varies on two axes; remove one"),
        ({"axes": [{"values": [1]}]}, "an axis has a key, unless it is a zip"),
        ({"axes": [{"key": "nodes", "range": {"first": 1, "last": 9, "step": 1, "count": 2}}]}, "a step or a count"),
        ({"axes": [{"key": "nodes", "range": {"first": 9, "last": 1, "step": 1}}]}, "must be more than first"),
        ({"axes": [{"key": "nodes", "range": {"first": "x", "last": 1, "step": 1}}]}, "is not a number"),
        ({"axes": [{"key": "nodes", "log_range": {"first": 0, "last": 1, "factor": 2}}]}, "must be more than 0"),
        ({"axes": [{"key": "nodes", "range": {"first": 0, "last": 1e12, "step": 1}}]}, "more than 1,000,000"),
        ({"search": {"trials": 3}}, "a search needs an objective"),
        ({"sampling": {"method": "sobol"}}, "sampling.points: is missing"),
        ({"sampling": {"points": 3}}, "full takes all points"),
        ({"objective": []}, "objective: unknown key; did you mean objectives"),
        ({"base": "quickstrat"}, "did you mean quickstart"),
        ({"base": {"extends": "quickstart", "nodes": "two"}}, "'two' is not a count"),
    ],
)
def test_wrong_studies_are_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        study(**change)
    assert problem in str(caught.value)


# --- what becomes of a point ------------------------------------------------------------------


def test_each_point_is_a_row_whatever_comes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def predict_or_fail(experiment: Any, watch: Any = None) -> Any:
        if experiment.training.global_batch == 128:
            raise Deadlock("nobody moves")
        if experiment.training.global_batch == 256:
            raise ZeroDivisionError("a defect")
        return predict(experiment)

    monkeypatch.setattr(sim.ask.run.simulate, "predict", predict_or_fail)
    axes = [
        {"key": "parallelism.tensor", "values": [1, 4, 8]},
        {"key": "training.global_batch", "values": [1, 64, 128, 256]},
        {"key": "training.microbatch", "values": [1, 3]},
    ]
    constraints = ["parallelism.tensor <= 4 or training.global_batch == 1", "step.mfu > 0.99 or accelerators > 1"]
    table = run_study(study(axes=axes, constraints=constraints), workers=1)
    found = {
        tuple(row[str(axis["key"])] for axis in axes): (row["status"], row["reason"], row["step.time_s"])
        for row in table.rows()
    }
    assert len(found) == len(table) == 24
    status, reason, time = found[4, 64, 1]
    assert (status, reason) == ("ok", "")
    assert time == simulate(load_experiment("quickstart", ["parallelism.tensor=4"]).experiment).step.time_s
    assert found[1, 64, 1][0] == "does not fit"
    assert found[1, 64, 1][1].startswith("needs ")
    assert found[1, 64, 1][2] > 0, "what does not fit has its step time nevertheless"
    assert found[8, 64, 1] == (
        "constraint",
        "parallelism.tensor <= 4 or training.global_batch == 1: parallelism.tensor is 8, training.global_batch is 64",
        None,
    )
    assert found[4, 64, 3][0] == "invalid input"
    assert "training.global_batch" in found[4, 64, 3][1]
    assert found[4, 128, 1] == ("error", "Deadlock: nobody moves", None)
    assert found[4, 256, 1] == ("error", "internal error: ZeroDivisionError: a defect", None)


def test_constraints_on_results_keep_the_result() -> None:
    table = run_study(study(axes=[MICROBATCHES], constraints=["step.time_s < 1 or cost.usd < 5"]), workers=1)
    for row in table.rows():
        assert row["status"] == "constraint"
        assert "cost.usd is absent" in row["reason"] or "step.time_s is" in row["reason"]
        assert row["step.time_s"] > 1


def test_columns_hold_all_parameters_and_results() -> None:
    table = run_study(study(axes=[MICROBATCHES], objectives=[{"maximize": "step.mfu * 100"}]), workers=1)
    row = table.rows()[1]
    result = simulate(load_experiment("quickstart", ["training.microbatch=2"]).experiment)
    assert list(row)[:7] == ["point", "seed", "training.microbatch", "status", "reason", "pareto", "step.mfu * 100"]
    assert {name: row[name] for name in flatten(result)} == flatten(result)
    assert all(is_result(name) for name in flatten(result))
    assert row["parallelism.tensor"] == 8
    assert row["step.mfu * 100"] == result.step.mfu * 100
    assert [type(row[name]) for name in ("memory.fits", "run.steps", "step.mfu")] == [bool, int, float]
    assert not any("wall" in name for name in row)


def test_points_share_the_records_in_which_nothing_changed() -> None:
    loaded = load_study({"base": {"extends": "quickstart", "nodes": 1}, "axes": [MICROBATCHES]})
    one, _, four = (loaded.base.changed(point.changes) for point in loaded.points())
    assert isinstance(four.cluster, ClusterSpec)
    assert four.cluster.nodes == 1
    assert four.cluster is one.cluster
    assert four.workload is one.workload
    assert four.training is not one.training


def test_every_point_has_its_seeds() -> None:
    table = run_study({"base": "quickstart", "axes": [MICROBATCHES], "seeds": 2}, ["base.seed=5"], workers=1)
    assert [(row["point"], row["seed"]) for row in table.rows()] == [(n, seed) for n in range(3) for seed in (5, 6)]


def test_keys_follow_the_content_not_the_way_it_was_said() -> None:
    plain = load_experiment("quickstart", ["training.microbatch=2"]).experiment
    named = load_experiment("quickstart", ["training.microbatch=2", "name=other", "description=x"]).experiment
    assert content_key(plain) == content_key(named)
    changed = [load_experiment("quickstart", [f"training.microbatch={n}", f"seed={s}"]) for n, s in ((1, 0), (2, 1))]
    assert len({content_key(plain), *(content_key(item.experiment) for item in changed)}) == 3
    base = study(axes=[MICROBATCHES]).base
    (point,) = (point for point in study(axes=[MICROBATCHES]).points() if point.shown["training.microbatch"] == 2)
    assert content_key(base.changed(point.changes)) == content_key(plain)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=12))
def test_the_pareto_set_is_what_nobody_beats(worths: list[tuple[int, int]]) -> None:
    points = {number: [(float(a), float(b))] for number, (a, b) in enumerate(worths)}

    def beaten(a: float, b: float) -> bool:
        return any(c <= a and d <= b and (c, d) != (a, b) for c, d in worths)

    assert pareto(points) == {number for number, (a, b) in enumerate(worths) if not beaten(a, b)}


# --- results that are kept --------------------------------------------------------------------


def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The microbatches of every simulation from now on."""
    ran: list[int] = []

    def predict_and_count(experiment: Any) -> Any:
        ran.append(experiment.training.microbatch)
        return predict(experiment)

    monkeypatch.setattr(sim.ask.run.simulate, "predict", predict_and_count)
    return ran


def test_only_what_is_missing_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = counted(monkeypatch)
    run_study(study(axes=[MICROBATCHES]), folder=tmp_path, workers=1).close()
    wider = study(axes=[MICROBATCHES | {"values": [1, 2, 4, 8]}], constraints=["step.time_s > 0"])
    table = run_study(wider, folder=tmp_path, workers=1)
    assert ran == [1, 2, 4, 8]
    assert [row["training.microbatch"] for row in table.rows()] == [1, 2, 4, 8]


def test_errors_are_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(sim.ask.run.simulate, "predict", lambda experiment: 1 / 0)
        table = run_study(study(axes=[MICROBATCHES]), folder=tmp_path, workers=1)
        assert table.counts() == {"error": 3}
        table.close()
    assert run_study(study(axes=[MICROBATCHES]), folder=tmp_path, workers=1).counts() == {"ok": 3}


def test_equal_points_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ran = counted(monkeypatch)
    table = run_study(study(axes=[MICROBATCHES | {"values": [1, 2, 1, 2]}]), workers=1)
    assert sorted(ran) == [1, 2]
    assert [row["training.microbatch"] for row in table.rows()] == [1, 2, 1, 2]


def test_a_search_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = counted(monkeypatch)
    axes = [
        {"key": "training.microbatch", "values": [1, 2, 4, 8]},
        {"key": "parallelism.tensor", "values": [1, 2, 4, 8]},
        {"key": "cluster.node.accelerator.memory.bandwidth", "range": {"first": "2 TB/s", "last": "4 TB/s"}},
    ]
    keys: dict[str, Any] = {"axes": axes, "objectives": [{"minimize": "step.time_s"}]}
    tables = {}
    for trials, folder in ((8, tmp_path / "a"), (16, tmp_path / "a"), (16, tmp_path / "b")):
        ran.clear()
        table = run_study(study(**keys, search={"trials": trials, "population": 4}), folder=folder, workers=1)
        tables[folder.name, trials] = (table.rows(), len(ran))
        table.close()
    assert tables["a", 16][0] == tables["b", 16][0]
    assert tables["a", 16][1] == tables["b", 16][1] - tables["a", 8][1]
    best = min(row["step.time_s"] for row in tables["b", 16][0] if row["status"] == "ok")
    assert next(row["step.time_s"] for row in tables["b", 16][0] if row["pareto"]) == best


def test_a_search_for_several_objectives_finds_the_trade(tmp_path: Path) -> None:
    axes = [{"key": "training.microbatch", "values": [1, 2, 4]}, {"key": "parallelism.tensor", "values": [2, 4, 8]}]
    goals = [{"minimize": "step.time_s"}, {"minimize": "memory.peak_bytes_per_accelerator"}]
    whole = run_study(study(axes=axes, objectives=goals), workers=1)
    found = run_study(study(axes=axes, objectives=goals, search={"trials": 60, "population": 10}), workers=1)

    def trade(table: Any) -> set[tuple[float, float]]:
        return {(row["step.time_s"], row["memory.peak_bytes_per_accelerator"]) for row in table.best()}

    assert trade(found) == trade(whole)
    assert len(found) <= 9, "a point that is proposed twice is one row"


def test_two_processes_do_not_share_a_folder(tmp_path: Path) -> None:
    store = Store(tmp_path)
    code = "import sys; from pathlib import Path; from sim.ask.sweep.store import Store; Store(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    store.close()
    assert "is in use by another process; choose another folder with -o" in done.stderr


# --- workers ----------------------------------------------------------------------------------


class Fragile(InThisProcess):
    """Loses the process for every batch that holds the microbatch 2."""

    lost: tuple[type[BaseException], ...] = (BrokenPipeError,)
    renewed = 0

    def submit(self, experiments: Any) -> Any:
        future = super().submit(experiments)
        if any(experiment.training.microbatch == 2 for experiment in experiments):
            future = type(future)()
            future.set_exception(BrokenPipeError("gone"))
        return future

    def renew(self) -> None:
        self.renewed += 1


def test_only_the_point_that_kills_its_worker_is_an_error() -> None:
    workers = Fragile()
    table = sweep(study(axes=[MICROBATCHES | {"values": [1, 4, 2, 8]}]), Store(), workers)
    statuses = {row["training.microbatch"]: row["status"] for row in table.rows()}
    assert statuses == {1: "ok", 4: "ok", 2: "error", 8: "ok"}
    assert "the process that ran it died: gone" in str(table.rows())
    assert workers.renewed == 2


def test_the_last_batches_are_small_so_that_all_workers_end_together() -> None:
    sent, done = list[int](), list[str]()

    class Noting(InThisProcess):
        slots = 4

        def submit(self, experiments: Sequence[Experiment]) -> Future[Batch]:
            sent.append(len(experiments))
            future: Future[Batch] = Future()
            future.set_result(([Outcome("ok")] * len(experiments), len(experiments) * self.batch_s / 90))
            return future

    experiment = load_experiment("quickstart").experiment
    jobs = [(str(number), experiment) for number in range(400)]
    dispatch(iter(jobs), Noting(), done.extend, lambda: len(jobs) - len(done))
    assert sent[:4] == [1, 1, 1, 1]
    assert sent[4] == 90
    assert sent[4:] == sorted(sent[4:], reverse=True)
    assert sent[-6:] == [2, 2, 2, 2, 2, 1], "two of 90 are sent together, while there are two"
    assert sorted(done) == sorted(key for key, _ in jobs)


def test_processes_give_the_same_rows_and_survive_a_kill() -> None:
    loaded = study(axes=[MICROBATCHES, {"key": "training.global_batch", "values": [16, 32, 64]}])
    workers, killed = LocalProcesses(2), list[int]()

    def kill_one(done: int, total: int) -> None:
        if done >= 2 and not killed:
            process = next(iter(workers.pool._processes.values()))
            process.kill()
            killed.append(process.pid or 0)

    try:
        table = sweep(loaded, Store(), workers, kill_one)
    finally:
        workers.close()
    assert killed
    assert table.rows() == run_study(loaded, workers=1).rows()


@pytest.mark.parametrize("piped", [False, True])
def test_a_script_that_sweeps_is_not_run_again_by_its_processes(piped: bool, tmp_path: Path) -> None:
    script = tmp_path / "mine.py"
    axes = [MICROBATCHES]
    script.write_text(f"import sim\nprint(sim.sweep({{'base': 'quickstart', 'axes': {axes}}}, workers=2).counts())")
    with script.open() as file:
        command = [sys.executable] if piped else [sys.executable, str(script)]
        done = subprocess.run(command, stdin=file, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert (done.returncode, done.stdout) == (0, "{'ok': 3}\n")


# --- the command and the shipped studies ------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    keys = {"base": "quickstart", "axes": [MICROBATCHES], "objectives": [{"minimize": "step.mfu"}]}
    path.write_text(json.dumps(keys))
    return path


def test_the_command_prints_keeps_and_exports(file: Path, tmp_path: Path, cli: Cli) -> None:
    out = tmp_path / "out"
    exports = ("--csv", tmp_path / "t.csv", "--parquet", tmp_path / "t.parquet")
    first = cli("sweep", file, "-o", out, "-j", 1, *exports)
    assert first.code == 0
    assert "3 rows: 3 ok" in first.out
    assert (out / "sweep.duckdb").is_file()
    assert json.loads((out / "manifest.json").read_text())["study"]["axes"][0]["key"] == "training.microbatch"
    assert (tmp_path / "t.csv").read_text().splitlines()[0].startswith("point,seed,training.microbatch,status")
    again = json.loads(cli("sweep", file, "-o", out, "-j", 1, "--json").out)
    assert again["counts"] == {"ok": 3}
    assert len(again["rows"]) == 3
    none = cli("sweep", file, "-o", out, "-j", 1, "--set", "constraints=['step.time_s < 0']")
    assert none.code == 1
    assert "3 x constraint: such as step.time_s < 0: step.time_s is" in none.out


def test_the_command_says_how_to_go_on(file: Path, tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    def predict_once(experiment: Any) -> Any:
        if experiment.training.microbatch == 2:
            raise KeyboardInterrupt
        return predict(experiment)

    monkeypatch.setattr(sim.ask.run.simulate, "predict", predict_once)
    outcome = cli("sweep", file, "-o", tmp_path / "out", "-j", 1)
    assert outcome.code == 130
    assert f"1 of 3 points are kept in {tmp_path / 'out'}; the same command goes on" in outcome.err
    monkeypatch.undo()
    assert cli("sweep", file, "-o", tmp_path / "out", "-j", 1).code == 0


def test_wrong_use_is_told(file: Path, tmp_path: Path, cli: Cli) -> None:
    assert cli("sweep", file, "--on", "dask").code == 2
    assert cli("sweep", "quickstart").code == 3
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert cli("sweep", file, "-o", blocked / "deep").code == 3
    assert cli("sweep", file, "-o", tmp_path / "o", "-j", 1, "--csv", blocked / "t.csv").code == 2


SHIPPED = sorted(list_catalogue("study"))
MEASURED = [str(file) for file in sorted((ROOT / "bench" / "sweeps").glob("*.yaml"))]


def test_the_five_studies_are_there() -> None:
    wanted = {"llama3-70b-gpus", "oversubscription", "rails", "checkpoint-interval", "power-cap"}
    assert wanted <= set(SHIPPED)


def test_three_sweeps_of_a_thousand_points_are_measured() -> None:
    sizes = [load_study(file).size for file in MEASURED]
    assert len(sizes) == 3
    assert min(sizes) >= 1000


@pytest.mark.parametrize("name", [*SHIPPED, *MEASURED])
def test_shipped_studies_run_at_their_corners(name: str) -> None:
    loaded = load_study(name)
    points = list(loaded.points())
    base = loaded.base
    outcomes = [run_one(base.changed(points[place].changes)) for place in (0, -1)]
    assert [outcome.status for outcome in outcomes] == ["ok", "ok"], outcomes
    fields = [json.loads(outcome.fields) for outcome in outcomes]
    assert fields[0] != fields[1]
    assert all(math.isfinite(item["step.time_s"]) for item in fields)
    assert loaded.study.description


def test_the_study_of_the_guide_runs(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "how-to" / "sweep.md").read_text(encoding="utf-8")
    file = tmp_path / "mine.yaml"
    file.write_text(page.split("```yaml\n")[1].split("```")[0])
    loaded = load_study(file)
    assert (loaded.name, loaded.size) == ("mine", 30)
    points = list(loaded.points())
    outcomes = [run_one(loaded.base.changed(points[place].changes)).status for place in (1, 11)]
    assert outcomes == ["ok", "ok"]
